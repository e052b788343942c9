/** `minigpt4 merge-delta`: base weights + published delta → a model folder, whole, checked, and said what it was made of. */
import { readdir, realpath, rm } from 'node:fs/promises';
import { basename, dirname, join, resolve, sep } from 'node:path';

import { UserError } from './errors.js';
import { fileError, writeFileWhole, writeFolderWhole } from './files.js';
import { openForMerge } from './model/delta/folders.js';
import { readBack, writeMerged, type MergedShard, type MergedWeights } from './model/delta/merge.js';
import { planMerge, type MergePlan } from './model/delta/plan.js';
import { readSideFiles, tokenizerNotes, type SideFiles } from './model/delta/sideFiles.js';
import { isMissing, requireSpace } from './setup/disk.js';
import { withLock } from './setup/lock.js';
import { silent, type OnProgress } from './setup/progress.js';
import { packageVersion } from './version.js';

/** Options of `mergeDelta`. */
export interface MergeDeltaOptions {
  /** Most bytes of tensors in a file. */
  readonly shardBytes?: number;
  /** Replace a folder that an earlier merge made. */
  readonly force?: boolean;
  /** Stops the merge, which then leaves nothing and throws the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** Bytes merged, then read back. */
  readonly onProgress?: OnProgress;
  /** What is possible but probably not wanted; told before the work begins. */
  readonly onNote?: (text: string) => void;
}

/** What was merged. */
export interface MergedModel extends Pick<MergePlan, 'model' | 'baseRows' | 'rows' | 'values' | 'sizeBytes'> {
  readonly folder: string;
  /** Tensors of all files, each read back and found equal to the sum. */
  readonly tensors: number;
  readonly shards: readonly MergedShard[];
}

/** Written into the folder: what it is made of, with SHA-256 of files and tensors. */
const RECORD_FILE = 'merge-delta.json';
const RECORD_VERSION = 1;
const DEFAULT_SHARD_BYTES = 5e9;
const MARGIN_BYTES = 16e6; // tables of contents, index and record; the rest is counted

/**
 * Adds a delta to base weights, one tensor at a time, and writes the sums with the delta's configuration and tokenizer
 * as a Hugging Face folder in the delta's dtype. Everything that can be is checked before anything is written.
 *
 * @param baseFolder LLaMA in the Hugging Face layout, `.bin` or safetensors
 * @param deltaFolder the same for the delta; rows of the embeddings that only it has are added to zero
 * @param out made by this; must not exist, or be empty, but for `force`
 * @throws UserError if the two do not belong together, are not whole, a sum is not finite, or `out` cannot be written
 * Source: lm-sys/FastChat v0.1.10, fastchat/model/apply_delta.py.
 */
export async function mergeDelta(
  baseFolder: string,
  deltaFolder: string,
  out: string,
  options: MergeDeltaOptions = {},
): Promise<MergedModel> {
  const base = await openForMerge(baseFolder);
  try {
    const delta = await openForMerge(deltaFolder);
    try {
      const plan = await planMerge(base, delta);
      const sideFiles = await readSideFiles(deltaFolder);
      for (const note of [...plan.notes, ...tokenizerNotes(deltaFolder, sideFiles)]) options.onNote?.(note);
      return await withLock(
        besideOut(out, 'lock'),
        async () => {
          await requireTarget(out, [baseFolder, deltaFolder], options.force ?? false);
          await removeLeftovers(out);
          return writeModel(plan, sideFiles, out, options);
        },
        { waitMs: 0, verb: 'merge-delta' },
      );
    } finally {
      await delta.close();
    }
  } finally {
    await base.close();
  }
}

