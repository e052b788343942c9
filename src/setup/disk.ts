/** Free space and sizes of files: what set-up and other large writers check before they write. */
import { stat, statfs } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';

import { UserError } from '../errors.js';
import { fileError, hasCode } from '../files.js';

/** What else than freeing space helps what is written under the cache. */
const LARGER_CACHE = 'set MINIGPT4_CACHE to a folder on a larger disk';

/**
 * Checks that `sizeBytes` more fit where `folder` is or will be.
 *
 * @param task what the space is for, as the message begins: `setup: downloading x`
 * @param elsewhere what to do but free some space, for the message; what set-up's users can, if left out
 * @throws UserError naming how much is needed, how much is free, and where
 */
export async function requireSpace(
  folder: string,
  sizeBytes: number,
  task: string,
  elsewhere = LARGER_CACHE,
): Promise<void> {
  const { bavail, bsize } = await statfs(await existingParent(resolve(folder)));
  const freeBytes = bavail * bsize;
  if (freeBytes >= sizeBytes) return;
  throw new UserError(
    `${task} needs ${megabytes(sizeBytes)} in ${folder}, got ${megabytes(freeBytes)} free (free some space, or ${elsewhere})`,
  );
}

/** Size of the file at `path`; undefined if there is none. */
export async function fileSize(path: string): Promise<number | undefined> {
  try {
    const stats = await stat(path);
    return stats.isFile() ? stats.size : undefined;
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw fileError(path, error);
  }
}

/** Whether a file operation failed because something is not there. */
export function isMissing(error: unknown): boolean {
  return hasCode(error, 'ENOENT', 'ENOTDIR');
}

async function existingParent(folder: string): Promise<string> {
  for (let at = folder; ; at = dirname(at)) {
    try {
      if ((await stat(at)).isDirectory()) return at;
    } catch (error) {
      if (!isMissing(error)) throw fileError(at, error);
    }
    if (dirname(at) === at) return at;
  }
}

function megabytes(sizeBytes: number): string {
  return `${Math.ceil(sizeBytes / 1e6)} MB`;
}
