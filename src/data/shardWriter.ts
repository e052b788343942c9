/**
 * Writing shards: a stream of pairs → Arrow files of a few thousand rows with a manifest, in bounded memory.
 * The folder appears whole or not at all. Bodies are uncompressed: see codecs.ts.
 */

import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Binary, Field, Schema, Utf8, type Data } from 'apache-arrow';
import { UserError } from '../errors.js';
import { writeFileWhole, writeFolderWhole, writeWhole } from '../files.js';
import { ArrowFileWriter, binaryColumn, textColumn } from './arrowWriter.js';
import { MANIFEST_FILE, MANIFEST_VERSION, type ManifestShard, type ShardManifest } from './manifest.js';
import type { ImageTextPair } from './pairs.js';

/** How `writeShards` lays the rows out. */
export interface WriteShardsOptions {
  readonly rowsPerShard?: number;
  /** Rows of a record batch, the unit of reading; at most 256. */
  readonly rowsPerBatch?: number;
  /** Extra columns; by default those that the first batch's pairs have. */
  readonly extraColumns?: readonly string[];
  /** Origin and licence of the data, kept in the manifest. */
  readonly about?: string;
  /** Replace a folder that is there; otherwise that is an error. */
  readonly overwrite?: boolean;
  /** Called after each record batch with the rows written so far. */
  readonly onProgress?: (rows: number) => void;
}

const MAX_BATCH_ROWS = 256; // design.md 5
const MAX_BATCH_BYTES = 64 * 2 ** 20; // large images make shorter batches, so that reading one row stays cheap

/**
 * Writes pairs as `part-00000.arrow`, … and `manifest.json` into `folder`.
 *
 * @returns the manifest that was written
 * @throws UserError if there is no pair, a pair has a column that the first batch lacked, or the folder cannot be written
 */
export async function writeShards(
  folder: string,
  pairs: AsyncIterable<ImageTextPair> | Iterable<ImageTextPair>,
  {
    rowsPerShard = 4096,
    rowsPerBatch = MAX_BATCH_ROWS,
    extraColumns,
    about,
    overwrite = false,
    onProgress,
  }: WriteShardsOptions = {},
): Promise<ShardManifest> {
  if (rowsPerBatch < 1 || rowsPerBatch > MAX_BATCH_ROWS || rowsPerShard < 1) {
    throw new UserError(
      `writeShards: rowsPerBatch must be from 1 to ${MAX_BATCH_ROWS} and rowsPerShard at least 1, got ${rowsPerBatch} and ${rowsPerShard}`,
    );
  }
  const written: ShardManifest[] = [];
  await writeFolderWhole(folder, async (temporary) => {
    const source = groupPairs(pairs, rowsPerShard, rowsPerBatch);
    const { shards, columns } = await writeAll(temporary, source, extraColumns, onProgress);
    const rows = shards.reduce((sum, shard) => sum + shard.rows, 0);
    const manifest = {
      version: MANIFEST_VERSION,
      rows,
      columns,
      ...(about === undefined ? {} : { about }),
      shards,
    };
    await writeFileWhole(join(temporary, MANIFEST_FILE), `${JSON.stringify(manifest, null, 2)}\n`);
    if (overwrite) await rm(folder, { recursive: true, force: true });
    written.push(manifest);
  });
  const [manifest] = written;
  if (manifest === undefined) throw new Error('writeShards: the folder was not filled');
  return manifest;
}

/** Pairs of one record batch; `endsShard` after the last batch of a file. */
interface Group {
  readonly pairs: readonly ImageTextPair[];
  readonly endsShard: boolean;
}

async function* groupPairs(
  pairs: AsyncIterable<ImageTextPair> | Iterable<ImageTextPair>,
  rowsPerShard: number,
  rowsPerBatch: number,
): AsyncGenerator<Group> {
  let group: ImageTextPair[] = [];
  let bytes = 0;
  let rowsInShard = 0;
  for await (const pair of pairs) {
    group.push(pair);
    bytes += pair.image.length;
    rowsInShard += 1;
    const endsShard = rowsInShard >= rowsPerShard;
    if (group.length < rowsPerBatch && bytes < MAX_BATCH_BYTES && !endsShard) continue;
    yield { pairs: group, endsShard };
    group = [];
    bytes = 0;
    if (endsShard) rowsInShard = 0;
  }
  if (group.length > 0) yield { pairs: group, endsShard: true };
}

