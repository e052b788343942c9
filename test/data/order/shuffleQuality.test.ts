import { describe, expect, it } from 'vitest';
import { shuffleQuality } from '../../../src/data/order/shuffleQuality.js';
import { range } from '../../helpers/statistics.js';

const SHARDS = range(16).map(() => 4096);
const SHUFFLE = { kind: 'shuffle', window: 1 } as const;
/** One window holds one row: the sequence of chunks of 256 rows as they lie. */
const CHUNKS = { kind: 'local', window: 1 } as const;
const LOCAL = { kind: 'local', window: 4096 } as const;

describe('shuffleQuality', () => {
  it('of a full shuffle is that of independent draws', () => {
    const { samples, neighbourEntropy, shardsPerBatch, drift } = shuffleQuality(SHUFFLE, 1, SHARDS, 64);
    expect(samples).toBe(65_536);
    expect(neighbourEntropy).toBeGreaterThan(3.99); // log2(16) = 4
    expect(neighbourEntropy).toBeLessThanOrEqual(4);
    expect(shardsPerBatch).toBeGreaterThan(15.6); // 16 · (1 − (15/16)^64) = 15.74
    expect(shardsPerBatch).toBeLessThan(15.9);
    expect(Math.abs(drift)).toBeLessThan(0.02); // standard deviation 1/256
  });

  it('of runs that are not mixed knows the next shard nearly always', () => {
    const { neighbourEntropy, shardsPerBatch } = shuffleQuality(CHUNKS, 1, SHARDS, 64);
    // A run of 256 rows ends with probability 1/256 and the next is of any of 16 shards:
    // H(1/256) + log2(16)/256 = 0.0369 + 0.0156, a little less where the same shard follows.
    expect(neighbourEntropy).toBeGreaterThan(0.04);
    expect(neighbourEntropy).toBeLessThan(0.053);
    expect(shardsPerBatch).toBe(1);
  });

  it('of order local lies between', () => {
    const { neighbourEntropy, shardsPerBatch } = shuffleQuality(LOCAL, 1, SHARDS, 64);
    // The sample before tells only that its shard is one of the window's 16 runs: of 16 windows each knows another 16 of 256
    expect(neighbourEntropy).toBeGreaterThan(3.85);
    expect(neighbourEntropy).toBeLessThan(3.96);
    expect(shardsPerBatch).toBeGreaterThan(8);
    expect(shardsPerBatch).toBeLessThan(13);
  });

  it('of one shard has no entropy, and drift tells a sorted set', () => {
    expect(shuffleQuality(SHUFFLE, 1, [500], 8)).toMatchObject({ neighbourEntropy: 0, shardsPerBatch: 1 });
    expect(shuffleQuality(CHUNKS, 1, [200], 8).drift).toBe(1); // a single run, read as it lies
  });

  it('handles shards of unequal rows', () => {
    const { shardsPerBatch } = shuffleQuality(SHUFFLE, 1, [1, 9999], 10);
    expect(shardsPerBatch).toBeCloseTo(1.001, 6); // the one row of the first shard is in one of 1000 batches
  });

  it('of thousands of shards is counted in groups of them, so that no order seems better than a shuffle', () => {
    const many = range(2000).map(() => 4096);
    const full = shuffleQuality(SHUFFLE, 1, many, 64);
    expect(full.groups).toBe(111); // 111² cells have 16 samples each
    expect(full.neighbourEntropy).toBeGreaterThan(0.99 * Math.log2(111));
    expect(full.neighbourEntropy).toBeLessThanOrEqual(Math.log2(111));
    expect(full.shardsPerBatch).toBeGreaterThan(62.5); // of 2000 shards, not of the groups
    // Each window of 65,536 rows is 256 runs: of the 111 groups two or three each, unequally many
    const { neighbourEntropy } = shuffleQuality({ kind: 'local', window: 65_536 }, 1, many, 64);
    expect(neighbourEntropy / full.neighbourEntropy).toBeLessThan(0.99);
    expect(neighbourEntropy / full.neighbourEntropy).toBeGreaterThan(0.95);
  });

  it('of few samples is counted in fewer groups', () => {
    const { groups, neighbourEntropy } = shuffleQuality(
      SHUFFLE,
      1,
      range(300).map(() => 4),
      8,
    );
    expect(groups).toBe(8); // √(1200 / 16)
    expect(neighbourEntropy).toBeGreaterThan(2.9);
    expect(
      shuffleQuality(
        SHUFFLE,
        1,
        range(16).map(() => 256),
        8,
      ).groups,
    ).toBe(16);
  });
});
