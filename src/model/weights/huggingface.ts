/**
 * Hugging Face model folders: config.json, and weights as safetensors or PyTorch files, in one file or in shards that an
 * index lists. Format of the index: huggingface/transformers, `….index.json`, written by `save_pretrained`.
 */
import { readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';

import { UserError } from '../../errors.js';
import { fileError } from '../../files.js';
import { openPyTorch } from './pytorch.js';
import { openSafetensors } from './safetensors.js';
import { missingTensor, type WeightSource } from './weights.js';

/** An open model folder: its weights as one source, however many files they lie in. */
export interface HuggingFaceFolder extends WeightSource {
  /** config.json as it is; its reader checks what it takes from it. */
  readonly config: Readonly<Record<string, unknown>>;
}

/** A way in which a folder holds its weights: one file, or an index of several. */
interface Layout {
  readonly file: string;
  readonly index: string;
  readonly open: (path: string) => Promise<WeightSource>;
}

/** In order of preference: a folder often has both. */
const LAYOUTS: readonly Layout[] = [
  { file: 'model.safetensors', index: 'model.safetensors.index.json', open: openSafetensors },
  {
    file: 'pytorch_model.bin',
    index: 'pytorch_model.bin.index.json',
    open: (path) => openPyTorch(path, { root: '' }), // `save_pretrained` writes bare state dicts
  },
];

/**
 * Opens a model folder; only the weights' tables of contents are read.
 *
 * @throws UserError if a file is missing or damaged, or if the index and its shards disagree
 */
export async function openHuggingFaceFolder(folder: string): Promise<HuggingFaceFolder> {
  const config = await readJsonObject(join(folder, 'config.json'));
  const weights = await openWeights(folder);
  return { ...weights, path: folder, config };
}

async function openWeights(folder: string): Promise<WeightSource> {
  for (const { file, index, open } of LAYOUTS) {
    if (await exists(join(folder, file))) return open(join(folder, file));
    if (await exists(join(folder, index))) return openShards(folder, index, open);
  }
  const names = LAYOUTS.flatMap(({ file, index }) => [file, index]).join(' or ');
  throw new UserError(`${folder}: must hold ${names}, got none (fetch or convert the weights)`);
}

/** Opens every shard that the index names, and checks that each tensor is in the shard the index says. */
async function openShards(folder: string, index: string, open: Layout['open']): Promise<WeightSource> {
  const indexPath = join(folder, index);
  const files = parseIndex(indexPath, await readJsonObject(indexPath));
  const shards = new Map<string, WeightSource>();
  const close = async () => {
    for (const shard of shards.values()) await shard.close();
  };
  try {
    for (const file of new Set(files.values())) shards.set(file, await open(join(folder, file)));
    return joinShards(folder, locateTensors(indexPath, files, shards), close);
  } catch (error) {
    await close();
    throw error;
  }
}

/** The index's `weight_map`, shard file by tensor name. */
function parseIndex(path: string, { weight_map: map }: Record<string, unknown>): Map<string, string> {
  if (!isRecord(map)) throw new UserError(`${path}: weight_map must be an object, got ${typeof map}`);
  const files = new Map<string, string>();
  for (const [name, file] of Object.entries(map)) {
    // A bare file name only: an index must not lead out of its folder.
    if (typeof file !== 'string' || basename(file) !== file || file.startsWith('.')) {
      throw new UserError(
        `${path}: weight_map."${name}" must name a file beside it, got ${JSON.stringify(file)}`,
      );
    }
    files.set(name, file);
  }
  return files;
}

function locateTensors(
  indexPath: string,
  files: ReadonlyMap<string, string>,
  shards: ReadonlyMap<string, WeightSource>,
): Map<string, WeightSource> {
  const contents = new Map([...shards].map(([file, shard]) => [file, new Set(shard.names())]));
  const located = new Map<string, WeightSource>();
  for (const [name, file] of files) {
    const shard = shards.get(file);
    if (shard === undefined || contents.get(file)?.has(name) !== true) {
      const rule = `${file} must hold the tensor "${name}"`;
      throw new UserError(
        `${indexPath}: ${rule}, got a file without it (index and shards differ; fetch them again)`,
      );
    }
    located.set(name, shard);
  }
  return located;
}

function joinShards(
  path: string,
  tensors: ReadonlyMap<string, WeightSource>,
  close: () => Promise<void>,
): WeightSource {
  const shardOf = (name: string): WeightSource => {
    const shard = tensors.get(name);
    if (shard === undefined) throw missingTensor(path, name, [...tensors.keys()]);
    return shard;
  };
  return {
    path,
    metadata: {},
    names: () => [...tensors.keys()],
    info: (name) => shardOf(name).info(name),
    read: async (name) => shardOf(name).read(name),
    close,
  };
}

async function readJsonObject(path: string): Promise<Record<string, unknown>> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw fileError(path, error);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new UserError(`${path}: must be JSON, got ${text.length} characters that are not`, { cause });
  }
  if (!isRecord(value))
    throw new UserError(
      `${path}: must be a JSON object, got ${Array.isArray(value) ? 'a list' : typeof value}`,
    );
  return value;
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
