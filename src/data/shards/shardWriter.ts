/**
 * Writing shards: a stream of pairs → Arrow files of a few thousand rows with a manifest, in bounded memory.
 * The folder appears whole or not at all. Bodies are uncompressed: see codecs.ts.
 */

import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Binary, Field, Schema, Utf8, type Data } from 'apache-arrow';
import { UserError } from '../../errors.js';
import { writeFileWhole, writeFolderWhole, writeWhole } from '../../files.js';
import { ArrowFileWriter, binaryColumn, textColumn } from '../arrow/arrowWriter.js';
import { MANIFEST_FILE, MANIFEST_VERSION, type ManifestShard, type ShardManifest } from './manifest.js';
import type { ImageTextPair } from '../pairs.js';
import { checkLayout, groupPairs, type Group, type ShardLayout } from './shardLayout.js';

/** How `writeShards` writes. */
export interface WriteShardsOptions extends ShardLayout {
  /** Extra columns; by default those that the first batch's pairs have. */
  readonly extraColumns?: readonly string[];
  /** Origin and licence of the data, kept in the manifest. */
  readonly about?: string;
  /** Replace a folder that is there; otherwise that is an error. */
  readonly overwrite?: boolean;
  /** Called after each record batch with the rows written so far. */
  readonly onProgress?: (rows: number) => void;
}

/** How `writeShardFiles` writes. */
export interface ShardFilesOptions extends ShardLayout {
  /** Shards that the folder holds already; the next one has the number after theirs. */
  readonly written?: number;
  /** All columns, `id`, `image` and `caption` first; by default those that the first batch's pairs have. */
  readonly columns?: readonly string[];
  /** Called after each record batch with its rows. */
  readonly onBatch?: (rows: number) => void;
}

/** A shard that was written. */
export interface WrittenShard extends ManifestShard {
  readonly columns: readonly string[];
}

const OWN_COLUMNS = ['id', 'image', 'caption'];

/**
 * Writes pairs as `part-00000.arrow`, … and `manifest.json` into `folder`. A shard ends after 4096 pairs or 256 MB; given
 * one of the two limits, the other does not count.
 *
 * @returns the manifest that was written
 * @throws UserError if there is no pair, a pair has a column that the first batch lacked, or the folder cannot be written
 */
export async function writeShards(
  folder: string,
  pairs: AsyncIterable<ImageTextPair> | Iterable<ImageTextPair>,
  { extraColumns, about, overwrite = false, onProgress, ...layout }: WriteShardsOptions = {},
): Promise<ShardManifest> {
  checkLayout(layout);
  const written: ShardManifest[] = [];
  await writeFolderWhole(folder, async (temporary) => {
    const shards: WrittenShard[] = [];
    let rows = 0;
    const onBatch = (added: number) => onProgress?.((rows += added));
    const options = { ...layout, onBatch, ...(extraColumns && { extraColumns }) };
    for await (const shard of writeFiles(temporary, pairs, options)) shards.push(shard);
    const manifest = manifestOf(shards, about === undefined ? {} : { about });
    await writeManifest(temporary, manifest);
    if (overwrite) await rm(folder, { recursive: true, force: true });
    written.push(manifest);
  });
  const [manifest] = written;
  if (manifest === undefined) throw new Error('writeShards: the folder was not filled');
  return manifest;
}

/**
 * Writes pairs as shards into a folder, one after the other, without a manifest. A shard is yielded when it is whole and
 * on disk, and before the first pair after it is asked for: whoever counts the pairs that were taken knows which it holds.
 *
 * @throws UserError if a pair has a column that is not among the columns, or the folder cannot be written
 */
export function writeShardFiles(
  folder: string,
  pairs: AsyncIterable<ImageTextPair>,
  options: ShardFilesOptions = {},
): AsyncGenerator<WrittenShard> {
  checkLayout(options);
  return writeFiles(folder, pairs, options);
}

/**
 * The manifest of shards.
 *
 * @throws UserError if there is none
 */
export function manifestOf(
  shards: readonly WrittenShard[],
  words: Pick<ShardManifest, 'about' | 'recipe' | 'leftOut'>,
): ShardManifest {
  const [first] = shards;
  if (first === undefined)
    throw new UserError('writeShards: there must be at least one pair, got none (check the source)');
  return {
    version: MANIFEST_VERSION,
    rows: shards.reduce((sum, shard) => sum + shard.rows, 0),
    columns: first.columns,
    ...words,
    shards: shards.map(({ file, rows, bytes, sha256 }) => ({ file, rows, bytes, sha256 })),
  };
}

/** Writes `manifest.json` whole. */
export async function writeManifest(folder: string, manifest: ShardManifest): Promise<void> {
  await writeFileWhole(join(folder, MANIFEST_FILE), `${JSON.stringify(manifest, null, 2)}\n`);
}

/** The columns of pairs with these further ones, as `writeShardFiles` takes them. */
export function allColumns(further: readonly string[]): readonly string[] {
  const reserved = further.find((name) => OWN_COLUMNS.includes(name));
  if (reserved !== undefined)
    throw new UserError(`writeShards: an extra column must not be named "${reserved}" (rename it)`);
  return [...OWN_COLUMNS, ...further];
}

async function* writeFiles(
  folder: string,
  pairs: AsyncIterable<ImageTextPair> | Iterable<ImageTextPair>,
  options: ShardFilesOptions & { readonly extraColumns?: readonly string[] },
): AsyncGenerator<WrittenShard> {
  const { written = 0, onBatch, extraColumns } = options;
  const source = groupPairs(pairs, options);
  try {
    let number = written;
    let columns = options.columns;
    for (let group = await nextGroup(source); group !== null; group = await nextGroup(source)) {
      columns ??= columnsOf(group.pairs, extraColumns);
      const file = `part-${String(number).padStart(5, '0')}.arrow`;
      const shard = await writeShard(join(folder, file), columns, group, source, onBatch);
      number += 1;
      yield { file, ...shard, columns };
    }
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
  onBatch: ShardFilesOptions['onBatch'],
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
      onBatch?.(group.pairs.length);
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

function columnsOf(
  pairs: readonly ImageTextPair[],
  extraColumns: readonly string[] | undefined,
): readonly string[] {
  const extra = extraColumns ?? [...new Set(pairs.flatMap((pair) => Object.keys(pair.extra)))];
  if (extra.includes('source'))
    throw new UserError('writeShards: an extra column must not be named "source" (rename it)');
  const source = pairs.some((pair) => pair.source !== undefined) ? ['source'] : [];
  return allColumns([...source, ...extra]);
}

function schemaOf(columns: readonly string[]): Schema {
  return new Schema(
    columns.map(
      (name) => new Field(name, name === 'image' ? new Binary() : new Utf8(), !OWN_COLUMNS.includes(name)),
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
