/** Tables with the images in them, as Hugging Face `datasets` has them: which columns make a pair, and a row's pairs. */

import { basename, dirname, resolve } from 'node:path';
import { UserError } from '../../errors.js';
import type { ColumnOptions } from './list.js';
import {
  captionId,
  captionsOf,
  decodeText,
  filesIdentity,
  MAX_IMAGE_BYTES,
  problemAt,
  readImage,
  ready,
  type Found,
  type Source,
  type SourceItem,
  type SourcePart,
} from './source.js';

/** What a column may hold: `struct` is Hugging Face's `struct<bytes, path>`, `texts` a list of texts. */
export type ColumnKind = 'bytes' | 'struct' | 'text' | 'texts' | 'number' | 'other';

/** The columns of a table that make its pairs. */
export interface TableColumns {
  /** Absent: rows are numbered. */
  readonly id: string | undefined;
  readonly image: string;
  readonly caption: string;
  readonly source: string | undefined;
  /** Every further text column. */
  readonly extra: readonly string[];
}

/** The value of a column in one row, `undefined` or `null` if it has none. */
export type RowValue = (column: string) => unknown;

const IMAGE_NAMES = ['image', 'jpg', 'img']; // `datasets`; img2dataset's and webdataset's Parquet; some others
const CAPTION_NAMES = ['caption', 'text', 'captions', 'txt'];
const ID_NAMES = ['id', '__key__', 'key']; // the last two as webdataset and img2dataset name them
const RESERVED = ['id', 'image', 'caption', 'source'];

/** A table whose head is read. */
export interface OpenTable {
  readonly kinds: ReadonlyMap<string, ColumnKind>;
  /** What is read at once, in the order of the rows. */
  readonly partsOf: (columns: TableColumns) => SourcePart[];
}

/**
 * The pairs of tables, in the order given; the first says which columns all have.
 *
 * @param open reads a table's head
 * @throws UserError if a table cannot be opened, or lacks the columns of a pair
 */
export async function tableSource(
  kind: string,
  paths: readonly string[],
  options: ColumnOptions,
  open: (path: string) => Promise<OpenTable>,
): Promise<Source> {
  const parts: SourcePart[] = [];
  let first: TableColumns | undefined;
  for (const path of paths) {
    const { kinds, partsOf } = await open(path);
    const columns = chooseColumns(kinds, path, options);
    first ??= columns;
    for (const part of partsOf({ ...columns, ...restTo(first, columns) })) parts.push(part);
  }
  if (!first) throw new Error('tableSource: there must be a file');
  return { kind, columns: pairColumns(first), unit: 'pairs', identity: await filesIdentity(paths), parts };
}

/** Whether a table has a column that may hold its images. */
export function hasImages(
  kinds: ReadonlyMap<string, ColumnKind>,
  { imageColumn }: ColumnOptions = {},
): boolean {
  return imageNameOf(kinds, imageColumn) !== undefined;
}

/**
 * Chooses the columns of a table's pairs: those named, else the usual names.
 *
 * @param path the file, for the errors' texts
 * @throws UserError if there is no such column for the image or the caption, or it is of another kind; it lists what there is
 */
function chooseColumns(
  kinds: ReadonlyMap<string, ColumnKind>,
  path: string,
  { imageColumn, captionColumn }: ColumnOptions = {},
): TableColumns {
  const there = [...kinds].map(([name, kind]) => `${name} (${KIND_WORDS[kind]})`).join(', ');
  const missing = (what: string, names: readonly string[], rule: string, option: string) =>
    new UserError(
      `pack: ${what} must be ${rule} named ${names.join(' or ')}, got the columns ${there} in ${path} (name it with ${option})`,
    );
  const image = imageNameOf(kinds, imageColumn);
  if (image === undefined)
    throw missing('the image', named(imageColumn, IMAGE_NAMES), 'a column of encoded images', '--image-column'); // prettier-ignore
  const isCaption = (name: string) => name !== image && ['text', 'texts', 'bytes'].includes(kinds.get(name) ?? ''); // prettier-ignore
  const caption = named(captionColumn, CAPTION_NAMES).find(isCaption);
  if (caption === undefined)
    throw missing('the caption', named(captionColumn, CAPTION_NAMES), 'a column of texts', '--caption-column'); // prettier-ignore
  const id = ID_NAMES.find((name) => ['text', 'number'].includes(kinds.get(name) ?? ''));
  const source = kinds.get('source') === 'text' && caption !== 'source' ? 'source' : undefined;
  const used = new Set([image, caption, ...(id === undefined ? [] : [id]), ...RESERVED]);
  const extra = [...kinds.keys()].filter((name) => kinds.get(name) === 'text' && !used.has(name));
  return { id, image, caption, source, extra };
}

