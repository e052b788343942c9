/**
 * Reading shards: any row of a set of Arrow files by its number, never a whole file. Files lie on disk or behind http(s),
 * and are opened for each read, so a set of thousands of shards holds no descriptors.
 */

import { batchOf, readBatch } from '../arrow/arrowBatch.js';
import { indexArrow, type ArrowIndex } from '../arrow/arrowFile.js';
import { findColumns } from '../arrow/columns.js';
import type { DictionarySource } from '../arrow/dictionaries.js';
import { BatchCache } from './batchCache.js';
import { fault } from '../bytes/fileBytes.js';
import { hashFile } from '../bytes/hashFile.js';
import type { ManifestShard } from './manifest.js';
import type { ImageTextPair } from '../pairs.js';
import { partOfRow } from '../partOfRow.js';
import type { RemoteOptions } from '../bytes/remoteRequest.js';
import { findShards, foundSet, type FoundShard, type FoundSet } from './shardFiles.js';
import type { ByteFile } from '../bytes/byteFile.js';

/** Where a row of the set is: the shard's file name and the row within it. */
export interface ShardRow {
  readonly shard: string;
  readonly row: number;
}

/** What a set's first shard says of all of them. */
export interface ShardFormat {
  readonly format: 'file' | 'stream';
  /** Every column with its Arrow type, such as `Binary`. */
  readonly columns: readonly (readonly [name: string, type: string])[];
}

/** How `verify` is watched. */
export interface VerifyOptions {
  /** Called now and then with the bytes read so far, of all. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

/** One shard of a set; its index is read when a row of it is first wanted. */
interface Shard extends Omit<FoundShard, 'index'> {
  readonly firstRow: number;
  index: Promise<ArrowIndex> | undefined;
}

/** A folder of shards, or one file, as an array of pairs on disk or behind http(s). */
export class ShardSet {
  private readonly cache = new BatchCache();

  private constructor(
    private readonly shards: readonly Shard[],
    /** Names of the further text columns, as in the first shard. */
    readonly extraColumns: readonly string[],
    /** Hash that changes with the data: over the manifest, or over names, sizes and rows where there is none. */
    readonly fingerprint: string,
    /** Origin and licence of the data, if its manifest says so. */
    readonly about: string | undefined,
  ) {}

  /**
   * Opens a folder with `manifest.json`, a folder of `.arrow` files, one `.arrow` file, or an http(s) address of a folder
   * with a manifest or of one `.arrow` file.
   *
   * @param options how to deal with a server, for addresses
   * @throws UserError naming file, fault and remedy: nothing there, a shard missing or of another size than the manifest
   *   says, not Arrow, cut short, without rows, without the columns of a pair
   */
  static async open(place: string, options: RemoteOptions = {}): Promise<ShardSet> {
    return ShardSet.fromFound(await findShards(place, options));
  }

  /**
   * Opens shards that lie elsewhere, in this order.
   *
   * @throws UserError as `open` does
   */
  static async ofFiles(files: readonly ByteFile[]): Promise<ShardSet> {
    return ShardSet.fromFound(await foundSet(files));
  }

  private static async fromFound({ shards, fingerprint, about }: FoundSet): Promise<ShardSet> {
    let firstRow = 0;
    const numbered = shards.map((shard): Shard => {
      const { index } = shard;
      const one = { ...shard, firstRow, index: index && Promise.resolve(index) };
      firstRow += shard.rows;
      return one;
    });
    const [first] = numbered;
    if (first === undefined) throw new Error('shards: a set must have a shard');
    const { extra } = findColumns((await indexOf(first)).schema, first.file.name);
    return new ShardSet(numbered, extra, fingerprint, about);
  }

  /** Rows of all shards. */
  get rows(): number {
    const last = this.shards.at(-1);
    return last === undefined ? 0 : last.firstRow + last.rows;
  }

  /** Rows of each shard, in row order. */
  get shardRows(): readonly number[] {
    return this.shards.map(({ rows }) => rows);
  }

