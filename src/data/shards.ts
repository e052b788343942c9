/**
 * Reading shards: any row of a set of Arrow files by its number, a record batch at a time and never a whole file.
 * Files are opened for each batch read, so a set of thousands of shards holds no descriptors.
 */

import { createHash } from 'node:crypto';
import { readdir, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { UserError } from '../errors.js';
import { indexArrow, readBatch, type ArrowIndex } from './arrowFile.js';
import { findColumns, rowReader, type RowReader } from './columns.js';
import { decodeOrFault, fault, reasonOf, withHandle } from './fileBytes.js';
import { manifestFingerprint, readManifest, type ManifestShard, type ShardManifest } from './manifest.js';
import type { ImageTextPair } from './pairs.js';
import { Recent } from './recent.js';

/** Where a row of the set is: the shard's file name and the row within it. */
export interface ShardRow {
  readonly shard: string;
  readonly row: number;
}

/** One shard of a set; its index is read when a row of it is first wanted. */
interface Shard {
  readonly path: string;
  readonly firstRow: number;
  readonly rows: number;
  readonly listed: ManifestShard | undefined;
  index: Promise<ArrowIndex> | undefined;
}

const CACHED_BYTES = 128 * 2 ** 20; // batches kept; one batch of 256 JPEGs is about 5 MB

/** A folder of shards, or one file, as an array of pairs on disk. */
export class ShardSet {
  private readonly batches = new Recent<Promise<RowReader>>(CACHED_BYTES);

  private constructor(
    private readonly shards: readonly Shard[],
    /** Names of the further text columns, as in the first shard. */
    readonly extraColumns: readonly string[],
    /** Hash that changes with the data: over the manifest, or over names, sizes and rows where there is none. */
    readonly fingerprint: string,
  ) {}

  /**
   * Opens a folder with `manifest.json`, a folder of `.arrow` files, or one `.arrow` file.
   *
   * @throws UserError naming file, fault and remedy: nothing there, a shard missing or of another size than the manifest
   *   says, not Arrow, cut short, without rows, without the columns of a pair
   */
  static async open(pathOrFolder: string): Promise<ShardSet> {
    const found = await statOrFault(pathOrFolder);
    const manifest = found.isDirectory() ? await readManifest(pathOrFolder) : null;
    if (manifest !== null) return openListed(pathOrFolder, manifest, (...parts) => new ShardSet(...parts));
    const paths = found.isDirectory() ? await arrowFilesOf(pathOrFolder) : [pathOrFolder];
    return openFound(paths, (...parts) => new ShardSet(...parts));
  }

  /** Rows of all shards. */
  get rows(): number {
    return this.shards.reduce((sum, shard) => sum + shard.rows, 0);
  }

  /** The shard files in row order. */
  get paths(): readonly string[] {
    return this.shards.map((shard) => shard.path);
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
    const readRow = await this.batch(index, batch);
    return decodeOrFault(index.path, () => readRow(rowInBatch, String(row)));
  }

  /** The file and the row within it of a row of the set. */
  location(row: number): ShardRow {
    const shard = shardOf(this.shards, row);
    return { shard: basename(shard.path), row: row - shard.firstRow };
  }

  /**
   * Reads every byte and compares SHA-256 with the manifest; without a manifest, reads every batch.
   *
   * @throws UserError naming the first shard that differs
   */
  async verify(): Promise<void> {
    for (const shard of this.shards) {
      if (shard.listed === undefined) await readAll(await indexOf(shard));
      else await checkHash(shard.path, shard.listed);
    }
  }

  /** Drops what is cached. Nothing else is held, so a set that is dropped unclosed leaks nothing. */
  close(): void {
    this.batches.clear();
  }

  private batch(index: ArrowIndex, batch: number): Promise<RowReader> {
    const key = `${index.path}:${batch}`;
    const cached = this.batches.get(key);
    if (cached !== undefined) return cached;
    const reading = readBatch(index, batch).then((read) =>
      rowReader(read, findColumns(index.schema, index.path)),
    );
    this.batches.set(key, reading, index.batches[batch]?.bodyBytes ?? 0);
    reading.catch(() => this.batches.delete(key)); // the caller gets the error; a later read may try again
    return reading;
  }
}

type Construct = (shards: Shard[], extraColumns: readonly string[], fingerprint: string) => ShardSet;

async function openListed(folder: string, manifest: ShardManifest, construct: Construct): Promise<ShardSet> {
  const shards: Shard[] = [];
  let firstRow = 0;
  for (const listed of manifest.shards) {
    const path = join(folder, listed.file);
    const found = await stat(path).catch((cause: unknown) => {
      throw fault(
        path,
        `a shard that the manifest lists is missing, ${reasonOf(cause)}`,
        'copy it there or pack again',
        cause,
      );
    });
    if (found.size !== listed.bytes) {
      throw fault(
        path,
        `the manifest says ${listed.bytes} bytes, got ${found.size}`,
        'copy the shard again or pack again',
      );
    }
    shards.push({ path, firstRow, rows: listed.rows, listed, index: undefined });
    firstRow += listed.rows;
  }
  return construct(shards, await extraColumnsOf(shards), manifestFingerprint(manifest));
}

async function openFound(paths: readonly string[], construct: Construct): Promise<ShardSet> {
  const shards: Shard[] = [];
  const hash = createHash('sha256');
  let firstRow = 0;
  for (const path of paths) {
    const index = await indexArrow(path);
    findColumns(index.schema, path);
    shards.push({ path, firstRow, rows: index.rows, listed: undefined, index: Promise.resolve(index) });
    hash.update(`${basename(path)} ${index.sizeBytes} ${index.rows}\n`);
    firstRow += index.rows;
  }
  return construct(shards, await extraColumnsOf(shards), hash.digest('hex'));
}

async function extraColumnsOf(shards: readonly Shard[]): Promise<readonly string[]> {
  const [first] = shards;
  if (first === undefined) throw new Error('shards: a set must have a shard');
  return findColumns((await indexOf(first)).schema, first.path).extra;
}

async function arrowFilesOf(folder: string): Promise<string[]> {
  const names = (await readdir(folder)).filter((name) => name.endsWith('.arrow')).sort();
  if (names.length === 0) throw fault(folder, 'no .arrow file in the folder', 'pack the data into it first');
  return names.map((name) => join(folder, name));
}

async function statOrFault(path: string): Promise<Awaited<ReturnType<typeof stat>>> {
  return stat(path).catch((cause: unknown) => {
    throw fault(
      path,
      `no such shard or folder, ${reasonOf(cause)}`,
      'check the path, or pack the data first',
      cause,
    );
  });
}

function indexOf(shard: Shard): Promise<ArrowIndex> {
  shard.index ??= indexListed(shard).catch((cause: unknown) => {
    shard.index = undefined;
    throw cause;
  });
  return shard.index;
}

async function indexListed(shard: Shard): Promise<ArrowIndex> {
  const index = await indexArrow(shard.path);
  if (index.rows !== shard.rows) {
    throw fault(shard.path, `the manifest says ${shard.rows} rows, got ${index.rows}`, 'pack the data again');
  }
  return index;
}

/** The last shard that begins at or before `row`. */
function shardOf(shards: readonly Shard[], row: number): Shard {
  let low = 0;
  let high = shards.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((shards[middle]?.firstRow ?? Infinity) <= row) low = middle;
    else high = middle - 1;
  }
  const shard = shards[low];
  if (shard === undefined || !Number.isInteger(row) || row < 0 || row >= shard.firstRow + shard.rows) {
    throw new RangeError(`shards: row must be a whole number from 0 to below the set's rows, got ${row}`);
  }
  return shard;
}

function batchOf(index: ArrowIndex, row: number): { batch: number; rowInBatch: number } {
  let rowInBatch = row;
  for (const [batch, { rows }] of index.batches.entries()) {
    if (rowInBatch < rows) return { batch, rowInBatch };
    rowInBatch -= rows;
  }
  throw new RangeError(`shards: row must be < ${index.rows}, got ${row}`);
}

async function readAll(index: ArrowIndex): Promise<void> {
  for (const batch of index.batches.keys()) await readBatch(index, batch);
}

async function checkHash(path: string, listed: ManifestShard): Promise<void> {
  const hash = createHash('sha256');
  await withHandle(path, async (handle) => {
    for await (const chunk of handle.createReadStream({ autoClose: false, highWaterMark: 2 ** 20 }))
      hash.update(chunk as Uint8Array);
  });
  const sha256 = hash.digest('hex');
  if (sha256 === listed.sha256) return;
  throw new UserError(
    `shards: the bytes are not those that were packed, SHA-256 must be ${listed.sha256}, got ${sha256}: ${path} (copy it again or pack again)`,
  );
}
