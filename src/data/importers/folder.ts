/** Pairs from files that people have: a folder of images with texts beside them, or a list of images and captions. */

import { createHash } from 'node:crypto';
import { readFile, readdir } from 'node:fs/promises';
import { extname, join, parse, relative, sep } from 'node:path';
import { fileError } from '../../files.js';
import type { ImageTextPair } from '../pairs.js';
import { listSource } from './list.js';
import {
  addName,
  decodeText,
  orMissing,
  problemAt,
  readPair,
  readPairs,
  type Found,
  type ImportOptions,
  type Source,
  type SourceItem,
} from './source.js';

export type { ImportOptions, ImportProblem } from './source.js';

const IMAGE_TYPES = new Set(['.jpg', '.jpeg', '.png', '.webp', '.gif', '.avif', '.tif', '.tiff']);

/**
 * The images of a folder with their texts. Their names are listed once here, for their number, and again when they are
 * read: a folder of millions is never held as a list.
 *
 * @throws UserError if the folder cannot be read
 */
export async function folderSource(folder: string): Promise<Source> {
  const hash = createHash('sha256');
  let size = 0;
  for await (const path of imagesIn(folder)) {
    addName(hash, path);
    size += 1;
  }
  return {
    kind: 'a folder of images with texts',
    columns: [],
    unit: 'pairs',
    identity: hash.digest('hex'),
    parts: [{ size, items: () => itemsOf(folder) }],
  };
}

/**
 * Pairs of a folder: each image with a text file of the same name beside it (`cat.jpg`, `cat.txt`), in the order of
 * names, subfolders included. The id is the path within the folder without its ending; the bytes are those of the file.
 *
 * @throws UserError if the folder cannot be read
 */
export async function* readFolder(
  folder: string,
  options: ImportOptions = {},
): AsyncGenerator<ImageTextPair> {
  yield* readPairs(await folderSource(folder), options);
}

/**
 * Pairs of a list: `.jsonl` with an object `{image, caption, id?}` a line, or `.csv`/`.tsv` with a header that names the
 * columns `image`, `caption` and optionally `id`. Paths are relative to the list. Without an id it is the image's path.
 *
 * @throws UserError if the list cannot be read, is of another kind, or has no such columns
 */
export async function* readList(file: string, options: ImportOptions = {}): AsyncGenerator<ImageTextPair> {
  yield* readPairs(await listSource(file), options);
}

/** Whether a file is an image by its name. */
export function isImage(name: string): boolean {
  return IMAGE_TYPES.has(extname(name).toLowerCase());
}

/**
 * The files in a folder and its subfolders in the order of their paths, the same on every machine. Links to folders are
 * not followed; files are listed whatever they link to.
 *
 * @throws UserError if the folder cannot be read
 */
export async function* filesIn(folder: string): AsyncGenerator<string> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((cause: unknown) => {
    throw fileError(folder, cause);
  });
  // A folder counts with its slash: so its files come where their whole paths belong
  const names = entries.map((entry) => (entry.isDirectory() ? `${entry.name}/` : entry.name));
  for (const name of names.sort(byCodeUnit)) {
    if (name.endsWith('/')) yield* filesIn(join(folder, name.slice(0, -1)));
    else yield join(folder, name);
  }
}

async function* imagesIn(folder: string): AsyncGenerator<string> {
  for await (const path of filesIn(folder)) if (isImage(path)) yield path;
}

async function* itemsOf(folder: string): AsyncGenerator<SourceItem> {
  let passed = 0;
  for await (const path of imagesIn(folder))
    yield { passed: (passed += 1), load: () => readWithText(folder, path) };
}

async function readWithText(folder: string, path: string): Promise<Found> {
  const { dir, name } = parse(path);
  const file = join(dir, `${name}.txt`);
  const bytes = await orMissing(file, () => readFile(file));
  if (bytes === null) return problemAt(path, 'no text beside the image', `${name}.txt`);
  const caption = decodeText(bytes);
  if (caption === null) return problemAt(path, 'the text is not UTF-8', `${name}.txt`);
  const id = relative(folder, join(dir, name)).split(sep).join('/');
  return readPair(path, path, { id, caption: caption.trim(), extra: {} });
}

/** The same order on every machine, whatever its language. */
function byCodeUnit(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