  /** The shard files in row order; addresses without their secrets. */
  get paths(): readonly string[] {
    return this.shards.map((shard) => shard.file.name);
  }

  /** True if a manifest says what the bytes of each shard hash to. */
  get hasChecksums(): boolean {
    return this.shards.every(({ listed }) => listed !== undefined);
  }

  /** What the first shard is, and its columns. */
  async format(): Promise<ShardFormat> {
    const [first] = this.shards;
    if (first === undefined) throw new Error('shards: a set must have a shard');
    const { format, schema } = await indexOf(first);
    return { format, columns: schema.fields.map(({ name, type }) => [name, String(type)]) };
  }

  /**
   * Reads one pair; its bytes are the caller's.
   *
   * @param row 0 ≤ row < rows
   */
  async read(row: number): Promise<ImageTextPair> {
    const shard = shardOf(this.shards, row);
    const index = await indexOf(shard);
    const { batch, rowInBatch } = batchOf(index, row - shard.firstRow);
    const rows = await this.cache.batch(index, batch);
    return rows.read(rowInBatch, String(row));
  }

  /** The file and the row within it of a row of the set. */
  location(row: number): ShardRow {
    const shard = shardOf(this.shards, row);
    return { shard: shard.file.baseName, row: row - shard.firstRow };
  }

  /**
   * Reads every byte and compares SHA-256 with the manifest; without a manifest, reads every batch.
   *
   * @throws UserError naming the first shard that differs
   */
  async verify({ onProgress }: VerifyOptions = {}): Promise<void> {
    const sizes = await Promise.all(
      this.shards.map(async (shard) => shard.listed?.bytes ?? (await indexOf(shard)).sizeBytes),
    );
    const total = sizes.reduce((sum, size) => sum + size, 0);
    let done = 0;
    const count = (bytes: number) => onProgress?.((done += bytes), total);
    for (const shard of this.shards) {
      if (shard.listed === undefined) await readAll(await indexOf(shard), this.cache.dictionaries, count);
      else await checkHash(shard.file, shard.listed, count);
    }
  }

  /** Drops what is cached. Nothing else is held, so a set that is dropped unclosed leaks nothing. */
  close(): void {
    this.cache.clear();
  }
}

function indexOf(shard: Shard): Promise<ArrowIndex> {
  shard.index ??= indexListed(shard).catch((cause: unknown) => {
    shard.index = undefined;
    throw cause;
  });
  return shard.index;
}

async function indexListed({ file, rows }: Shard): Promise<ArrowIndex> {
  const index = await indexArrow(file);
  if (index.rows === rows) return index;
  throw fault(file.name, `the manifest says ${rows} rows, got ${index.rows}`, 'pack the data again');
}

/** The last shard that begins at or before `row`. */
function shardOf(shards: readonly Shard[], row: number): Shard {
  const shard = shards[partOfRow((at) => shards[at]?.firstRow ?? Infinity, shards.length, row)];
  if (shard === undefined || !Number.isInteger(row) || row < 0 || row >= shard.firstRow + shard.rows) {
    throw new RangeError(`shards: row must be a whole number from 0 to below the set's rows, got ${row}`);
  }
  return shard;
}

async function readAll(
  index: ArrowIndex,
  dictionaries: DictionarySource,
  count: (bytes: number) => void,
): Promise<void> {
  let before = 0;
  for (const [batch, { offset, metadataBytes, bodyBytes }] of index.batches.entries()) {
    await readBatch(index, batch, dictionaries);
    count(offset + metadataBytes + bodyBytes - before);
    before = offset + metadataBytes + bodyBytes;
  }
  count(index.sizeBytes - before);
}

async function checkHash(
  file: ByteFile,
  { bytes, sha256: expected }: ManifestShard,
  count: (bytes: number) => void,
): Promise<void> {
  const sha256 = await hashFile(file, bytes, count);
  if (sha256 === expected) return;
  throw fault(
    file.name,
    `the bytes are not those that were packed, SHA-256 must be ${expected}, got ${sha256}`,
    'copy it again or pack again',
  );
}
