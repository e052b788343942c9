/** `minigpt4 pack`: any source of pairs → shards. */
import { mkdir } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';

import { packEmoji } from './data/importers/emoji.js';
import type { EmojiStyle } from './data/importers/emojiStyles.js';
import { openSource, SOURCE_OPTIONS, type SourceOptions } from './data/importers/open.js';
import type { ImportProblem, Source } from './data/importers/source.js';
import type { DedupBy } from './data/packing/digests.js';
import { requireFree } from './data/packing/outputPlace.js';
import { leftOutOf, packPairs, type PackProgress } from './data/packing/packPairs.js';
import { ENCODER } from './data/packing/recode.js';
import { Workplace, type Identity } from './data/packing/workplace.js';
import { UserError } from './errors.js';
import { fileError } from './files.js';
import { takeLock } from './lock.js';

/** The word that stands for the default set; a folder of that name is `./emoji`. */
export const DEFAULT_SET = 'emoji';

/** How a source is packed. The default set takes `views`, `styles`, `overwrite` and `onProgress` alone, others all but the first two. */
export interface PackOptions extends SourceOptions {
  /** Pictures of each training concept. */
  readonly views?: number;
  /** Other drawing styles of which each training concept has a picture besides. */
  readonly styles?: readonly EmojiStyle[];
  /** Pairs of a shard at most. */
  readonly rowsPerShard?: number;
  /** Bytes of images and texts with which a shard ends; 4096 pairs or 256 MB if neither limit is given. */
  readonly bytesPerShard?: number;
  /** Longer side, in pixels, to which larger images are scaled down. */
  readonly maxSide?: number;
  /** JPEG quality, 1 to 100, with which images are encoded anew where that makes them smaller. */
  readonly quality?: number;
  /** Leaves out pairs whose image, or image and caption, came before. */
  readonly dedup?: DedupBy;
  /** Pairs read and encoded at the same time; the number of cores if not given. Changes nothing in the shards. */
  readonly workers?: number;
  /** Origin and licence of the data, kept in the manifest. */
  readonly about?: string;
  /**
   * Replace shards that are there, and what was begun of them with another source or other options; with the default set,
   * make its shard folders among other things.
   */
  readonly overwrite?: boolean;
  readonly onProgress?: (progress: PackProgress) => void;
  /** An image, line, sample, row or rest of a tar that is left out. */
  readonly onProblem?: (problem: ImportProblem) => void;
  /** What kind of source it is, where packing goes on, what it leaves for the next time. */
  readonly onNote?: (text: string) => void;
}

/** What was packed. */
export interface Packed {
  /** Rows by shard folder, relative to the output folder; `.` is that folder itself. */
  readonly rows: Readonly<Record<string, number>>;
  /** False if everything was there already. */
  readonly packed: boolean;
  /** What was left out, counted as it was told to `onProblem` by this process and those that began the work. */
  readonly problems: number;
  /** These by their reasons. */
  readonly reasons: Readonly<Record<string, number>>;
  /** Pairs that came again and were left out. */
  readonly duplicates: number;
  /** Images that were made smaller. */
  readonly recoded: number;
}

const POOL_THREADS = 4; // libuv's, unless UV_THREADPOOL_SIZE says otherwise; sharp works in them

/**
 * Packs a source of pairs, or the default set, into `out`. Sources are those that `openSource` knows. The folder appears
 * whole; until then the work lies in a hidden folder beside it, and the same call goes on there after a kill or an error.
 *
 * @throws UserError if the source is of no known kind or holds no pair, an option does not belong to it, `out` cannot be
 *   written or replaced, or another process packs into it
 */
export async function packSource(source: string, out: string, options: PackOptions = {}): Promise<Packed> {
  if (source === DEFAULT_SET) return packDefaultSet(out, options);
  checkOptions(source, options);
  const opened = await openSource(source, options);
  options.onNote?.(`${source}: ${opened.kind}`);
  await mkdir(dirname(resolve(out)), { recursive: true }).catch((error: unknown) => {
    throw fileError(out, error);
  });
  const lock = await takeLock(join(dirname(resolve(out)), `.${basename(resolve(out))}.pack.lock`), {
    subject: out,
    advice: 'wait for it, stop it, or choose another --out',
  });
  try {
    return await packLocked(source, opened, out, options);
  } finally {
    await lock.release();
  }
}

async function packDefaultSet(out: string, options: PackOptions): Promise<Packed> {
  const given = Object.keys(options) as (keyof PackOptions)[]; // its own keys
  const stray = given.find((name) => OPTION_NAMES[name] !== undefined && options[name] !== undefined);
  if (stray)
    throw new UserError(
      `pack: ${OPTION_NAMES[stray]} is for other sources than ${DEFAULT_SET}, got it with that (leave it out)`,
    );
  const { views, styles, overwrite = false, onProgress } = options;
  const { rows, packed } = await packEmoji(out, {
    ...(views !== undefined && { views }),
    ...(styles && { styles }),
    overwrite,
    ...(onProgress && {
      onProgress: (done, total) => onProgress({ done, total, unit: 'pairs', pairs: done }),
    }),
  });
  return { rows, packed, problems: 0, reasons: {}, duplicates: 0, recoded: 0 };
}

