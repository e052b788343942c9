import { describe, expect, it } from 'vitest';
import { bootstrap, contentTokens, imageGap, rotations } from '../../src/evaluate/imageGap.js';

const pair = (extra: Record<string, string>) => ({ id: 'x', image: new Uint8Array(), caption: '', extra });

describe('rotations', () => {
  it('show every item the image of another one, for any size of set', () => {
    for (const count of [2, 3, 4, 5, 91]) {
      for (const imageOf of rotations(count)) {
        const images = Array.from({ length: count }, (_, item) => imageOf(item));
        expect(images.some((image, item) => image === item)).toBe(false);
        expect(new Set(images).size).toBe(count);
      }
    }
  });
});

describe('imageGap', () => {
  const own = [Float32Array.of(1, 2), Float32Array.of(3)];
  const exchanged = [
    [Float32Array.of(2, 2), Float32Array.of(5)],
    [Float32Array.of(4, 2), Float32Array.of(3)],
  ];

  it('weighs every token alike: (1+2+3)/3 against the mean of (2+2+5)/3 and (4+2+3)/3', () => {
    const { loss, lossExchanged, gap, contentGap } = imageGap(own, exchanged);
    expect([loss, lossExchanged, gap]).toEqual([2, 3, 1]);
    expect(contentGap).toBeUndefined();
  });

  it('on content words takes the marked tokens only: items (1+3)/2 and none marked', () => {
    const { contentGap } = imageGap(own, exchanged, [[true, false], [false]]);
    expect(contentGap?.mean).toBe(2);
  });
});

describe('contentTokens', () => {
  it('marks whole words of the content column after the text begins, and no parts of words', () => {
    const pieces = [' t', 'iger', ':', ' a', ' tigers', ' in', ' orange', '.'];
    const marks = contentTokens(
      { pair: pair({ content: 'tiger,orange' }), caption: 'tiger: a tigers in orange.' },
      pieces,
    );
    expect(marks).toEqual([true, true, false, false, false, false, true, false]);
  });

  it('knows nothing without such columns', () => {
    expect(contentTokens({ pair: pair({}), caption: 'a' }, ['a'])).toBeUndefined();
  });
});

describe('bootstrap', () => {
  it('of equal values is the value itself; of spread ones brackets the mean by about two standard errors', () => {
    expect(bootstrap([3, 3, 3])).toEqual({ mean: 3, low: 3, high: 3 });
    const values = Array.from({ length: 100 }, (_, i) => i % 2); // mean 0.5, standard error 0.05
    const { mean, low, high } = bootstrap(values);
    expect(mean).toBe(0.5);
    expect(low).toBeGreaterThan(0.37);
    expect(low).toBeLessThan(0.43);
    expect(high).toBeGreaterThan(0.57);
    expect(high).toBeLessThan(0.63);
  });
});
