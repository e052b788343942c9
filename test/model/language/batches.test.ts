import { describe, expect, it } from 'vitest';
import { batchesOfOneKey } from '../../../src/model/language/batches.js';

describe('batchesOfOneKey', () => {
  it('puts items of one key together, in order, so many at most, and remembers their places', () => {
    const words = ['ab', 'c', 'de', 'fg', 'h', 'ij'];
    const batches = batchesOfOneKey(words, ({ length }) => length, 3);
    expect(batches.map((batch) => batch.map(({ item }) => item))).toEqual([
      ['ab', 'de', 'fg'],
      ['ij'],
      ['c', 'h'],
    ]);
    expect(batches.flat().every(({ item, index }) => words[index] === item)).toBe(true);
    expect(batchesOfOneKey([], String, 3)).toEqual([]);
  });
});
