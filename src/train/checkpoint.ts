/**
 * Checkpoints: folders `checkpoints/step-00000500` of a run, each written whole: projection, optimizer and `state.json`
 * with the SHA-256 of both. A folder of that name is either complete or damaged by something other than a crash.
 */
import { readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, extname, join } from 'node:path';

import { UserError } from '../errors.js';
import { fileError, sha256OfFile, writeFileWhole, writeFolderWhole } from '../files.js';
import { parseState, type CheckpointState, type StoredState } from './checkpointState.js';
import { readTensors, writeTensors, type NamedTensors } from './namedTensors.js';
import { PROJECTION_ENDINGS } from './projectionFiles.js';

/** What a checkpoint is made from. */
export interface CheckpointContents {
  /** Optimizer steps taken. */
  readonly step: number;
  /** `llama_proj.weight` float32[D, C] and `llama_proj.bias` float32[D], and what else the projection needs. */
  readonly projection: NamedTensors;
  /** `AdamW.exportState` and what else a resumed run needs. */
  readonly optimizer: NamedTensors;
  readonly state: CheckpointState;
}

/** What a checkpoint holds; `state` is as it was stored. */
export interface Checkpoint extends CheckpointContents {
  readonly folder: string;
  readonly state: StoredState;
}

/** File of the projection in a checkpoint folder. */
const PROJECTION_FILE = 'projection.safetensors';
const OPTIMIZER_FILE = 'optimizer.safetensors';
const METADATA = { format: 'pt' }; // what other readers of safetensors look for
const STATE_FILE = 'state.json';
const STEP_FOLDER = /^step-(\d{8,})$/;
const LEFTOVER = /^\.(.*)\.[^.]+\.tmp$/; // as files.ts names what it writes
/** A checkpoint that was to be replaced by one of the same step; a crash in between leaves it so. */
const REPLACED = /^\.(step-\d{8,})\.replaced\.tmp$/;

/**
 * Writes a checkpoint, replacing one of the same step, then deletes the older ones that need not be kept. One save at a time.
 *
 * @param retention.keep the newest checkpoints that stay
 * @param retention.keepEvery those of a step that is a multiple of this stay too; 0 = none
 * @returns its folder
 * @throws UserError if there is no space or no permission; the checkpoints that were there stay
 */
export async function saveCheckpoint(
  runFolder: string,
  { step, projection, optimizer, state }: CheckpointContents,
  { keep = 3, keepEvery = 0 }: { readonly keep?: number; readonly keepEvery?: number } = {},
): Promise<string> {
  const folder = join(checkpointsFolder(runFolder), `step-${String(step).padStart(8, '0')}`);
  const replaced = join(checkpointsFolder(runFolder), `.${basename(folder)}.replaced.tmp`);
  const write = async (temporary: string): Promise<void> => {
    await writeTensors(join(temporary, PROJECTION_FILE), projection, METADATA);
    await writeTensors(join(temporary, OPTIMIZER_FILE), optimizer, METADATA);
    const stored: StoredState = { formatVersion: 1, step, ...state, sha256: await hashes(temporary) };
    await writeFileWhole(join(temporary, STATE_FILE), `${JSON.stringify(stored, null, 2)}\n`);
    if (await exists(folder)) await rename(folder, replaced);
  };
  await writeFolderWhole(folder, write).catch(async (error: unknown) => {
    if (!(await exists(folder)) && (await exists(replaced))) await rename(replaced, folder);
    throw error;
  });
  await rm(replaced, { recursive: true, force: true });
  await deleteOld(runFolder, keep, keepEvery);
  return folder;
}

/** Folder of the newest checkpoint of a run; undefined when it has none. */
export async function latestCheckpoint(runFolder: string): Promise<string | undefined> {
  return (await checkpointFolders(runFolder)).at(-1);
}

/**
 * Reads a checkpoint folder and verifies it.
 *
 * @throws UserError if a file is missing or does not have the recorded SHA-256, or the format is unknown
 */
export async function loadCheckpoint(folder: string): Promise<Checkpoint> {
  const state = await loadState(folder);
  await verify(folder, PROJECTION_FILE, state);
  await verify(folder, OPTIMIZER_FILE, state);
  const projection = await readTensors(join(folder, PROJECTION_FILE));
  const optimizer = await readTensors(join(folder, OPTIMIZER_FILE));
  return { folder, step: state.step, projection, optimizer, state };
}

