/** `manifest.json` of a shard folder: which files belong to it, how large they are and what their bytes hash to. */

import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fault, reasonOf } from '../bytes/fileBytes.js';
import { hasCode } from '../../files.js';

/** File name of the manifest within its folder. */
export const MANIFEST_FILE = 'manifest.json';

/** Version that this program writes and reads. */
export const MANIFEST_VERSION = 1;

/** One shard file as the manifest lists it. */
export interface ManifestShard {
  /** Name within the folder. */
  readonly file: string;
  readonly rows: number;
  readonly bytes: number;
  /** SHA-256 of the file, 64 hex digits. */
  readonly sha256: string;
}

/** What packing left out of a set. */
export interface LeftOut {
  /** Pairs that came again, where duplicates were not wanted. */
  readonly duplicates: number;
  /** Damaged or missing images, captions, rows and the like; `problems.jsonl` beside the manifest lists each. */
  readonly problems: number;
  /** These by their reasons. */
  readonly reasons: Readonly<Record<string, number>>;
}

/** Contents of `manifest.json`. */
export interface ShardManifest {
  readonly version: number;
  readonly rows: number;
  readonly columns: readonly string[];
  /** Origin and licence of the data, in words; optional. */
  readonly about?: string;
  /** What was done to images, if the bytes are no longer the source's. */
  readonly recipe?: string;
  /** What of the source is not among the rows, if packing left something out. */
  readonly leftOut?: LeftOut;
  readonly shards: readonly ManifestShard[];
}

/**
 * Reads the manifest of a folder; null if there is none.
 *
 * @throws UserError if it is not a manifest of this version
 */
export async function readManifest(folder: string): Promise<ShardManifest | null> {
  const path = join(folder, MANIFEST_FILE);
  const text = await readFile(path, 'utf8').catch((cause: unknown) => {
    if (hasCode(cause, 'ENOENT')) return null;
    throw fault(path, `cannot read the manifest, ${reasonOf(cause)}`, 'check its permissions', cause);
  });
  return text === null ? null : parseManifest(path, text);
}

/** Hash that changes with any image, caption or order of the set: SHA-256 over the manifest's shard list. */
export function manifestFingerprint(manifest: ShardManifest): string {
  const lines = manifest.shards.map(({ file, rows, sha256 }) => `${file} ${rows} ${sha256}\n`);
  return createHash('sha256').update(lines.join('')).digest('hex');
}

/**
 * Reads a manifest from its text.
 *
 * @param path where it is from, for the error's text
 * @throws UserError if it is not a manifest of this version
 */
export function parseManifest(path: string, text: string): ShardManifest {
  const invalid = (rule: string) => fault(path, `the manifest is invalid, ${rule}`, 'pack the data again');
  const json = parseJson(path, text);
  if (json['version'] !== MANIFEST_VERSION)
    throw invalid(`version must be ${MANIFEST_VERSION}, got ${String(json['version'])}`);
  const { columns, shards, about, recipe, leftOut } = json;
  if (!isArrayOf(columns, (c) => typeof c === 'string')) throw invalid('columns must be a list of names');
  if (!isArrayOf(shards, isManifestShard) || shards.length === 0)
    throw invalid('shards must list file, rows, bytes and sha256');
  const rows = shards.reduce((sum, shard) => sum + shard.rows, 0);
  if (json['rows'] !== rows)
    throw invalid(`rows must be ${rows}, the sum of its shards, got ${String(json['rows'])}`);
  return {
    version: MANIFEST_VERSION,
    rows,
    columns,
    shards,
    ...(typeof about === 'string' ? { about } : {}),
    ...(typeof recipe === 'string' ? { recipe } : {}),
    ...(isLeftOut(leftOut) ? { leftOut } : {}),
  };
}

function parseJson(path: string, text: string): Record<string, unknown> {
  try {
    const json: unknown = JSON.parse(text);
    if (isRecord(json)) return json;
  } catch (cause) {
    throw fault(path, `the manifest is not JSON, ${reasonOf(cause)}`, 'pack the data again', cause);
  }
  throw fault(path, 'the manifest is not a JSON object', 'pack the data again');
}

function isManifestShard(value: unknown): value is ManifestShard {
  if (!isRecord(value)) return false;
  const { file, rows, bytes, sha256 } = value;
  const plainName = typeof file === 'string' && file !== '' && basename(file) === file; // never leaves the folder
  return plainName && isCount(rows) && rows > 0 && isCount(bytes) && typeof sha256 === 'string';
}

function isLeftOut(value: unknown): value is LeftOut {
  if (!isRecord(value)) return false;
  const { duplicates, problems, reasons } = value;
  return (
    isCount(duplicates) && isCount(problems) && isRecord(reasons) && Object.values(reasons).every(isCount)
  );
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isArrayOf<T>(value: unknown, is: (item: unknown) => item is T): value is T[] {
  return Array.isArray(value) && value.every(is);
}
