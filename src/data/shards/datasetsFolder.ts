/** What Hugging Face `datasets` leaves in a folder: the files that it lists, its caches, and the splits in their names. */

import { readFile } from 'node:fs/promises';
import { basename, dirname, join, sep } from 'node:path';

const CACHED_MAP = /^cache-[0-9a-f]+/;
const SPLIT = /(?:^|[-_.])(train|training|validation|valid|val|dev|test|testing|eval)(?=[-_.\d]|$)/i;
const SAME_SPLIT: Readonly<Record<string, string>> = {
  training: 'train',
  valid: 'validation',
  val: 'validation',
  dev: 'validation',
  testing: 'test',
  eval: 'test',
};

/** The files that `save_to_disk` lists, in its order; undefined for another folder. */
export async function savedFiles(folder: string): Promise<string[] | undefined> {
  const text = await readFile(join(folder, 'state.json'), 'utf8').catch(() => ''); // mostly there is none
  const listed = memberOf(parseJson(text), '_data_files');
  const names = Array.isArray(listed) ? listed.map((file: unknown) => memberOf(file, 'filename')) : [];
  const plain = names.filter((name) => typeof name === 'string' && basename(name) === name);
  if (plain.length === 0 || plain.length < names.length) return undefined;
  return plain.map((name) => join(folder, String(name)));
}

/** True of what `datasets` keeps of `map` and `filter`: the same rows again, or others. */
export function isCachedMap(path: string): boolean {
  return CACHED_MAP.test(basename(path));
}

/** `train` for `data/train-00000-of-00003.parquet`, `train/data-00000.arrow` or `name-train.arrow`; '' where none is named. */
export function splitOf(path: string): string {
  const name = basename(path).replace(/\.[^.]*$/, '');
  const folders = dirname(path).split(sep).reverse();
  for (const part of [name, ...folders]) {
    const [, split] = SPLIT.exec(part) ?? [];
    if (split !== undefined) return sameSplit(split);
  }
  return '';
}

/** One name for each split: `validation` for `dev`. */
export function sameSplit(name: string): string {
  return SAME_SPLIT[name.toLowerCase()] ?? name.toLowerCase();
}

/** Splits in words; '' is that of files whose names tell none. */
export function splitNames(splits: Iterable<string>): string {
  return [...splits].map((name) => (name === '' ? 'files without a split' : name)).join(', ');
}

function memberOf(value: unknown, key: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[key] : undefined;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null; // not of `datasets`
  }
}
