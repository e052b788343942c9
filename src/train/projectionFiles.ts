/** Files that hold a projection: our own, MiniGPT-4's checkpoints and LLaVA's, read and written by one list of names. */
import { extname } from 'node:path';
import { UserError } from '../errors.js';
import type { ProjectionKind } from '../model/projection.js';
import { kindOfTensors, tensorNames } from '../model/projectionTensors.js';
import { openPyTorch } from '../model/weights/pytorch.js';
import { OrderedDict, PyTorchTensor } from '../model/weights/pytorchValues.js';
import { writePyTorch, type PyTorchTree } from '../model/weights/pytorchWrite.js';
import { openSafetensors } from '../model/weights/safetensors.js';
import type { WeightSource } from '../model/weights/weights.js';
import type { HostTensor } from '../tensorflow/dtypes.js';
import { writeTensors, type NamedTensors } from './namedTensors.js';

/** A kind of file that a projection can be exported to. */
export type ProjectionFormat = 'safetensors' | 'minigpt4' | 'llava';

/** Endings of a format's files. */
export const FORMAT_ENDINGS: Readonly<Record<ProjectionFormat, readonly string[]>> = {
  safetensors: ['.safetensors'],
  minigpt4: ['.pth'],
  llava: ['.bin'],
};

/** Endings of files that a projection can be read from. */
export const PROJECTION_ENDINGS: readonly string[] = ['.safetensors', '.pth', '.pt', '.bin'];

/** What a file holds of a projection, and the names of its other tensors. */
export interface ProjectionTensors {
  readonly tensors: NamedTensors;
  readonly ignored: readonly string[];
}

const OURS = /^(llama_proj|feature_norm)\./;
/** LLaVA, llava_arch.py: `mm_projector` inside the model, saved alone as mm_projector.bin. */
const LLAVA = /^(model\.)?mm_projector\.((?:\d\.)?(?:weight|bias))$/;
const LLAVA_PREFIX = 'model.mm_projector.';

/**
 * Reads the projection of a file: `.safetensors`, a MiniGPT-4 checkpoint (`{'model': …}`), or LLaVA's mm_projector.bin.
 *
 * @throws UserError if the file is damaged or wants more than data
 */
export async function readProjection(file: string): Promise<ProjectionTensors> {
  const source = await openWeights(file);
  try {
    const tensors: Record<string, HostTensor> = {};
    const ignored: string[] = [];
    for (const name of source.names()) {
      const ours = ourName(name);
      if (ours === undefined) ignored.push(name);
      else tensors[ours] = await source.read(name);
    }
    return { tensors, ignored };
  } finally {
    await source.close();
  }
}

/** The free text that a projection's file carries; PyTorch files have no room for any. */
export async function projectionMetadata(file: string): Promise<Readonly<Record<string, string>>> {
  if (extname(file) !== '.safetensors') return {};
  const opened = await openSafetensors(file);
  await opened.close();
  return opened.metadata;
}

/**
 * Writes a projection, whole or not at all.
 *
 * `minigpt4`: `{'model': {'llama_proj.weight', 'llama_proj.bias'}}`, which the original code's loader applies;
 * `llava`: `model.mm_projector.*` at the top level, as LLaVA's `--pretrain_mm_mlp_adapter` reads it: a linear layer, or
 * `0.*` and `2.*` of its two-layer MLP.
 *
 * @param metadata free text; only safetensors has room for it
 * @throws UserError if the projection needs more than the format's code does: normalised features
 */
export async function writeProjection(
  out: string,
  format: ProjectionFormat,
  tensors: NamedTensors,
  metadata: Readonly<Record<string, string>>,
): Promise<void> {
  if (format === 'safetensors') return writeTensors(out, tensors, metadata);
  const kind = requirePlain(format, tensors, metadata);
  const named = new OrderedDict<PyTorchTree>(
    tensorNames(kind).flatMap((name) => {
      const tensor = tensors[name];
      const named = format === 'llava' ? name.replace('llama_proj.', LLAVA_PREFIX) : name;
      return tensor ? [[named, new PyTorchTensor(tensor.dtype, tensor.shape, () => tensor.data)]] : [];
    }),
  );
  await writePyTorch(out, format === 'llava' ? named : { model: named });
}

/** What the programs' own code can hold. */
const FORMAT_KINDS = { minigpt4: ['linear'], llava: ['linear', 'mlp2x_gelu'] } as const satisfies Record<
  string,
  readonly ProjectionKind[]
>;

/** Their loaders know matrices and biases, and nothing to do before them. */
function requirePlain(
  format: keyof typeof FORMAT_KINDS,
  tensors: NamedTensors,
  metadata: Readonly<Record<string, string>>,
): ProjectionKind {
  const kinds: readonly ProjectionKind[] = FORMAT_KINDS[format];
  const kind = kindOfTensors(Object.keys(tensors));
  if (kind === undefined || !kinds.includes(kind))
    throw new UserError(
      `export: format ${format} holds a projection of kind ${kinds.join(' or ')}, got ${kind ?? 'another'} (export to safetensors)`,
    );
  const extra = Object.keys(tensors).find((name) => !name.startsWith('llama_proj.'));
  if (extra === undefined && metadata['features.layer_norm'] !== 'true') return kind;
  throw new UserError(
    `export: format ${format} holds the layers only, got a projection after ${extra ? 'standardised features' : 'a LayerNorm'} (train with model.projection.standardise and layerNorm false, or export to safetensors)`,
  );
}

/** The name that a tensor has with us; undefined: it is no part of a projection. */
function ourName(name: string): string | undefined {
  if (OURS.test(name)) return name;
  const llava = LLAVA.exec(name);
  return llava ? `llama_proj.${llava[2] ?? ''}` : undefined;
}

async function openWeights(file: string): Promise<WeightSource> {
  return extname(file) === '.safetensors' ? openSafetensors(file) : openPyTorch(file);
}
