/** Whether a packing may take the place of its output: what is there may be somebody's only copy. */

import { readdir, realpath } from 'node:fs/promises';
import { resolve } from 'node:path';
import { UserError } from '../../errors.js';
import { fileError, hasCode } from '../../files.js';
import { isInside } from '../importers/source.js';
import { readManifest } from '../shards/manifest.js';

/** What a packing reads, and whether it may replace shards that are there. */
export interface PlaceRules {
  readonly source: string;
  /** Folder of the images, where they are not in the source. */
  readonly images?: string | undefined;
  readonly overwrite: boolean;
}

/**
 * Checks that `out` is free, or is a folder of shards that may be replaced without a loss of what the packing reads.
 *
 * @throws UserError if it is not, or cannot be looked into
 */
export async function requireFree(out: string, { source, images, overwrite }: PlaceRules): Promise<void> {
  if ((await namesIn(out)).length === 0) return;
  if (!overwrite)
    throw new UserError(
      `${out}: exists already and is not empty (--force replaces it; or delete it, or choose another place)`,
    );
  const place = await realpath(out);
  for (const input of images === undefined ? [source] : [source, images])
    if (isInside(place, await realPlace(input)))
      throw new UserError(
        `${out}: must not hold what is packed into it, got ${input} (choose another place)`,
      );
  if (isInside(await realPlace(source), place))
    throw new UserError(`${out}: must not lie in its own source ${source} (choose another place)`);
  const manifest = await readManifest(out).catch(() => null); // another program's, or not to be read: not ours
  if (manifest === null)
    throw new UserError(
      `${out}: --force replaces a folder of shards alone, got one without a manifest.json of ours (choose another place, or delete it)`,
    );
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
