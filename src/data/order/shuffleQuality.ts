/** How well an order of rows mixes the shards of a set: measured, beside a full shuffle of the same rows. */
import { partOfRow } from '../partOfRow.js';
import { rowAt, type Order } from './order.js';

/** What is measured of an order's first samples. */
export interface ShuffleQuality {
  /** Samples looked at: of the first epoch, at most `MOST_SAMPLES`. */
  readonly samples: number;
  /** Groups of neighbouring shards that `neighbourEntropy` tells apart: the shards themselves, where they are few. */
  readonly groups: number;
  /**
   * Entropy of a sample's group when that of the sample before is known, in bits: 0 where shards are read one after the
   * other, log2(groups) at most. Estimated from pairs, and so up to 0.045 bits too low; compare with the full shuffle's.
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
 * Samples for each pair of groups. With too few, pairs that never came count as impossible and an order seems the less
 * mixed the more it mixes; with 16 this bias is 1 / (2 · 16 · ln 2) = 0.045 bits.
 */
const SAMPLES_A_PAIR = 16;

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
  const groups = Math.min(shardRows.length, Math.max(1, Math.floor(Math.sqrt(samples / SAMPLES_A_PAIR))));
  const grouped = shards.map((shard) => Math.floor((shard * groups) / shardRows.length));
  return {
    samples,
    groups,
    neighbourEntropy: conditionalEntropy(grouped, groups),
    shardsPerBatch: meanDistinct(shards, batchSize),
    drift: correlationWithPlace(drawn),
  };
}

/** The shard of each row. */
function shardsOf(rows: Float64Array, shardRows: readonly number[]): Int32Array {
  const firstRows: number[] = [];
  let next = 0;
  for (const count of shardRows) {
    firstRows.push(next);
    next += count;
  }
  return Int32Array.from(rows, (row) =>
    partOfRow((shard) => firstRows[shard] ?? Infinity, firstRows.length, row),
  );
}

/** H(next | previous) = H(previous, next) − H(previous), in bits. */
function conditionalEntropy(groups: Int32Array, count: number): number {
  const pairs = new Float64Array(count * count);
  const firsts = new Float64Array(count);
  for (let i = 1; i < groups.length; i++) {
    const before = groups[i - 1] ?? 0;
    const pair = before * count + (groups[i] ?? 0);
    pairs[pair] = (pairs[pair] ?? 0) + 1;
    firsts[before] = (firsts[before] ?? 0) + 1;
  }
  return Math.max(0, entropy(pairs) - entropy(firsts)); // rounding may leave -1e-16
}

function entropy(counts: Float64Array): number {
  const total = counts.reduce((sum, count) => sum + count, 0);
  return counts.reduce((bits, n) => (n === 0 ? bits : bits - (n / total) * Math.log2(n / total)), 0);
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
