/** Pairs from files that people have: a folder of images with texts beside them, or a list of images and captions. */

import { readFile, readdir } from 'node:fs/promises';
import { dirname, extname, join, parse, relative, resolve, sep } from 'node:path';
import { UserError } from '../../errors.js';
import { fileError } from '../../files.js';
import type { ImageTextPair } from '../pairs.js';
import { parseCsv } from './csv.js';

/** An image or a line that gave no pair. */
export interface ImportProblem {
  /** The image's path, or `list:line`. */
  readonly where: string;
  readonly reason: string;
}

/** How sources are read. */
export interface ImportOptions {
  /** Called for each image or line that is left out; the caller counts and tells. */
  readonly onProblem?: (problem: ImportProblem) => void;
}

/** One line of a list, still unread. */
interface Listed {
  readonly where: string;
  readonly image: unknown;
  readonly caption: unknown;
  readonly id: unknown;
}

const IMAGE_TYPES = new Set(['.jpg', '.jpeg', '.png', '.webp', '.gif', '.avif', '.tif', '.tiff']);

/**
 * Pairs of a folder: each image with a text file of the same name beside it (`cat.jpg`, `cat.txt`), in the order of
 * names, subfolders included. The id is the path within the folder without its ending; the bytes are those of the file.
 *
 * @throws UserError if the folder cannot be read
 */
export async function* readFolder(
  folder: string,
  { onProblem }: ImportOptions = {},
): AsyncGenerator<ImageTextPair> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch((cause: unknown) => {
    throw fileError(folder, cause);
  });
  const images = entries
    .filter((entry) => !entry.isDirectory() && IMAGE_TYPES.has(extname(entry.name).toLowerCase()))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort(byCodeUnit);
  for (const path of images) {
    const { dir, name } = parse(path);
    const caption = await readFile(join(dir, `${name}.txt`), 'utf8').catch(() => null); // missing: reported below
    const id = relative(folder, join(dir, name)).split(sep).join('/');
    if (caption === null) onProblem?.({ where: path, reason: `no ${name}.txt beside the image` });
    else yield* readPair(path, { where: path, image: path, caption, id }, onProblem);
  }
}

/**
 * Pairs of a list: `.jsonl` with an object `{image, caption, id?}` a line, or `.csv`/`.tsv` with a header that names the
 * columns `image`, `caption` and optionally `id`. Paths are relative to the list. Without an id it is the image's path.
 *
 * @throws UserError if the list cannot be read, is of another kind, or has no such columns
 */
export async function* readList(
  file: string,
  { onProblem }: ImportOptions = {},
): AsyncGenerator<ImageTextPair> {
  const text = await readFile(file, 'utf8').catch((cause: unknown) => {
    throw fileError(file, cause);
  });
  for (const listed of parseList(file, text, onProblem)) {
    if (typeof listed.image !== 'string' || listed.image === '') {
      onProblem?.({ where: listed.where, reason: 'no image named' });
      continue;
    }
    yield* readPair(resolve(dirname(file), listed.image), listed, onProblem);
  }
}

/** The pair, or nothing and a problem. */
async function* readPair(
  path: string,
  listed: Listed,
  onProblem: ImportOptions['onProblem'],
): AsyncGenerator<ImageTextPair> {
  const caption = typeof listed.caption === 'string' ? listed.caption.trim() : '';
  if (caption === '') {
    onProblem?.({ where: listed.where, reason: 'caption is empty' });
    return;
  }
  const image = await readFile(path).catch(() => null); // reported next
  if (image === null || image.length === 0) {
    onProblem?.({
      where: listed.where,
      reason: image === null ? `cannot read the image ${path}` : 'the image is empty',
    });
    return;
  }
  const id = typeof listed.id === 'number' ? String(listed.id) : listed.id;
  yield { id: typeof id === 'string' && id !== '' ? id : String(listed.image), image, caption, extra: {} };
}

function* parseList(file: string, text: string, onProblem: ImportOptions['onProblem']): Generator<Listed> {
  const kind = extname(file).toLowerCase();
  if (kind === '.jsonl') yield* parseJsonLines(file, text, onProblem);
  else if (kind === '.csv') yield* parseTable(file, text, ',');
  else if (kind === '.tsv') yield* parseTable(file, text, '\t');
  else
    throw new UserError(
      `pack: a list must be .jsonl, .csv or .tsv, got ${file} (convert it, or give a folder)`,
    );
}

function* parseJsonLines(
  file: string,
  text: string,
  onProblem: ImportOptions['onProblem'],
): Generator<Listed> {
  for (const [i, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue;
    const where = `${file}:${i + 1}`;
    const value = parseObject(line);
    if (value === null) onProblem?.({ where, reason: 'not a JSON object' });
    else yield { where, image: value['image'], caption: value['caption'], id: value['id'] };
  }
}

function* parseTable(file: string, text: string, separator: string): Generator<Listed> {
  const [header, ...rows] = tableRows(file, text, separator);
  const names = header?.fields.map((name) => name.trim().toLowerCase()) ?? [];
  const [image, caption, id] = ['image', 'caption', 'id'].map((name) => names.indexOf(name));
  if (image === undefined || caption === undefined || id === undefined || image < 0 || caption < 0) {
    throw new UserError(
      `pack: the first line must name the columns image and caption, got "${names.join(', ')}" in ${file} (add it)`,
    );
  }
  for (const { fields, line } of rows) {
    yield { where: `${file}:${line}`, image: fields[image], caption: fields[caption], id: fields[id] };
  }
}

function tableRows(file: string, text: string, separator: string): ReturnType<typeof parseCsv> {
  try {
    return parseCsv(text, separator);
  } catch (cause) {
    throw new UserError(
      `pack: ${cause instanceof Error ? cause.message : String(cause)} in ${file} (close it)`,
      { cause },
    );
  }
}

function parseObject(line: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return null;
    return value as Record<string, unknown>; // a JSON object has text keys
  } catch {
    return null; // the caller reports the line
  }
}

/** The same order on every machine, whatever its language. */
function byCodeUnit(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
