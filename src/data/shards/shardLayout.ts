/** How many pairs go into a record batch and into a shard. */

import { UserError } from '../../errors.js';
import type { ImageTextPair } from '../pairs.js';

/** How rows are laid out in shards. */
export interface ShardLayout {
  /** Pairs of a shard at most. */
  readonly rowsPerShard?: number;
  /** A shard ends with the pair that brings its images and texts to so many bytes. */
  readonly bytesPerShard?: number;
  /** Rows of a record batch, the unit of reading; at most 256. */
  readonly rowsPerBatch?: number;
}

const MAX_BATCH_ROWS = 256; // design.md 5
const MAX_BATCH_BYTES = 64 * 2 ** 20; // large images make shorter batches, so that reading one row stays cheap
const DEFAULT_SHARD_ROWS = 4096;
const DEFAULT_SHARD_BYTES = 256e6; // what 4096 images of 60 kB have; a file that copies and resumes well

/**
 * Checks a layout before anything is read.
 *
 * @throws UserError if a limit is out of range
 */
export function checkLayout({
  rowsPerShard = 1,
  bytesPerShard = 1,
  rowsPerBatch = MAX_BATCH_ROWS,
}: ShardLayout): void {
  if (rowsPerBatch >= 1 && rowsPerBatch <= MAX_BATCH_ROWS && rowsPerShard >= 1 && bytesPerShard >= 1) return;
  throw new UserError(
    `writeShards: rowsPerBatch must be from 1 to ${MAX_BATCH_ROWS}, rowsPerShard and bytesPerShard at least 1, got ${rowsPerBatch}, ${rowsPerShard} and ${bytesPerShard}`,
  );
}

/** Pairs of one record batch; `endsShard` after the last batch of a file. */
export interface Group {
  readonly pairs: readonly ImageTextPair[];
  readonly endsShard: boolean;
}

/**
 * Divides pairs into record batches and shards. A batch is yielded before the first pair after it is asked for.
 */
export async function* groupPairs(
  pairs: AsyncIterable<ImageTextPair> | Iterable<ImageTextPair>,
  { rowsPerShard, bytesPerShard, rowsPerBatch = MAX_BATCH_ROWS }: ShardLayout,
): AsyncGenerator<Group> {
  const isOpen = rowsPerShard === undefined && bytesPerShard === undefined;
  const maxRows = rowsPerShard ?? (isOpen ? DEFAULT_SHARD_ROWS : Infinity);
  const maxBytes = bytesPerShard ?? (isOpen ? DEFAULT_SHARD_BYTES : Infinity);
  let group: ImageTextPair[] = [];
  let bytes = 0;
  let shard = { rows: 0, bytes: 0 };
  for await (const pair of pairs) {
    group.push(pair);
    bytes += pair.image.length;
    shard = { rows: shard.rows + 1, bytes: shard.bytes + sizeOf(pair) };
    const endsShard = shard.rows >= maxRows || shard.bytes >= maxBytes;
    if (group.length < rowsPerBatch && bytes < MAX_BATCH_BYTES && !endsShard) continue;
    yield { pairs: group, endsShard };
    group = [];
    bytes = 0;
    if (endsShard) shard = { rows: 0, bytes: 0 };
  }
  if (group.length > 0) yield { pairs: group, endsShard: true };
}

/** Bytes of a pair's image and texts. */
function sizeOf({ id, image, caption, source = '', extra }: ImageTextPair): number {
  const texts = [id, caption, source, ...Object.values(extra)];
  return texts.reduce((sum, text) => sum + Buffer.byteLength(text), image.length);
}