async function writeModel(
  plan: MergePlan,
  sideFiles: SideFiles,
  out: string,
  { shardBytes = DEFAULT_SHARD_BYTES, force = false, signal, onProgress = silent }: MergeDeltaOptions,
): Promise<MergedModel> {
  const sideBytes = [...sideFiles.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
  const neededBytes = plan.sizeBytes + sideBytes + MARGIN_BYTES;
  await requireSpace(out, neededBytes, 'merge-delta: the merged model', 'choose an --out on a larger disk');
  const shards: MergedShard[] = [];
  await writeFolderWhole(out, async (folder) => {
    for (const [name, content] of sideFiles) await writeFileWhole(join(folder, name), content);
    const counted = (task: string) => ({ signal, onTensor: counter(task, plan.sizeBytes, onProgress) });
    const written = await writeMerged(folder, plan, { shardBytes, ...counted('merging') });
    await readBack(folder, plan, written.tensors, counted('reading back'));
    await writeFileWhole(join(folder, RECORD_FILE), record(plan, written));
    signal?.throwIfAborted();
    if (force) await rm(out, { recursive: true, force: true });
    shards.push(...written.shards);
  });
  const { model, baseRows, rows, values, sizeBytes, tensors } = plan;
  return { folder: out, model, baseRows, rows, values, sizeBytes, tensors: tensors.length, shards };
}

/** The record holds names, not paths: the same weights give the same bytes wherever they lie. */
function record(plan: MergePlan, { shards, tensors }: MergedWeights): string {
  const { base, delta, model, baseRows, rows, values, sizeBytes } = plan;
  const from = { base: basename(resolve(base.path)), delta: basename(resolve(delta.path)) };
  const made = { version: RECORD_VERSION, by: `minigpt4-align ${packageVersion}`, ...from };
  const content = { ...made, model, baseRows, rows, values, sizeBytes, shards, tensors };
  return `${JSON.stringify(content, null, 2)}\n`;
}

function counter(task: string, totalBytes: number, onProgress: OnProgress): (sizeBytes: number) => void {
  let doneBytes = 0;
  onProgress({ task, doneBytes, totalBytes });
  return (sizeBytes) => onProgress({ task, doneBytes: (doneBytes += sizeBytes), totalBytes });
}

/** Nothing that is there is replaced but what an earlier merge made, and never what is to be merged. */
async function requireTarget(out: string, sources: readonly string[], force: boolean): Promise<void> {
  const files = await filesOf(out);
  if (files.length === 0) return;
  if (!force) {
    throw new UserError(
      `merge-delta: ${out} must be a new folder, got one that holds ${files.slice(0, 3).join(', ')} (--force replaces what merge-delta made)`,
    );
  }
  if (!files.includes(RECORD_FILE)) {
    throw new UserError(
      `merge-delta: --force replaces what merge-delta made, got ${out} without ${RECORD_FILE} (choose another place, or delete it yourself)`,
    );
  }
  const whole = await realpath(out);
  for (const source of sources) {
    const inside = await realpath(source).catch((error: unknown) => {
      throw fileError(source, error);
    });
    if (inside !== whole && !inside.startsWith(`${whole}${sep}`)) continue;
    throw new UserError(`merge-delta: --out must not hold base or delta, got ${out} (choose another place)`);
  }
}

async function filesOf(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder)).sort();
  } catch (error) {
    if (isMissing(error)) return [];
    throw fileError(folder, error);
  }
}

/** Removes what killed merges into `out` left: `writeFolderWhole`'s temporary folders. The lock says that none is alive. */
async function removeLeftovers(out: string): Promise<void> {
  const [parent, prefix] = [dirname(resolve(out)), basename(besideOut(out, ''))];
  for (const name of await filesOf(parent)) {
    const isLeftover = name.startsWith(prefix) && /^[0-9a-f]{8}\.tmp$/.test(name.slice(prefix.length));
    if (isLeftover) await rm(join(parent, name), { recursive: true, force: true });
  }
}

/** A hidden path beside `out` that begins with its name. */
function besideOut(out: string, ending: string): string {
  const whole = resolve(out);
  return join(dirname(whole), `.${basename(whole)}.${ending}`);
}
