import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { inOrder } from '../../../src/data/packing/inOrder.js';

/** Numbers from 0, counted as they are taken. */
async function* numbers(count: number, taken: { at: number; closed?: boolean } = { at: 0 }) {
  try {
    for (let i = 0; i < count; i++) {
      taken.at = i;
      await Promise.resolve();
      yield i;
    }
  } finally {
    taken.closed = true;
  }
}

const ticks = async (count: number) => {
  for (let i = 0; i < count; i++) await Promise.resolve();
};

describe('inOrder', () => {
  it('gives the results in the order of the items, whatever each takes, with never more than `workers` at work', async () => {
    const cases = fc.asyncProperty(
      fc.array(fc.nat(20), { maxLength: 40 }),
      fc.integer({ min: 1, max: 5 }),
      async (waits, workers) => {
        let [working, most] = [0, 0];
        const work = async (i: number) => {
          most = Math.max(most, (working += 1));
          await ticks(waits[i] ?? 0);
          working -= 1;
          return i * 10;
        };
        const results: number[] = [];
        for await (const result of inOrder(numbers(waits.length), work, workers)) results.push(result);
        expect(results).toEqual(waits.map((_, i) => i * 10));
        expect(most).toBeLessThanOrEqual(workers);
        if (waits.length >= workers && waits.every((wait) => wait > 10)) expect(most).toBe(workers);
      },
    );
    await fc.assert(cases, { numRuns: 100 });
  });

  it('takes at most two items ahead for each worker', async () => {
    const taken = { at: 0 };
    for await (const i of inOrder(numbers(50, taken), (n) => Promise.resolve(n), 3))
      expect(taken.at - i).toBeLessThanOrEqual(6);
  });

  it('throws in the item’s turn, and closes the items; a reader that stops early closes them too', async () => {
    for (const stop of ['work', 'items', 'reader']) {
      const taken: { at: number; closed?: boolean } = { at: 0 };
      async function* items() {
        yield* numbers(5, taken);
        if (stop === 'items') throw new Error('items');
        yield* numbers(5, taken);
      }
      const work = (i: number) => (stop === 'work' && i === 4 ? Promise.reject(new Error('work')) : Promise.resolve(i)); // prettier-ignore
      const seen: number[] = [];
      const read = async () => {
        for await (const i of inOrder(items(), work, 2)) {
          seen.push(i);
          if (stop === 'reader' && i === 2) break;
        }
      };
      if (stop === 'reader') await read();
      else await expect(read()).rejects.toThrow(stop);
      expect(seen).toEqual({ work: [0, 1, 2, 3], items: [0, 1, 2, 3, 4], reader: [0, 1, 2] }[stop]);
      expect(taken.closed).toBe(true);
    }
  });
});
