/** Whether a packing may take the place of its output: what is there may be somebody's only copy. */

import { readdir, realpath } from 'node:fs/promises';
import { resolve } from 'node:path';
import { UserError } from '../../errors.js';
import { fileError, hasCode } from '../../files.js';
import { isInside } from '../importers/source.js';
import { MANIFEST_FILE, readManifest } from '../shards/manifest.js';
import { PROBLEMS_FILE } from './workplace.js';

/** What a packing reads, and whether it may replace shards that are there. */
export interface PlaceRules {
  readonly source: string;
  /** Folder of the images, where they are not in the source. */
  readonly images?: string | undefined;
  readonly overwrite: boolean;
}

/**
 * Checks that `out` is free, or is a folder of shards and nothing else that may be replaced without a loss of what the
 * packing reads.
 *
 * @throws UserError if it is not, or cannot be looked into
 */
export async function requireFree(out: string, { overwrite, ...inputs }: PlaceRules): Promise<void> {
  const names = await namesIn(out);
  if (names.length === 0) return;
  const rule = (await inputAtRisk(out, inputs)) ?? (await strayIn(out, names));
  if (rule === undefined && overwrite) return;
  if (overwrite) throw new UserError(`${out}: ${rule}`);
  const advice =
    rule === undefined
      ? '--force replaces it; or delete it, or choose another place'
      : 'choose another place'; // --force would refuse it
  throw new UserError(`${out}: exists already and is not empty (${advice})`);
}

/** Why replacing `out` would lose what is packed; undefined if it would not. */
async function inputAtRisk(
  out: string,
  { source, images }: Omit<PlaceRules, 'overwrite'>,
): Promise<string | undefined> {
  const place = await realpath(out);
  for (const input of images === undefined ? [source] : [source, images])
    if (isInside(place, await realPlace(input)))
      return `must not hold what is packed into it, got ${input} (choose another place)`;
  if (isInside(await realPlace(source), place))
    return `must not lie in its own source ${source} (choose another place)`;
  return undefined;
}

/** Why `out` is not a folder of ours alone: a list elsewhere may name images in it. Undefined if it is one. */
async function strayIn(out: string, names: readonly string[]): Promise<string | undefined> {
  const rule = '--force replaces a folder of shards alone';
  const manifest = await readManifest(out).catch(() => null); // another program's, or not to be read: not ours
  if (manifest === null)
    return `${rule}, got one without a manifest.json of ours (choose another place, or delete it)`;
  const ours = new Set([MANIFEST_FILE, PROBLEMS_FILE, ...manifest.shards.map(({ file }) => file)]);
  const stray = names.find((name) => !ours.has(name));
  return stray && `${rule}, got ${stray} besides (move it away, or choose another place)`;
}

/** Names in a folder; none if there is no such folder. @throws UserError if it is a file or cannot be read */
export async function namesIn(folder: string): Promise<string[]> {
  return readdir(folder).catch((error: unknown) => {
    if (hasCode(error, 'ENOENT')) return [];
    throw fileError(folder, error);
  });
}

/** Without links: by another name a folder is the same. */
async function realPlace(path: string): Promise<string> {
  return realpath(path).catch(() => resolve(path)); // not there: nothing of it can be lost
}