async function writeAll(
  folder: string,
  source: AsyncGenerator<Group>,
  extraColumns: readonly string[] | undefined,
  onProgress: WriteShardsOptions['onProgress'],
): Promise<{ shards: ManifestShard[]; columns: string[] }> {
  const shards: ManifestShard[] = [];
  let rows = 0;
  const count = (added: number) => onProgress?.((rows += added));
  try {
    let group = await nextGroup(source);
    if (group === null)
      throw new UserError('writeShards: there must be at least one pair, got none (check the source)');
    const columns = columnsOf(group.pairs, extraColumns);
    while (group !== null) {
      const file = `part-${String(shards.length).padStart(5, '0')}.arrow`;
      const shard = await writeShard(join(folder, file), columns, group, source, count);
      shards.push({ file, ...shard });
      group = await nextGroup(source);
    }
    return { shards, columns };
  } finally {
    await source.return(undefined); // lets the pairs' source close its files
  }
}

/** Writes one file: `first` and the groups after it, up to the one that ends the shard. */
async function writeShard(
  path: string,
  columns: readonly string[],
  first: Group,
  source: AsyncGenerator<Group>,
  count: (rows: number) => void,
): Promise<Omit<ManifestShard, 'file'>> {
  const result: Omit<ManifestShard, 'file'>[] = [];
  await writeWhole(path, async (handle) => {
    const writer = new ArrowFileWriter(handle, schemaOf(columns));
    for (
      let group: Group | null = first;
      group !== null;
      group = group.endsShard ? null : await nextGroup(source)
    ) {
      await writer.write(group.pairs.length, encodeColumns(group.pairs, columns));
      count(group.pairs.length);
    }
    result.push(await writer.finish());
  });
  const [shard] = result;
  if (shard === undefined) throw new Error('writeShards: the shard was not filled');
  return shard;
}

async function nextGroup(source: AsyncGenerator<Group>): Promise<Group | null> {
  const next = await source.next();
  return next.done === true ? null : next.value;
}

function columnsOf(pairs: readonly ImageTextPair[], extraColumns: readonly string[] | undefined): string[] {
  const extra = extraColumns ?? [...new Set(pairs.flatMap((pair) => Object.keys(pair.extra)))];
  const reserved = extra.find((name) => ['id', 'image', 'caption', 'source'].includes(name));
  if (reserved !== undefined)
    throw new UserError(`writeShards: an extra column must not be named "${reserved}" (rename it)`);
  const source = pairs.some((pair) => pair.source !== undefined) ? ['source'] : [];
  return ['id', 'image', 'caption', ...source, ...extra];
}

function schemaOf(columns: readonly string[]): Schema {
  const required = ['id', 'image', 'caption'];
  return new Schema(
    columns.map(
      (name) => new Field(name, name === 'image' ? new Binary() : new Utf8(), !required.includes(name)),
    ),
  );
}

function encodeColumns(pairs: readonly ImageTextPair[], columns: readonly string[]): Data[] {
  for (const pair of pairs) checkColumns(pair, columns);
  return columns.map((name) =>
    name === 'image'
      ? binaryColumn(pairs.map(({ image }) => image))
      : textColumn(pairs.map((pair) => textOf(pair, name))),
  );
}

function checkColumns(pair: ImageTextPair, columns: readonly string[]): void {
  const names = [...Object.keys(pair.extra), ...(pair.source === undefined ? [] : ['source'])];
  const unknown = names.find((name) => !columns.includes(name));
  if (unknown === undefined) return;
  throw new UserError(
    `writeShards: column "${unknown}" of pair ${pair.id} is not among those of the first rows, ${columns.join(', ')} (give every pair the same columns)`,
  );
}

function textOf(pair: ImageTextPair, column: string): string | undefined {
  if (column === 'id') return pair.id;
  if (column === 'caption') return pair.caption;
  return column === 'source' ? pair.source : pair.extra[column];
}
