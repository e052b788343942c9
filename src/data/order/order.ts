/** The order in which the rows of a set come, as pure functions of (seed, position). */
import { checkPosition, keyOf, permute, randomAt } from './keyed.js';

/** How rows are ordered, as `data.order` and `data.window` say. */
export interface Order {
  /** `shuffle`: a new permutation each epoch; `local`: one that keeps neighbours together; `replacement`: independent draws. */
  readonly kind: 'shuffle' | 'local' | 'replacement';
  /** With `local`: rows that are mixed with each other. */
  readonly window: number;
}

/** Rows that `local` keeps together: those of a record batch as shards are packed, read from disk or network in one run. */
export const CHUNK_ROWS = 256;

/**
 * The row that sample `position` of a set reads.
 *
 * @param position samples drawn from the set before this one, from 0
 * @param rows rows of the set, 1 to 2^52
 */
export function rowAt(order: Order, seed: number, position: number, rows: number): number {
  switch (order.kind) {
    case 'shuffle':
      return sampleAt(seed, position, rows);
    case 'local':
      return localRow(seed, position, rows, order.window);
    case 'replacement':
      check(position, rows);
      return Math.floor(randomAt(seed, position, 'replacement') * rows);
  }
}

/**
 * The row that sample `position` reads in a full shuffle: a new keyed permutation of the rows each epoch.
 *
 * @param position samples drawn before this one, from 0; epoch = floor(position / rows)
 * @param rows rows of the data set, 1 to 2^52
 */
export function sampleAt(seed: number, position: number, rows: number): number {
  check(position, rows);
  return permute(keyOf(seed, Math.floor(position / rows), 'order'), position % rows, rows);
}

/** Chunks of neighbouring rows in a new order each epoch; then, within each window of that sequence, rows in a new order. */
function localRow(seed: number, position: number, rows: number, window: number): number {
  check(position, rows);
  if (!Number.isInteger(window) || window < 1)
    throw new RangeError(`rowAt: window must be a whole number from 1, got ${window}`);
  const epoch = Math.floor(position / rows);
  const index = position % rows;
  const start = index - (index % window);
  const size = Math.min(window, rows - start);
  const place = start + permute(keyOf(seed, epoch * rows + start, 'window'), index - start, size);
  return chunkedRow(seed, epoch, place, rows);
}

/** Row `place` of the sequence of chunks; the last chunk, which may be shorter, stands among the others as they do. */
function chunkedRow(seed: number, epoch: number, place: number, rows: number): number {
  const chunks = Math.floor(rows / CHUNK_ROWS);
  const tail = rows % CHUNK_ROWS;
  const tailStart = CHUNK_ROWS * Math.floor(randomAt(seed, epoch, 'tail') * (chunks + 1));
  if (place >= tailStart && place < tailStart + tail) return chunks * CHUNK_ROWS + place - tailStart;
  const inFull = place < tailStart ? place : place - tail;
  const chunk = permute(keyOf(seed, epoch, 'chunks'), Math.floor(inFull / CHUNK_ROWS), chunks);
  return chunk * CHUNK_ROWS + (inFull % CHUNK_ROWS);
}

function check(position: number, rows: number): void {
  checkPosition('sampleAt', position);
  if (!Number.isInteger(rows) || rows < 1 || rows > 2 ** 52)
    throw new RangeError(`sampleAt: rows must be a whole number from 1 to 2^52, got ${rows}`);
}