/** The columns that pairs of a table have beyond id, image and caption. */
function pairColumns({ source, extra }: TableColumns): readonly string[] {
  return [...(source === undefined ? [] : [source]), ...extra];
}

/** Columns that the first file of a source lacks are not read: all shards have one schema. */
function restTo(
  first: TableColumns,
  { source, extra }: TableColumns,
): Pick<TableColumns, 'source' | 'extra'> {
  return {
    source: first.source === undefined ? undefined : source,
    extra: extra.filter((name) => first.extra.includes(name)),
  };
}

/**
 * The items of one row: a pair for each of its captions. Bytes are copied when they are read, so that a row group or
 * record batch need not stay in memory for one of its images.
 *
 * @param path the table; an image that is not embedded is read from its own path, relative to the table's folder
 * @param row its number in the table, from 0
 */
export function* rowItems(
  path: string,
  row: number,
  passed: number,
  valueOf: RowValue,
  columns: TableColumns,
): Generator<SourceItem> {
  const where = `${path}: row ${row}`;
  const id = textOf(columns.id === undefined ? undefined : valueOf(columns.id)) ?? numberedId(path, row);
  const source = columns.source === undefined ? undefined : textOf(valueOf(columns.source));
  const extra: Record<string, string> = {};
  for (const name of columns.extra) {
    const text = textOf(valueOf(name));
    if (text !== undefined) extra[name] = text;
  }
  const value = valueOf(columns.image);
  for (const [i, caption] of captionsOf(captionValue(valueOf(columns.caption))).entries()) {
    if (caption.trim() === '') {
      yield ready(passed, problemAt(where, 'caption is empty'));
      continue;
    }
    const known = { id: captionId(id, i), caption, ...(source !== undefined && { source }), extra };
    const load = async (): Promise<Found> => {
      const image = await imageOf(value, path, where);
      return image instanceof Uint8Array ? { pair: { ...known, image } } : image;
    };
    yield { passed, load };
  }
}

const KIND_WORDS: Readonly<Record<ColumnKind, string>> = {
  bytes: 'bytes',
  struct: 'struct of bytes and path',
  text: 'text',
  texts: 'list of texts',
  number: 'number',
  other: 'another type',
};

function named(given: string | undefined, usual: readonly string[]): readonly string[] {
  return given === undefined ? usual : [given];
}

function imageNameOf(kinds: ReadonlyMap<string, ColumnKind>, given: string | undefined): string | undefined {
  return named(given, IMAGE_NAMES).find((name) => ['bytes', 'struct'].includes(kinds.get(name) ?? ''));
}

/** `train-00000-of-00003/17` for row 17 of that file: the same whatever is packed with it. */
function numberedId(path: string, row: number): string {
  return `${basename(path).replace(/\.[^.]*$/, '')}/${row}`;
}

/** Parquet files may keep texts as bytes without saying that they are text. */
function captionValue(value: unknown): unknown {
  if (!(value instanceof Uint8Array)) return value;
  return decodeText(value) ?? ''; // told as an empty caption
}

function textOf(value: unknown): string | undefined {
  if (typeof value === 'string') return value === '' ? undefined : value;
  return typeof value === 'number' || typeof value === 'bigint' ? String(value) : undefined;
}

async function imageOf(value: unknown, path: string, where: string): Promise<Uint8Array | Found> {
  const { bytes, path: own } = value instanceof Uint8Array ? { bytes: value, path: null } : structOf(value);
  if (bytes instanceof Uint8Array && bytes.length > MAX_IMAGE_BYTES)
    return problemAt(where, `the image must have at most ${MAX_IMAGE_BYTES} bytes`, String(bytes.length));
  if (bytes instanceof Uint8Array && bytes.length > 0) return bytes.slice();
  if (typeof own === 'string' && own !== '') return readImage(resolve(dirname(path), own), where);
  return problemAt(where, 'the image is empty');
}

function structOf(value: unknown): { bytes?: unknown; path?: unknown } {
  return typeof value === 'object' && value !== null ? value : {};
}
