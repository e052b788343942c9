/** Lists of images and captions, `.jsonl`, `.csv` or `.tsv`, read as streams: a list may be larger than the memory. */

import { stat } from 'node:fs/promises';
import { dirname, extname, resolve } from 'node:path';
import { UserError } from '../../errors.js';
import { reasonOf } from '../bytes/fileBytes.js';
import { CsvParser, type CsvRow } from './csv.js';
import { isMarked, linesOf, piecesOf } from './listText.js';
import {
  captionId,
  captionsOf,
  filesIdentity,
  isRecord,
  problemAt,
  readPair,
  ready,
  type Source,
  type SourceItem,
} from './source.js';

/** Which columns of a list or table hold what, and where the images are. */
export interface ColumnOptions {
  /** The column with the image or its path. */
  readonly imageColumn?: string;
  /** The column with the caption. */
  readonly captionColumn?: string;
  /** Folder that the paths of images are relative to; the list's own if not given. */
  readonly images?: string;
}

/** One line of a list, not checked yet. */
interface Listed {
  readonly where: string;
  /** Bytes of the list read so far. */
  readonly passed: number;
  readonly image: unknown;
  readonly caption: unknown;
  readonly id: unknown;
}

type Names = Required<Omit<ColumnOptions, 'images'>>;

const LIST_NAME = /\.(jsonl|csv|tsv)$/i;
const NOT_UTF8 = 'the text is not UTF-8';

/** Whether a file is a list by its name. */
export function isList(name: string): boolean {
  return LIST_NAME.test(name);
}

/**
 * The pairs of a list. An image is read from the path that the list names; a caption that is a list of texts (JSON lines)
 * gives a pair for each. Without an id it is the image's path.
 *
 * @throws UserError if the list cannot be read or is of another kind; when it is read, if it lacks the columns
 */
export async function listSource(file: string, options: ColumnOptions = {}): Promise<Source> {
  const { imageColumn = 'image', captionColumn = 'caption', images = dirname(file) } = options;
  if (!isList(file))
    throw new UserError(
      `pack: a list must be .jsonl, .csv or .tsv, got ${file} (convert it, or give a folder)`,
    );
  const identity = await filesIdentity([file]); // tells of a list that is not there, too
  const { size } = await stat(file);
  const names = { imageColumn, captionColumn };
  return {
    kind: 'a list',
    columns: [],
    unit: 'bytes',
    identity,
    parts: [{ size, items: () => itemsOf(recordsOf(file, names), images, names) }],
  };
}

async function* itemsOf(
  records: AsyncIterable<Listed | ImportFault>,
  images: string,
  names: Names,
): AsyncGenerator<SourceItem> {
  for await (const record of records) {
    const { where, passed } = record;
    if ('fault' in record) yield ready(passed, problemAt(where, record.fault));
    else if (typeof record.image !== 'string' || record.image === '')
      yield ready(passed, problemAt(where, noImage(names)));
    else {
      const path = resolve(images, record.image);
      const id = idOf(record.id) ?? record.image;
      for (const [i, caption] of captionsOf(record.caption).entries())
        yield {
          passed,
          load: () => readPair(path, where, { id: captionId(id, i), caption: caption.trim(), extra: {} }),
        };
    }
  }
}

/** A line that is none. */
interface ImportFault {
  readonly where: string;
  readonly passed: number;
  readonly fault: string;
}

function noImage({ imageColumn }: Names): string {
  return imageColumn === 'image' ? 'no image named' : `no image named, column "${imageColumn}"`;
}

function idOf(id: unknown): string | undefined {
  const text = typeof id === 'number' ? String(id) : id;
  return typeof text === 'string' && text !== '' ? text : undefined;
}

function recordsOf(file: string, names: Names): AsyncIterable<Listed | ImportFault> {
  const kind = extname(file).toLowerCase();
  if (kind === '.jsonl') return jsonRecords(file, names);
  return tableRecords(file, kind === '.csv' ? ',' : '\t', names);
}

async function* jsonRecords(
  file: string,
  { imageColumn, captionColumn }: Names,
): AsyncGenerator<Listed | ImportFault> {
  for await (const { text, line, passed } of linesOf(file)) {
    if (text.trim() === '') continue;
    const where = `${file}:${line}`;
    const value = isMarked(text) ? null : parseObject(text);
    if (isMarked(text)) yield { where, passed, fault: NOT_UTF8 };
    else if (value === null) yield { where, passed, fault: 'not a JSON object' };
    else yield { where, passed, image: value[imageColumn], caption: value[captionColumn], id: value['id'] };
  }
}

async function* tableRecords(
  file: string,
  separator: string,
  names: Names,
): AsyncGenerator<Listed | ImportFault> {
  let columns: Columns | undefined;
  for await (const { row, passed } of rowsOf(file, separator)) {
    const { fields, line } = row;
    const where = `${file}:${line}`;
    if (columns === undefined) columns = columnsOf(file, fields, names);
    else if (fields.some(isMarked)) yield { where, passed, fault: NOT_UTF8 };
    else {
      const { image, caption, id } = columns;
      yield { where, passed, image: fields[image], caption: fields[caption], id: fields[id] };
    }
  }
  if (columns === undefined) columnsOf(file, [], names); // an empty list has no header either
}

/** Positions in a row; `id` is -1 where there is none. */
interface Columns {
  readonly image: number;
  readonly caption: number;
  readonly id: number;
}

function columnsOf(file: string, header: readonly string[], { imageColumn, captionColumn }: Names): Columns {
  const names = header.map((name) => name.trim().toLowerCase());
  const at = (name: string) => names.indexOf(name.toLowerCase());
  const columns = { image: at(imageColumn), caption: at(captionColumn), id: at('id') };
  if (columns.image >= 0 && columns.caption >= 0) return columns;
  throw new UserError(
    `pack: the first line must name the columns ${imageColumn} and ${captionColumn}, got "${names.join(', ')}" in ${file} (add it, or name them with --image-column and --caption-column)`,
  );
}

async function* rowsOf(file: string, separator: string): AsyncGenerator<{ row: CsvRow; passed: number }> {
  const parser = new CsvParser(separator);
  const unclosed = (cause: unknown) =>
    new UserError(`pack: ${reasonOf(cause)} in ${file} (close it)`, { cause });
  let passed = 0;
  for await (const piece of piecesOf(file)) {
    passed = piece.passed;
    for (const row of orThrow(() => parser.push(piece.text), unclosed)) yield { row, passed };
  }
  for (const row of orThrow(() => parser.end(), unclosed)) yield { row, passed };
}

function orThrow<T>(parse: () => T, wrap: (cause: unknown) => Error): T {
  try {
    return parse();
  } catch (cause) {
    throw wrap(cause);
  }
}

function parseObject(line: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(line);
    return isRecord(value) ? value : null;
  } catch {
    return null; // the caller reports the line
  }
}
