/** `minigpt4 pack`: any source of pairs → shards. */
import { existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';

import { ALIGN_FILE, readAlign } from './data/importers/align.js';
import { packEmoji } from './data/importers/emoji.js';
import { readFolder, readList, type ImportProblem } from './data/importers/folder.js';
import { isTar, readTars, TAR_COLUMNS, tarsIn } from './data/importers/webdataset.js';
import { writeShards } from './data/shardWriter.js';
import { UserError } from './errors.js';
import { fileError } from './files.js';

/** The word that stands for the default set; a folder of that name is `./emoji`. */
export const DEFAULT_SET = 'emoji';

/** How a source is packed. */
export interface PackOptions {
  /** Pictures of each training concept; only for the default set. */
  readonly views?: number;
  /** Not for the default set. */
  readonly rowsPerShard?: number;
  /** Origin and licence of the data, kept in the manifest; not for the default set. */
  readonly about?: string;
  /** Replace a folder that is there; the default set is always brought up to date. */
  readonly overwrite?: boolean;
  /** Pairs done so far, and their number where it is known before the end. */
  readonly onProgress?: (done: number, total?: number) => void;
  /** An image, line, sample or rest of a tar that is left out. */
  readonly onProblem?: (problem: ImportProblem) => void;
}

/** What was packed. */
export interface Packed {
  /** Rows by shard folder, relative to the output folder; `.` is that folder itself. */
  readonly rows: Readonly<Record<string, number>>;
  /** False if everything was there already. */
  readonly packed: boolean;
  /** What was left out, counted as it was told to `onProblem`. */
  readonly problems: number;
}

/**
 * Packs a source of pairs, or the default set, into `out`. A source is a folder with `filter_cap.json` (MiniGPT-4's
 * `cc_sbu_align`), a `.tar` or a folder with such tars (webdataset, img2dataset), any other folder (images with texts beside
 * them), or a `.jsonl`, `.csv` or `.tsv` list; of a folder the first that fits.
 *
 * @throws UserError if the source is none of these or holds no pair, an option does not belong to it, or `out` cannot be written
 */
export async function packSource(source: string, out: string, options: PackOptions = {}): Promise<Packed> {
  const { views, rowsPerShard, about, overwrite, onProgress, onProblem } = options;
  if (source === DEFAULT_SET) {
    const stray =
      rowsPerShard !== undefined ? '--rows-per-shard' : about !== undefined ? '--about' : undefined;
    if (stray)
      throw new UserError(
        `pack: ${stray} is for other sources than ${DEFAULT_SET}, got it with that (leave it out)`,
      );
    const made = await packEmoji(out, {
      ...(views !== undefined && { views }),
      ...(onProgress && { onProgress }),
    });
    return { ...made, problems: 0 };
  }
  if (views !== undefined)
    throw new UserError(`pack: --views is for ${DEFAULT_SET} alone, got it with ${source}`);
  let problems = 0;
  const { read, extraColumns } = await readerOf(source);
  const pairs = read(source, {
    onProblem: (problem) => {
      problems += 1;
      onProblem?.(problem);
    },
  });
  const { rows } = await writeShards(out, pairs, {
    ...(extraColumns && { extraColumns }),
    ...(rowsPerShard !== undefined && { rowsPerShard }),
    ...(about !== undefined && { about }),
    ...(overwrite !== undefined && { overwrite }),
    ...(onProgress && { onProgress: (done) => onProgress(done) }),
  });
  return { rows: { '.': rows }, packed: true, problems };
}

/** How a kind of source is read. */
interface Reader {
  readonly read: typeof readFolder;
  /** Where they are known before the first pairs. */
  readonly extraColumns?: readonly string[];
}

async function readerOf(source: string): Promise<Reader> {
  const tars = { read: readTars, extraColumns: TAR_COLUMNS };
  if (!(await isFolder(source))) return isTar(source) ? tars : { read: readList };
  if (existsSync(join(source, ALIGN_FILE))) return { read: readAlign };
  return (await tarsIn(source)).length > 0 ? tars : { read: readFolder };
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    throw fileError(path, error);
  }
}
