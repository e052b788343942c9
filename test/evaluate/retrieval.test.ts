import { describe, expect, it } from 'vitest';
import { chance, rank } from '../../src/evaluate/retrieval.js';

// Text 0 is likely under every image; by raw likelihood it wins everywhere.
const table = [Float32Array.of(-1, -5, -5), Float32Array.of(-2, -4, -5), Float32Array.of(-2, -5, -4.5)];
const blank = Float32Array.of(-1.5, -5, -5);
const groups = ['a', 'b', 'b'];
const lengths = [1, 1, 1];

describe('rank', () => {
  it('by likelihood alone lets the common text win', () => {
    const { best, ranks, recallAt, groupAccuracy } = rank(table, 'none', blank, lengths, groups);
    expect(best).toEqual([0, 0, 0]);
    expect(ranks).toEqual([1, 2, 2]);
    expect(recallAt[1]).toBeCloseTo(1 / 3);
    expect(groupAccuracy).toBeCloseTo(1 / 3);
  });

  it('by likelihood is per token, so that a short text has no start', () => {
    expect(rank([Float32Array.of(-2, -3), Float32Array.of(-2, -3)], 'none', blank, [1, 3]).best).toEqual([
      1, 1,
    ]);
  });

  it('PMI and centring take out what a text is worth without its image', () => {
    for (const correction of ['pmi', 'centred'] as const) {
      expect(rank(table, correction, blank, lengths, groups)).toMatchObject({
        best: [0, 1, 2],
        ranks: [1, 1, 1],
        groupAccuracy: 1,
      });
    }
  });

  it('counts ties against the image, so that a model that ignores images scores nothing', () => {
    const blind = [0, 1, 2].map(() => Float32Array.of(-1, -1, -1));
    expect(rank(blind, 'centred', blank, lengths).ranks).toEqual([3, 3, 3]);
  });
});

describe('chance', () => {
  it('is k of n, and the squared shares of the groups', () => {
    expect(chance(91).recallAt[5]).toBeCloseTo(5 / 91);
    expect(chance(3, groups).groupAccuracy).toBeCloseTo((1 / 3) ** 2 + (2 / 3) ** 2);
  });
});
