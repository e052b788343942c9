import { describe, expect, it } from 'vitest';
import { drawAt, realisedMixture } from '../../../src/data/order/mixture.js';
import { histogram, range } from '../../helpers/statistics.js';

describe('drawAt', () => {
  it('draws from 115 : 14 in exactly that ratio, in every block', () => {
    const sources = range(129 * 20).map((i) => drawAt(1, i, [115, 14]).source);
    for (const block of range(20)) {
      expect(histogram(sources.slice(block * 129, (block + 1) * 129), 2)).toEqual([115, 14]);
    }
  });

  it.each([
    [[115, 14], 129],
    [[0.7, 0.2, 0.1], 4096],
    [[1, 0, 2], 3],
    [[1, 4999], 4096],
    [[3], 1],
  ])(
    'numbers the draws of each source 0, 1, 2, … without a gap or a repeat, for weights %j',
    (weights, block) => {
      const draws = range(block * 5).map((i) => drawAt(8, i, weights));
      for (const source of weights.keys()) {
        const indices = draws.filter((draw) => draw.source === source).map(({ index }) => index);
        expect(indices.sort((a, b) => a - b)).toEqual(range(indices.length));
        expect(indices.length > 0).toBe((weights[source] ?? 0) > 0);
      }
    },
  );

  it('keeps fractional weights within half a draw after each block', () => {
    const counts = histogram(
      range(4096).map((i) => drawAt(2, i, [0.7, 0.2, 0.1]).source),
      3,
    );
    expect(counts).toEqual([2867, 819, 410]);
  });

  it('gives a small share what it asks for, not one draw a block', () => {
    const drawn = range(20 * 4096).flatMap((i) => {
      const { source, index } = drawAt(2, i, [5e6, 300]);
      return source === 1 ? [index] : [];
    });
    expect(drawn).toEqual([0, 1, 2, 3, 4]); // 20 · 4096 · 300 / 5,000,300 = 4.91; before: 20
  });

  it('keeps neighbouring draws of a source near each other, so that its order `local` and its epochs hold', () => {
    const indices = range(8192).map((i) => drawAt(2, 1e9 + i, [5e6, 300]));
    const large = indices.flatMap(({ source, index }) => (source === 0 ? [index] : []));
    expect(Math.max(...large) - Math.min(...large)).toBeLessThan(3 * 4096);
  });

  it.each([[[]], [[0, 0]], [[-1, 2]], [[NaN]], [[Infinity, 1]]])('refuses the weights %j', (weights) => {
    expect(() => drawAt(0, 0, weights)).toThrow(/weights must be at least 0 and not all 0/);
  });

  it('is the same on every machine and release: these values never change', () => {
    expect(range(12).map((i) => drawAt(7, i, [3, 2]).source)).toEqual([0, 1, 0, 1, 0, 1, 1, 0, 0, 0, 0, 0]);
  });
});

describe('realisedMixture', () => {
  it.each([[[115, 14]], [[0.7, 0.2, 0.1]], [[1, 0, 2]], [[5e6, 300]], [[0.3, 0.3, 0.4 / 7]], [[3]]])(
    'counts the draws of each source, for weights %j',
    (weights) => {
      const sources = range(9000).map((i) => drawAt(4, i, weights).source);
      for (const draws of [0, 1, 128, 129, 130, 4095, 4096, 4097, 8999])
        expect(realisedMixture(4, draws, weights)).toEqual(
          histogram(sources.slice(0, draws), weights.length),
        );
    },
  );

  it('tells of billions of draws at once what the weights ask for', () => {
    const draws = 2_000_000_000;
    const [large = 0, small = 0] = realisedMixture(4, draws, [5e6, 300]);
    expect(large + small).toBe(draws);
    expect(Math.abs(small - (draws * 300) / 5_000_300)).toBeLessThan(1.5);
  });
});
