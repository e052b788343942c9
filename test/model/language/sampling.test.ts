import { describe, expect, it } from 'vitest';
import { candidates, draw, filterTokens, nextToken } from '../../../src/model/language/sampling.js';

describe('nextToken', () => {
  const logits = Float32Array.of(1, 3, 2, -1);
  it('without a temperature is the likeliest token, and leaves the logits alone', () => {
    expect(nextToken(logits, [], {}, () => 0)).toBe(1);
    expect([...logits]).toEqual([1, 3, 2, -1]);
  });
  it('divides a positive logit by the repetition penalty and multiplies a negative one', () => {
    expect(nextToken(logits, [1], { repetitionPenalty: 2 }, () => 0)).toBe(2); // 3 / 2 < 2
    expect(nextToken(Float32Array.of(-1, -1.5), [0], { repetitionPenalty: 2 }, () => 0)).toBe(1); // -1 · 2 < -1.5
  });
  it('draws in proportion: p(token 1) of two equal ones is a half', () => {
    const equal = Float32Array.of(0, 0, -100);
    expect(nextToken(equal, [], { temperature: 1 }, () => 0.49)).toBe(0);
    expect(nextToken(equal, [], { temperature: 1 }, () => 0.51)).toBe(1);
  });
});

describe('candidates', () => {
  it('come out of the penalty first, then the temperature, then top-k and top-p', () => {
    const logits = Float32Array.of(4, 2, 1, 0);
    // 4 / 2 = 2, over temperature 2: 1, 1, 0.5, 0
    const left = candidates(logits, [0], { repetitionPenalty: 2, temperature: 2, topK: 3, topP: 0.6 });
    expect(left.map(({ id }) => id)).toEqual([0, 1]);
    expect(left.map(({ probability }) => probability)).toEqual([0.5, 0.5]);
  });

  it.each([0, -1, NaN])('refuses the temperature %d', (temperature) => {
    expect(() => candidates(Float32Array.of(1), [], { temperature })).toThrow(
      `sampling: temperature must be above 0, got ${temperature}`,
    );
  });
});

describe('draw', () => {
  it('gives the last one what rounding leaves over, and refuses none', () => {
    expect(
      draw(
        [
          { id: 7, probability: 0.5 },
          { id: 9, probability: 0.4 },
        ],
        () => 0.95,
      ),
    ).toBe(9);
    expect(() => draw([], () => 0)).toThrow('sampling: there must be a candidate to draw, got none');
  });
});

describe('filterTokens', () => {
  const scores = Float32Array.from([0.5, 0.3, 0.15, 0.05].map(Math.log));
  it('top-k keeps the k likeliest and makes them sum to 1', () => {
    const kept = filterTokens(scores, 2, 1);
    expect(kept.map(({ id }) => id)).toEqual([0, 1]);
    expect(kept[0]?.probability).toBeCloseTo(0.625);
  });
  it('top-p drops the tail whose mass is at most 1 - p', () => {
    expect(filterTokens(scores, 0, 0.9).map(({ id }) => id)).toEqual([0, 1, 2]); // tail 0.05 ≤ 0.1, with 0.15 0.2 > 0.1
    expect(filterTokens(scores, 0, 0.79).map(({ id }) => id)).toEqual([0, 1]); // 0.2 ≤ 0.21
    expect(filterTokens(scores, 0, 0).map(({ id }) => id)).toEqual([0]); // the likeliest always stays
    expect(filterTokens(scores, 1, 0, 2).map(({ id }) => id)).toEqual([0, 1]); // or more, where beams are drawn
  });
});
