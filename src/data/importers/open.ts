/** Recognises what kind of source a path is. */

import { existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename, join, relative, sep } from 'node:path';
import { UserError } from '../../errors.js';
import { fileError } from '../../files.js';
import { isCachedMap, sameSplit, savedFiles, splitNames, splitOf } from '../shards/datasetsFolder.js';
import { ALIGN_FILE, alignSource } from './align.js';
import { arrowSource } from './arrow.js';
import { cocoSource, isCoco } from './coco.js';
import { filesIn, folderSource } from './folder.js';
import { isList, listSource, type ColumnOptions } from './list.js';
import { parquetHasImages, parquetSource } from './parquet.js';
import type { Source } from './source.js';
import { isTar, tarsIn, tarSource } from './webdataset.js';

/** What is said of a source beyond its path. */
export interface SourceOptions extends ColumnOptions {
  /** Of a folder with tables of several splits the one to read: `train`. */
  readonly split?: string;
}

const COLUMNS = ['imageColumn', 'captionColumn'] as const;
const ARROW_NAME = /\.arrow$/i;
const PARQUET_NAME = /\.parquet$/i;

/**
 * Opens a source of pairs by what it is: a file by its name; a folder with `filter_cap.json`, with tars, with Arrow files,
 * with Parquet files that have images, or any other (images with texts), the first of these that fits.
 *
 * @throws UserError if it is none of these, cannot be read, or has no use for an option
 */
export async function openSource(path: string, options: SourceOptions = {}): Promise<Source> {
  const found = await stat(path).catch((cause: unknown) => {
    throw fileError(path, cause);
  });
  const kind = found.isDirectory() ? await folderKind(path, options) : fileKind(path, options);
  checkOptions(path, options, kind.options);
  return kind.open();
}

/** A kind of source that a path is of. */
interface Kind {
  /** Options that it has a use for. */
  readonly options: readonly (keyof SourceOptions)[];
  open(): Promise<Source>;
}

function fileKind(path: string, options: SourceOptions): Kind {
  if (isTar(path)) return { options: [], open: () => tarSource(path) };
  if (isList(path)) return { options: [...COLUMNS, 'images'], open: () => listSource(path, options) };
  if (isCoco(path)) return { options: ['images'], open: () => cocoSource(path, options.images) };
  if (ARROW_NAME.test(path)) return { options: COLUMNS, open: () => arrowSource([path], options) };
  if (PARQUET_NAME.test(path)) return { options: COLUMNS, open: () => parquetSource([path], options) };
  throw new UserError(
    `pack: a file must be .tar, .jsonl, .csv, .tsv, .json (COCO), .arrow or .parquet, got ${path} (convert it, or give a folder)`,
  );
}

async function folderKind(path: string, options: SourceOptions): Promise<Kind> {
  if (existsSync(join(path, ALIGN_FILE))) return { options: [], open: () => alignSource(path) };
  if ((await tarsIn(path)).length > 0) return { options: [], open: () => tarSource(path) };
  const { arrow, parquet } = await tablesIn(path);
  const useful = [...COLUMNS, 'split'] as const;
  if (arrow.length > 0)
    return { options: useful, open: async () => arrowSource(oneSplit(path, arrow, options), options) };
  const [first] = parquet;
  if (first !== undefined && (options.imageColumn !== undefined || (await parquetHasImages(first))))
    return { options: useful, open: async () => parquetSource(oneSplit(path, parquet, options), options) };
  return { options: [], open: () => folderSource(path) };
}

/** The options of sources as the command line names them. */
export const SOURCE_OPTIONS: Readonly<Record<keyof SourceOptions, string>> = {
  imageColumn: '--image-column',
  captionColumn: '--caption-column',
  images: '--images',
  split: '--split',
};

/** @throws UserError for an option that is given and is of no use */
function checkOptions(path: string, options: SourceOptions, useful: readonly (keyof SourceOptions)[]): void {
  const names = Object.keys(SOURCE_OPTIONS) as (keyof SourceOptions)[]; // the keys of that constant
  const stray = names.find((name) => options[name] !== undefined && !useful.includes(name));
  if (stray === undefined) return;
  throw new UserError(
    `pack: ${SOURCE_OPTIONS[stray]} is for other kinds of sources, got it with ${path} (leave it out)`,
  );
}

/** The Arrow and Parquet files of a folder and its subfolders, in the order of their paths. */
async function tablesIn(folder: string): Promise<{ arrow: string[]; parquet: string[] }> {
  const saved = await savedFiles(folder);
  if (saved) return { arrow: saved, parquet: [] };
  const tables = { arrow: [] as string[], parquet: [] as string[] };
  for await (const path of filesIn(folder)) {
    const name = basename(path);
    if (
      relative(folder, path)
        .split(sep)
        .some((part) => part.startsWith('.'))
    )
      continue; // a packing under way, say
    if (ARROW_NAME.test(name) && !isCachedMap(name)) tables.arrow.push(path);
    else if (PARQUET_NAME.test(name)) tables.parquet.push(path);
  }
  return tables;
}

/**
 * The tables of one split. Several in one folder are never packed together unasked: a run must not train on its test set.
 *
 * @throws UserError if there are several and none is chosen, or the chosen one is not there
 */
function oneSplit(folder: string, paths: readonly string[], { split }: SourceOptions): readonly string[] {
  const splits = new Map(paths.map((path) => [path, splitOf(relative(folder, path))]));
  const names = [...new Set(splits.values())];
  if (split === undefined && names.length <= 1) return paths;
  const chosen = split === undefined ? [] : paths.filter((path) => splits.get(path) === sameSplit(split));
  if (chosen.length > 0) return chosen;
  const rule = split === undefined ? 'one split must be chosen' : `there must be a split ${split}`;
  const others = names.includes('') ? '; move the files without a split to a folder of their own' : '';
  throw new UserError(
    `pack: ${rule}, got ${splitNames(names)} in ${folder} (name one with --split${others})`,
  );
}
