/** How well an order of rows mixes the shards of a set: measured, beside a full shuffle of the same rows. */
import { rowAt, type Order } from './order.js';

/** What is measured of an order's first samples. */
export interface ShuffleQuality {
  /** Samples looked at: of the first epoch, at most `MOST_SAMPLES`. */
  readonly samples: number;
  /**
   * Entropy of a sample's shard when that of the sample before is known, in bits: 0 where shards are read one after the
   * other, log2(shards) at most. Estimated from pairs, and so too low for few samples; compare with the full shuffle's.
   */
  readonly neighbourEntropy: number;
  /** Mean number of shards that a batch's samples come from. */
  readonly shardsPerBatch: number;
  /** Rank correlation of a sample's place in the epoch and its row: 1 where rows are read as they lie, 0 mixed. */
  readonly drift: number;
}

/** Samples that are looked at. */
const MOST_SAMPLES = 200_000;

/**
 * Measures the first epoch of an order.
 *
 * @param shardRows rows of each shard, in the order of rows
 * @param batchSize samples of a batch
 */
export function shuffleQuality(
  order: Order,
  seed: number,
  shardRows: readonly number[],
  batchSize: number,
): ShuffleQuality {
  const rows = shardRows.reduce((sum, count) => sum + count, 0);
  const samples = Math.min(rows, MOST_SAMPLES);
  const drawn = Float64Array.from({ length: samples }, (_, i) => rowAt(order, seed, i, rows));
  const shards = shardsOf(drawn, shardRows);
  return {
    samples,
    neighbourEntropy: conditionalEntropy(shards, shardRows.length),
    shardsPerBatch: meanDistinct(shards, batchSize),
    drift: correlationWithPlace(drawn),
  };
}

/** The shard of each row. */
function shardsOf(rows: Float64Array, shardRows: readonly number[]): Int32Array {
  const ends: number[] = [];
  for (const count of shardRows) ends.push((ends.at(-1) ?? 0) + count);
  return Int32Array.from(rows, (row) => firstAbove(ends, row));
}

function firstAbove(sorted: readonly number[], value: number): number {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((sorted[middle] ?? Infinity) > value) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** H(next | previous) = H(previous, next) − H(previous), in bits. */
function conditionalEntropy(shards: Int32Array, count: number): number {
  const pairs = new Map<number, number>();
  const firsts = new Map<number, number>();
  for (let i = 1; i < shards.length; i++) {
    const before = shards[i - 1] ?? 0;
    const pair = before * count + (shards[i] ?? 0);
    pairs.set(pair, (pairs.get(pair) ?? 0) + 1);
    firsts.set(before, (firsts.get(before) ?? 0) + 1);
  }
  return Math.max(0, entropy(pairs) - entropy(firsts)); // rounding may leave -1e-16
}

function entropy(counts: ReadonlyMap<number, number>): number {
  let total = 0;
  for (const count of counts.values()) total += count;
  let bits = 0;
  for (const count of counts.values()) bits -= (count / total) * Math.log2(count / total);
  return bits;
}

function meanDistinct(shards: Int32Array, batchSize: number): number {
  const batches = Math.max(1, Math.floor(shards.length / batchSize));
  let sum = 0;
  for (let batch = 0; batch < batches; batch++)
    sum += new Set(shards.subarray(batch * batchSize, (batch + 1) * batchSize)).size;
  return sum / batches;
}

/** Spearman's correlation of the rows with 0, 1, 2, …; rows may repeat. */
function correlationWithPlace(rows: Float64Array): number {
  const places = [...rows.keys()].sort((a, b) => (rows[a] ?? 0) - (rows[b] ?? 0));
  const n = rows.length;
  const mean = (n - 1) / 2;
  let covariance = 0;
  for (const [rank, place] of places.entries()) covariance += (rank - mean) * (place - mean);
  const variance = (n * (n * n - 1)) / 12;
  return variance === 0 ? 0 : covariance / variance;
}
