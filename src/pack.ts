/** `minigpt4 pack`: any source of pairs → shards. */
import { stat } from 'node:fs/promises';

import { packEmoji } from './data/importers/emoji.js';
import { readFolder, readList, type ImportProblem } from './data/importers/folder.js';
import { writeShards } from './data/shardWriter.js';
import { UserError } from './errors.js';
import { fileError } from './files.js';

/** The word that stands for the default set; a folder of that name is `./emoji`. */
export const DEFAULT_SET = 'emoji';

/** How a source is packed. */
export interface PackOptions {
  /** Pictures of each training concept; only for the default set. */
  readonly views?: number;
  /** Only for folders and lists. */
  readonly rowsPerShard?: number;
  /** Origin and licence of the data, kept in the manifest; only for folders and lists. */
  readonly about?: string;
  /** Replace a folder that is there; the default set is always brought up to date. */
  readonly overwrite?: boolean;
  /** Pairs done so far, and their number where it is known before the end. */
  readonly onProgress?: (done: number, total?: number) => void;
  /** An image or line that is left out. */
  readonly onProblem?: (problem: ImportProblem) => void;
}

/** What was packed. */
export interface Packed {
  /** Rows by shard folder, relative to the output folder; `.` is that folder itself. */
  readonly rows: Readonly<Record<string, number>>;
  /** False if everything was there already. */
  readonly packed: boolean;
  /** Images or lines that were left out. */
  readonly problems: number;
}

/**
 * Packs a folder of images with texts beside them, a `.jsonl`, `.csv` or `.tsv` list, or the default set into `out`.
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
        `pack: ${stray} is for folders and lists, got it with ${DEFAULT_SET} (leave it out)`,
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
  const read = (await isFolder(source)) ? readFolder : readList;
  const pairs = read(source, {
    onProblem: (problem) => {
      problems += 1;
      onProblem?.(problem);
    },
  });
  const { rows } = await writeShards(out, pairs, {
    ...(rowsPerShard !== undefined && { rowsPerShard }),
    ...(about !== undefined && { about }),
    ...(overwrite !== undefined && { overwrite }),
    ...(onProgress && { onProgress: (done) => onProgress(done) }),
  });
  return { rows: { '.': rows }, packed: true, problems };
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    throw fileError(path, error);
  }
}
