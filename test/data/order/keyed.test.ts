import { describe, expect, it } from 'vitest';
import { randomAt } from '../../../src/data/order/keyed.js';
import { bound, chiSquare, histogram, range } from '../../helpers/statistics.js';

describe('randomAt', () => {
  it('is uniform over positions, seeds and purposes', () => {
    const streams = [
      range(50_000).map((i) => randomAt(1, i, 'flip')),
      range(50_000).map((i) => randomAt(i, 1, 'flip')),
      range(50_000).map((i) => randomAt(1, 1, `purpose ${i}`)),
      range(50_000).map((i) => randomAt(1, i * 2 ** 33, 'flip')),
    ];
    for (const values of streams) {
      expect(values.every((v) => v >= 0 && v < 1)).toBe(true);
      expect(
        chiSquare(
          histogram(
            values.map((v) => Math.floor(v * 100)),
            100,
          ),
        ),
      ).toBeLessThan(bound(100));
      expect(new Set(values).size).toBe(values.length);
    }
  });

  it('gives different purposes unrelated numbers', () => {
    const both = range(50_000).map(
      (i) => Math.floor(randomAt(1, i, 'a') * 10) * 10 + Math.floor(randomAt(1, i, 'b') * 10),
    );
    expect(chiSquare(histogram(both, 100))).toBeLessThan(bound(100));
  });

  it('is the same on every machine and release: this value never changes', () => {
    expect(randomAt(42, 17, 'flip')).toBe(0.5225263426796355);
  });
});