/** Options that only other sources than the default set take, as the command line names them. */
const OPTION_NAMES: Readonly<Partial<Record<keyof PackOptions, string>>> = {
  rowsPerShard: '--rows-per-shard',
  bytesPerShard: '--shard-size',
  maxSide: '--max-side',
  quality: '--quality',
  dedup: '--dedup',
  workers: '--workers',
  about: '--about',
  ...SOURCE_OPTIONS,
};

function checkOptions(source: string, { views, styles, quality, maxSide, workers }: PackOptions): void {
  for (const [name, value] of Object.entries({ views, styles }))
    if (value !== undefined)
      throw new UserError(`pack: --${name} is for ${DEFAULT_SET} alone, got it with ${source}`);
  if (quality !== undefined && !(quality >= 1 && quality <= 100))
    throw new UserError(`pack: --quality must be from 1 to 100, got ${quality}`);
  for (const [name, value] of Object.entries({ 'max-side': maxSide, workers }))
    if (value !== undefined && !(value >= 1))
      throw new UserError(`pack: --${name} must be at least 1, got ${value}`);
}

async function packLocked(
  source: string,
  opened: Source,
  out: string,
  options: PackOptions,
): Promise<Packed> {
  const { overwrite = false, images, onNote } = options;
  const requirePlace = () => requireFree(out, { source, images, overwrite });
  if (overwrite) await requirePlace(); // before what was begun is thrown away
  const work = await Workplace.open(out, identityOf(source, opened, options), overwrite);
  const wasPublished = work.isPublished;
  if (work.shards.length > 0 && !wasPublished)
    onNote?.(`${out}: goes on after ${work.shards.length} whole shards of an earlier start`);
  const { rows, leftOut, recoded } = work.isDone
    ? resultOf(work)
    : await packOrKeep(opened, work, options, requirePlace);
  if (!wasPublished) await requirePlace(); // something may have come there meanwhile
  await work.publish();
  const { problems, reasons, duplicates } = leftOut;
  return { rows: { '.': rows }, packed: !wasPublished, problems, reasons, duplicates, recoded };
}

/** Whole shards outlive an error, so that the same command goes on with them; without any, nothing stays. */
async function packOrKeep(
  opened: Source,
  work: Workplace,
  options: PackOptions,
  requirePlace: () => Promise<void>,
) {
  const { rowsPerShard, bytesPerShard, dedup, about, onProgress, onProblem, onNote } = options;
  const { workers = availableParallelism() } = options;
  const recipe = recipeOf(options);
  const threads = Number(process.env['UV_THREADPOOL_SIZE'] ?? POOL_THREADS);
  if (recipe && workers > threads)
    onNote?.(`images are encoded ${threads} at a time (UV_THREADPOOL_SIZE=${workers} lets ${workers})`);
  try {
    await requirePlace(); // before the work, not only after it
    return await packPairs(opened, work, {
      layout: { ...(rowsPerShard !== undefined && { rowsPerShard }), ...(bytesPerShard !== undefined && { bytesPerShard }) }, // prettier-ignore
      workers,
      ...(recipe && { recipe }),
      ...(dedup && { dedup }),
      ...(about !== undefined && { about }),
      ...(onProgress && { onProgress }),
      ...(onProblem && { onProblem }),
    });
  } catch (error) {
    if (work.shards.length === 0) await work.discard();
    else onNote?.(`${work.shards.length} whole shards are kept; the same command goes on after them`);
    throw error;
  }
}

function resultOf({ shards, state }: Workplace) {
  const rows = shards.reduce((sum, shard) => sum + shard.rows, 0);
  return { rows, leftOut: leftOutOf(state), recoded: state.recoded };
}

function recipeOf({ maxSide, quality }: PackOptions) {
  if (maxSide === undefined && quality === undefined) return undefined;
  return { ...(maxSide !== undefined && { maxSide }), ...(quality !== undefined && { quality }) };
}

/** All that the bytes of the shards depend on. */
function identityOf(source: string, opened: Source, options: PackOptions): Identity {
  const { rowsPerShard, bytesPerShard, maxSide, quality, dedup } = options;
  const { imageColumn, captionColumn, images, split } = options;
  const given = { rowsPerShard, bytesPerShard, maxSide, quality, dedup, imageColumn, captionColumn, split };
  const named = Object.entries(given).map(([name, value]) => [
    OPTION_NAMES[name as keyof PackOptions],
    value,
  ]); // keys of it
  const texts = named
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => [name, String(value)]);
  return {
    source: resolve(source),
    kind: opened.kind,
    'files (hash of names, sizes, times)': opened.identity,
    ...(images !== undefined && { '--images': resolve(images) }),
    ...(recipeOf(options) && { encoder: ENCODER }),
    ...(Object.fromEntries(texts) as Record<string, string>), // pairs of texts, by the line above
  };
}
