import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { drawAt, mixtureAt, randomAt, sampleAt } from '../../src/data/order.js';

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

/** Pearson's statistic of observed counts against a uniform distribution. */
function chiSquare(counts: readonly number[]): number {
  const mean = counts.reduce((a, b) => a + b, 0) / counts.length;
  return counts.reduce((sum, count) => sum + (count - mean) ** 2 / mean, 0);
}

/** A bound that a fair source exceeds about once in 30,000 tries: mean + 4 standard deviations of χ². */
const bound = (cells: number) => cells - 1 + 4 * Math.sqrt(2 * (cells - 1));

function histogram(values: readonly number[], cells: number): number[] {
  const counts = range(cells).map(() => 0);
  for (const value of values) counts[value] = (counts[value] ?? 0) + 1;
  return counts;
}

describe('sampleAt', () => {
  it('draws every row exactly once in every epoch, for any seed and number of rows', () => {
    fc.assert(
      fc.property(
        fc.maxSafeInteger(),
        fc.integer({ min: 1, max: 700 }),
        fc.integer({ min: 0, max: 50 }),
        (seed, rows, epoch) => {
          const drawn = range(rows).map((i) => sampleAt(seed, epoch * rows + i, rows));
          expect(drawn.sort((a, b) => a - b)).toEqual(range(rows));
        },
      ),
      { numRuns: 150, seed: 1 },
    );
  });

  it('orders each epoch and each seed differently', () => {
    const order = (seed: number, epoch: number) =>
      range(641).map((i) => sampleAt(seed, epoch * 641 + i, 641));
    const same = (a: number[], b: number[]) => a.filter((v, i) => v === b[i]).length;
    // Two random permutations agree in 1 place on average, in 10 with probability 1e-7.
    expect(same(order(1, 0), order(1, 1))).toBeLessThan(10);
    expect(same(order(1, 0), order(2, 0))).toBeLessThan(10);
    expect(same(order(1, 0), range(641))).toBeLessThan(10);
  });

  it.each([2, 3, 7, 30, 91])(
    'puts each row at each place equally often over 40,000 epochs of %i rows',
    (rows) => {
      for (const place of [0, rows - 1]) {
        const counts = histogram(
          range(40_000).map((epoch) => sampleAt(5, epoch * rows + place, rows)),
          rows,
        );
        expect(chiSquare(counts)).toBeLessThan(bound(rows));
      }
    },
  );

  it('draws pairs of neighbours equally often: no row follows another by habit', () => {
    const rows = 12;
    const pairs = range(60_000).map(
      (epoch) => sampleAt(9, epoch * rows + 3, rows) * rows + sampleAt(9, epoch * rows + 4, rows),
    );
    const counts = histogram(pairs, rows * rows).filter((_, i) => Math.floor(i / rows) !== i % rows);
    expect(chiSquare(counts)).toBeLessThan(bound(counts.length));
  });

  it('spreads the first draws of a huge set evenly', () => {
    const rows = 5_120_000;
    const counts = histogram(
      range(20_000).map((i) => Math.floor((sampleAt(3, i, rows) / rows) * 64)),
      64,
    );
    expect(chiSquare(counts)).toBeLessThan(bound(64));
    expect(sampleAt(3, 2 ** 52 - 1, 2 ** 52)).toBeLessThan(2 ** 52);
  });

  it('is the same on every machine and release: these values never change', () => {
    expect(range(8).map((i) => sampleAt(0, i, 641))).toEqual([309, 158, 342, 127, 278, 262, 102, 382]);
    expect(range(12).map((i) => mixtureAt(7, i, [3, 2]))).toEqual([0, 1, 0, 1, 0, 1, 1, 0, 0, 0, 0, 0]);
    expect(randomAt(42, 17, 'flip')).toBe(0.5225263426796355);
  });

  it('refuses no rows and a negative position', () => {
    expect(() => sampleAt(0, 0, 0)).toThrow(/rows must be a whole number from 1 to 2\^52, got 0/);
    expect(() => sampleAt(0, -1, 5)).toThrow(/position must be a whole number from 0, got -1/);
  });
});

describe('drawAt', () => {
  it('draws from 115 : 14 in exactly that ratio, in every block', () => {
    const sources = range(129 * 20).map((i) => mixtureAt(1, i, [115, 14]));
    for (const block of range(20)) {
      expect(histogram(sources.slice(block * 129, (block + 1) * 129), 2)).toEqual([115, 14]);
    }
  });

  it.each([
    [[115, 14], 129],
    [[0.7, 0.2, 0.1], 4096],
    [[1, 0, 2], 3],
    [[1e-9, 1], 4096],
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

  it('keeps fractional weights to 1/4096', () => {
    const counts = histogram(
      range(4096).map((i) => mixtureAt(2, i, [0.7, 0.2, 0.1])),
      3,
    );
    expect(counts).toEqual([2867, 819, 410]);
  });

  it.each([[[]], [[0, 0]], [[-1, 2]], [[NaN]], [[Infinity, 1]]])('refuses the weights %j', (weights) => {
    expect(() => mixtureAt(0, 0, weights)).toThrow(/weights must be at least 0 and not all 0/);
  });
});

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
});
