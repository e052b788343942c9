import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CHUNK_ROWS, rowAt, sampleAt } from '../../../src/data/order/order.js';
import { bound, chiSquare, histogram, range } from '../../helpers/statistics.js';

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
  });

  it('refuses no rows and a negative position', () => {
    expect(() => sampleAt(0, 0, 0)).toThrow(/rows must be a whole number from 1 to 2\^52, got 0/);
    expect(() => sampleAt(0, -1, 5)).toThrow(/position must be a whole number from 0, got -1/);
  });
});

const LOCAL = { kind: 'local', window: 4096 } as const;

describe('order local', () => {
  it('draws every row exactly once in every epoch, for any seed, number of rows and window', () => {
    fc.assert(
      fc.property(
        fc.maxSafeInteger(),
        fc.integer({ min: 1, max: 3000 }),
        fc.integer({ min: 1, max: 2000 }),
        fc.integer({ min: 0, max: 50 }),
        (seed, rows, window, epoch) => {
          const order = { kind: 'local', window } as const;
          const drawn = range(rows).map((i) => rowAt(order, seed, epoch * rows + i, rows));
          expect(drawn.sort((a, b) => a - b)).toEqual(range(rows));
        },
      ),
      { numRuns: 60, seed: 1 },
    );
  });

  it('reads at most 18 runs of 256 neighbouring rows, or parts of them, in a window of 4096', () => {
    const rows = 100_100; // the last chunk has 4 rows, so those after it lie across two windows
    for (let start = 0; start + 4096 <= rows; start += 4096) {
      const chunks = new Set(
        range(4096).map((i) => Math.floor(rowAt(LOCAL, 3, start + i, rows) / CHUNK_ROWS)),
      );
      expect(chunks.size).toBeLessThanOrEqual(18); // 16, one cut at each end, the short one
    }
  });

  it('mixes a window: neighbours in the order come from all of its runs', () => {
    const rows = 100_096;
    const chunks = range(4096).map((i) => Math.floor(rowAt(LOCAL, 3, i, rows) / CHUNK_ROWS));
    const numbers = [...new Set(chunks)];
    expect(numbers).toHaveLength(16);
    const pairs = chunks
      .slice(1)
      .map((chunk, i) => numbers.indexOf(chunk) * 16 + numbers.indexOf(chunks[i] ?? -1));
    expect(chiSquare(histogram(pairs, 256))).toBeLessThan(bound(256));
  });

  it('takes other runs, in another order, at each epoch and for each seed', () => {
    const rows = 100_096;
    const firstWindow = (seed: number, epoch: number) =>
      new Set(range(4096).map((i) => Math.floor(rowAt(LOCAL, seed, epoch * rows + i, rows) / CHUNK_ROWS)));
    const [a, b, c] = [firstWindow(1, 0), firstWindow(1, 1), firstWindow(2, 0)];
    const common = (x: Set<number>, y: Set<number>) => [...x].filter((chunk) => y.has(chunk)).length;
    expect(common(a, b)).toBeLessThan(6); // 16 of 391: 0.65 on average
    expect(common(a, c)).toBeLessThan(6);
  });

  it('puts the rows of the shorter last chunk at each place of the epoch', () => {
    const rows = 10 * CHUNK_ROWS + 5;
    const order = { kind: 'local', window: 1 } as const; // no mixing: the sequence of chunks itself
    const slots = range(6000).map((epoch) => {
      const at = range(11).find(
        (slot) => rowAt(order, 1, epoch * rows + slot * CHUNK_ROWS, rows) >= 10 * CHUNK_ROWS,
      );
      return at ?? 99;
    });
    expect(chiSquare(histogram(slots, 11))).toBeLessThan(bound(11));
  });

  it('is the same on every machine and release: these values never change', () => {
    const order = { kind: 'local', window: 300 } as const;
    expect(range(6).map((i) => rowAt(order, 7, 641 + i * 100, 641))).toEqual([85, 83, 0, 570, 411, 608]);
  });
});

describe('order replacement', () => {
  it('draws each row independently: as often as any other, some twice before others once', () => {
    const order = { kind: 'replacement', window: 1 } as const;
    const drawn = range(64_000).map((i) => rowAt(order, 5, i, 64));
    expect(chiSquare(histogram(drawn, 64))).toBeLessThan(bound(64));
    const pairs = drawn.slice(1).map((row, i) => row * 64 + (drawn[i] ?? 0));
    expect(chiSquare(histogram(pairs, 4096))).toBeLessThan(bound(4096));
    const distinct = new Set(range(1000).map((i) => rowAt(order, 5, i, 1000))).size;
    expect(distinct).toBeGreaterThan(590); // 1000 · (1 − 1/e) = 632, standard deviation 10
    expect(distinct).toBeLessThan(674);
  });
});