/**
 * The projection file that a path means: of a run folder its newest checkpoint's, of a checkpoint folder its own, or a
 * `.safetensors`, `.pth` or `.bin` file itself. In a checkpoint the file's SHA-256 is verified.
 *
 * @throws UserError if the path is none of these
 */
export async function findProjection(path: string): Promise<string> {
  if (!(await exists(path)))
    throw new UserError(`${path}: must be a run, a checkpoint or a projection's file, got nothing`);
  if (!(await stat(path)).isDirectory()) {
    if (PROJECTION_ENDINGS.includes(extname(path))) return path;
    throw new UserError(
      `${path}: must be a run, a checkpoint or a file ending in ${PROJECTION_ENDINGS.join(', ')}, got another file`,
    );
  }
  const folder = (await exists(join(path, STATE_FILE))) ? path : await latestCheckpoint(path);
  if (folder === undefined) {
    throw new UserError(`${path}: must hold a checkpoint, got none (run minigpt4 pretrain with it first)`);
  }
  await verify(folder, PROJECTION_FILE, await loadState(folder));
  return join(folder, PROJECTION_FILE);
}

/** The state of the checkpoint that a projection's file lies in; undefined where it lies in none. @throws UserError if it is damaged */
export async function stateBeside(file: string): Promise<StoredState | undefined> {
  const folder = dirname(file);
  if (basename(file) !== PROJECTION_FILE || !(await exists(join(folder, STATE_FILE)))) return undefined;
  return loadState(folder);
}

/**
 * Removes what a process that died while saving has left, and puts back a checkpoint that it was about to replace. Only for
 * the run's one live process (see lock.ts).
 *
 * @param files of the run's folder that are written whole
 */
export async function removeLeftovers(runFolder: string, files: readonly string[] = []): Promise<void> {
  const folder = checkpointsFolder(runFolder);
  const names = await namesIn(folder);
  for (const name of names.filter((name) => LEFTOVER.test(name))) {
    const [, step = ''] = REPLACED.exec(name) ?? [];
    if (step !== '' && !names.includes(step)) await rename(join(folder, name), join(folder, step));
    else await rm(join(folder, name), { recursive: true, force: true });
  }
  for (const name of await namesIn(runFolder)) {
    if (files.includes(LEFTOVER.exec(name)?.[1] ?? '')) await rm(join(runFolder, name), { force: true });
  }
}

async function hashes(folder: string): Promise<Record<string, string>> {
  const named = [PROJECTION_FILE, OPTIMIZER_FILE].map(
    async (name) => [name, await sha256OfFile(join(folder, name))] as const,
  );
  return Object.fromEntries(await Promise.all(named));
}

async function loadState(folder: string): Promise<StoredState> {
  const file = join(folder, STATE_FILE);
  const text = await readFile(file, 'utf8').catch((error: unknown) => {
    throw fileError(file, error);
  });
  return parseState(text, file);
}

async function verify(folder: string, name: string, state: StoredState): Promise<void> {
  const file = join(folder, name);
  const expected = state.sha256[name] ?? 'none recorded';
  const got = await sha256OfFile(file);
  if (got === expected) return;
  const advice = 'delete this checkpoint folder to go on from the one before it';
  throw new UserError(`${file}: is damaged: SHA-256 must be ${expected}, got ${got} (${advice})`);
}

async function deleteOld(runFolder: string, keep: number, keepEvery: number): Promise<void> {
  const folders = await checkpointFolders(runFolder);
  for (const folder of folders.slice(0, Math.max(0, folders.length - keep))) {
    if (keepEvery > 0 && stepOf(folder) % keepEvery === 0) continue;
    const doomed = join(checkpointsFolder(runFolder), `.${basename(folder)}.old.tmp`);
    await rename(folder, doomed); // so that a crash while deleting leaves no half checkpoint
    await rm(doomed, { recursive: true, force: true });
  }
}

/** Checkpoint folders of a run, oldest first. */
async function checkpointFolders(runFolder: string): Promise<string[]> {
  const names = (await namesIn(checkpointsFolder(runFolder))).filter((name) => STEP_FOLDER.test(name));
  return names.sort((a, b) => stepOf(a) - stepOf(b)).map((name) => join(checkpointsFolder(runFolder), name));
}

function stepOf(folder: string): number {
  return Number(STEP_FOLDER.exec(basename(folder))?.[1]);
}

async function namesIn(folder: string): Promise<string[]> {
  if (!(await exists(folder))) return [];
  return readdir(folder);
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

const checkpointsFolder = (runFolder: string) => join(runFolder, 'checkpoints');
