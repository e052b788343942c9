/**
 * A source of pairs as packing needs it: parts in a fixed order, each with items in a fixed order, read when they are
 * wanted. So several can be read at once, and a packing that was killed goes on at the item where it was.
 */

import { createHash, type Hash } from 'node:crypto';
import { open, stat } from 'node:fs/promises';
import { isAbsolute, relative, sep } from 'node:path';
import { UserError } from '../../errors.js';
import { fileError, hasCode } from '../../files.js';
import { reasonOf } from '../bytes/fileBytes.js';
import type { ImageTextPair } from '../pairs.js';

/** Something of a source that gave no pair, or not all that was there. */
export interface ImportProblem {
  /** The image's path, `list:line`, `tar:key`, `table: row 7`. */
  readonly where: string;
  /** Why, in words that are the same for every problem of the kind. */
  readonly reason: string;
  /** What is particular to this one: a path, a size. */
  readonly detail?: string;
}

/** How the pairs of a source are read one after the other. */
export interface ImportOptions {
  /** Called for each problem; the caller counts and tells. */
  readonly onProblem?: (problem: ImportProblem) => void;
}

/** What was at one place of a source. */
export interface Found {
  readonly pair?: ImageTextPair;
  readonly problems?: readonly ImportProblem[];
}

/** One place of a source, not necessarily read yet. */
export interface SourceItem {
  /** How much of its part's `size` is passed with it. */
  readonly passed: number;
  /** Reads it; called at most once, and at the same time as others'. */
  load(): Promise<Found>;
}

/** A piece of a source that is read from its beginning: a tar, some rows of a table, a list. */
export interface SourcePart {
  /** In the source's unit. */
  readonly size: number;
  /** The same items in the same order at every call, as long as the files stay. */
  items(): AsyncIterable<SourceItem>;
}

/** Where pairs come from. */
export interface Source {
  /** What kind it was taken for, in words. */
  readonly kind: string;
  /** Columns that its pairs have beyond id, image and caption; `source` may be among them. */
  readonly columns: readonly string[];
  /** What sizes count. */
  readonly unit: 'bytes' | 'pairs';
  readonly parts: readonly SourcePart[];
  /** Hash that changes when the source does: over its files' names, sizes and times, or over their names alone. */
  readonly identity: string;
}

/** Bytes of an image at most: those of a record batch of the shards. img2dataset's images have some 20 kB. */
export const MAX_IMAGE_BYTES = 64 * 2 ** 20;

const NO_FILE = ['ENOENT', 'ENOTDIR', 'EISDIR', 'ELOOP', 'ENAMETOOLONG', 'ERR_INVALID_ARG_VALUE']; // the last: a NUL in the path
const UTF8 = new TextDecoder('utf-8', { fatal: true });
const MARKED_UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }); // which means: it stays
const MAX_JSON_BYTES = 400 * 2 ** 20; // V8's longest text has 512 Mi characters

/** Reads a source from its beginning to its end, one item at a time. */
export async function* readPairs(
  source: Source,
  { onProblem }: ImportOptions = {},
): AsyncGenerator<ImageTextPair> {
  for (const part of source.parts) {
    for await (const item of part.items()) {
      const { pair, problems = [] } = await item.load();
      for (const problem of problems) onProblem?.(problem);
      if (pair) yield pair;
    }
  }
}

/** What is wrong, in one text. */
export function problemText({ reason, detail }: ImportProblem): string {
  return detail === undefined ? reason : `${reason}: ${detail}`;
}

/** A found problem and no pair. */
export function problemAt(where: string, reason: string, detail?: string): Found {
  return { problems: [{ where, reason, ...(detail !== undefined && { detail }) }] };
}

/** An item that is known already. */
export function ready(passed: number, found: Found): SourceItem {
  return { passed, load: () => Promise.resolve(found) };
}

/**
 * The captions of a value: the text, or each of a list of texts, as data sets with several captions an image have them.
 * Anything else is one empty caption.
 */
export function captionsOf(value: unknown): readonly string[] {
  if (typeof value === 'string') return [value];
  const list = Array.isArray(value) ? (value as unknown[]) : [];
  return list.length === 0 ? [''] : list.map((one) => (typeof one === 'string' ? one : ''));
}

/** The id of an image's caption number `index`, from 0: the image's own for the first, `ID#2` for the second. */
export function captionId(id: string, index: number): string {
  return index === 0 ? id : `${id}#${index + 1}`;
}

/** The bytes of an image file, or the problem at `where`. @throws UserError if the disk fails */
export async function readImage(path: string, where: string): Promise<Uint8Array | Found> {
  const found = await orMissing(path, async () => {
    const handle = await open(path, 'r');
    try {
      const { size } = await handle.stat();
      if (size === 0) return problemAt(where, 'the image is empty');
      if (size > MAX_IMAGE_BYTES)
        return problemAt(where, `the image must have at most ${MAX_IMAGE_BYTES} bytes`, `${size} in ${path}`);
      return await handle.readFile();
    } finally {
      await handle.close();
    }
  });
  return found ?? problemAt(where, 'cannot read the image', path);
}

/** What `read` brings; null if no file is at its path. @throws UserError if the disk is at fault, and none of the data */
export async function orMissing<T>(path: string, read: () => Promise<T>): Promise<T | null> {
  try {
    return await read();
  } catch (error) {
    if (hasCode(error, ...NO_FILE)) return null;
    throw fileError(path, error);
  }
}

/** The text of bytes; null if they are not UTF-8. A byte order mark is left out unless `keepMark`. */
export function decodeText(bytes: Uint8Array, { keepMark = false } = {}): string | null {
  try {
    return (keepMark ? MARKED_UTF8 : UTF8).decode(bytes);
  } catch {
    return null; // the caller tells of it
  }
}

/** The pair of an image file and what is known of it, or the problem at `where`; the caption stays as it is. */
export async function readPair(
  path: string,
  where: string,
  { caption, ...known }: Omit<ImageTextPair, 'image'>,
): Promise<Found> {
  if (caption.trim() === '') return problemAt(where, 'caption is empty');
  const image = await readImage(path, where);
  return image instanceof Uint8Array ? { pair: { ...known, image, caption } } : image;
}

/** Hash over files' names, sizes and times of change. @throws UserError if one of them is not there */
export async function filesIdentity(paths: readonly string[]): Promise<string> {
  const hash = createHash('sha256');
  for (const path of paths) {
    const { size, mtimeMs } = await stat(path).catch((cause: unknown) => {
      throw fileError(path, cause);
    });
    addName(hash, `${path}\0${size}\0${mtimeMs}`);
  }
  return hash.digest('hex');
}

/** Adds one name to a hash over names. */
export function addName(hash: Hash, name: string): void {
  hash.update(`${name}\0\n`);
}

/**
 * Reads a JSON file.
 *
 * @param what the file in words, for the errors' texts
 * @throws UserError if it cannot be read, is too large to be one text, or is no JSON in UTF-8
 */
export async function readJson(path: string, what: string): Promise<unknown> {
  const handle = await open(path, 'r').catch((cause: unknown) => {
    throw fileError(path, cause);
  });
  try {
    const { size } = await handle.stat();
    if (size > MAX_JSON_BYTES)
      throw new UserError(
        `pack: ${what} must have at most ${MAX_JSON_BYTES} bytes, got ${size} in ${path} (make a .jsonl list of it)`,
      );
    const text = decodeText(await handle.readFile());
    if (text === null)
      throw new UserError(`pack: ${what} must be UTF-8, got other bytes in ${path} (save it as UTF-8)`);
    return JSON.parse(text) as unknown;
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw fileError(path, cause);
    throw new UserError(`pack: ${what} must be JSON, got ${reasonOf(cause)} in ${path} (copy it again)`, {
      cause,
    });
  } finally {
    await handle.close();
  }
}

/** Whether a value is an object, and no list. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Whether a path is `folder` or lies in it. */
export function isInside(folder: string, path: string): boolean {
  const way = relative(folder, path);
  return way !== '..' && !way.startsWith(`..${sep}`) && !isAbsolute(way); // "..x" is a name like any other
}
