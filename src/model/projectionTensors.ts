/** A projection as the tensors of a file: `llama_proj.*` as the reference names them, and the statistics before it. */
import { UserError } from '../errors.js';
import type { HostTensor } from '../tensorflow/dtypes.js';
import { toFloat32 } from '../tensorflow/halfFloats.js';
import {
  projectionShapes,
  type Projection,
  type ProjectionArrays,
  type ProjectionKind,
  type ProjectionOptions,
} from './projection.js';

const PREFIX = 'llama_proj.';
const KINDS: readonly ProjectionKind[] = ['linear', 'linear3', 'mlp2x_gelu'];

/** Trained arrays under the names that a checkpoint gives them: `llama_proj.weight` … */
export function checkpointNames(arrays: ProjectionArrays): Record<string, Float32Array> {
  return Object.fromEntries(Object.entries(arrays).map(([name, values]) => [PREFIX + name, values]));
}

/** The projection as tensors of a checkpoint, under the reference's names. Copies: later steps do not change them. */
export function projectionTensors({
  options,
  inputSize: C,
  outputSize: D,
  parameters,
  statistics,
}: Projection): Record<string, HostTensor> {
  const shapes = projectionShapes(options.kind, [C, D]);
  const tensor = (shape: readonly number[], values: Float32Array): HostTensor => ({
    dtype: 'float32',
    shape,
    data: new Uint8Array(values.slice().buffer),
  });
  const trained = Object.entries(parameters).map(
    ([name, values]) => [PREFIX + name, tensor(shapes[name] ?? [], values)] as const,
  );
  return {
    ...Object.fromEntries(trained),
    ...(statistics && {
      'feature_norm.mean': tensor([C], statistics.mean),
      'feature_norm.std': tensor([C], statistics.std),
    }),
  };
}

/** The kind that a file's trained tensors make, by their names alone; undefined if they make none. */
export function kindOfTensors(names: readonly string[]): ProjectionKind | undefined {
  const trained = names.filter((name) => name.startsWith(PREFIX)).sort();
  return KINDS.find((kind) => tensorNames(kind).sort().join() === trained.join());
}

/** [C, D] of a file's projection of this kind. */
export function sizesOfTensors(
  tensors: Readonly<Record<string, HostTensor>>,
  kind: ProjectionKind,
): readonly [number, number] {
  const names = tensorNames(kind);
  const [first, last] = [tensors[names[0] ?? ''], tensors[names.at(-2) ?? '']]; // weights; a bias follows each
  return [first?.shape[1] ?? 0, last?.shape[0] ?? 0];
}

/**
 * The projection in a checkpoint's tensors.
 *
 * @param from where they were read, for messages
 * @throws UserError if a tensor is missing or the projection was trained for other widths, another kind or normalisation
 */
export function projectionFromTensors(
  tensors: Readonly<Record<string, HostTensor>>,
  sizes: readonly [number, number],
  options: ProjectionOptions,
  from: string,
): Projection {
  requireTrained(tensors, sizes, options.kind, from);
  const { 'feature_norm.mean': mean, 'feature_norm.std': std } = tensors;
  requireStatistics(mean, std, sizes[0], options, from);
  const copy = (tensor: HostTensor | undefined): Float32Array =>
    tensor ? toFloat32(tensor).slice() : new Float32Array(); // all are there: checked above
  const names = Object.keys(projectionShapes(options.kind, sizes));
  return {
    options,
    inputSize: sizes[0],
    outputSize: sizes[1],
    parameters: Object.fromEntries(names.map((name) => [name, copy(tensors[PREFIX + name])])),
    ...(mean && std && { statistics: { mean: copy(mean), std: copy(std) } }),
  };
}

function requireTrained(
  tensors: Readonly<Record<string, HostTensor>>,
  sizes: readonly [number, number],
  kind: ProjectionKind,
  from: string,
): void {
  const found = kindOfTensors(Object.keys(tensors));
  if (found !== kind) {
    const got = found
      ? `one of kind ${found} (set model.projection.kind=${found})`
      : Object.keys(tensors).join(', ') || 'nothing';
    throw new UserError(
      `${from}: a projection of kind ${kind} must hold ${tensorNames(kind).join(' and ')}, got ${got}`,
    );
  }
  for (const [name, shape] of Object.entries(projectionShapes(kind, sizes))) {
    const got = tensors[PREFIX + name]?.shape ?? [];
    if (got.join() === shape.join()) continue;
    throw new UserError(
      `${from}: ${PREFIX}${name} must be [${shape.join(', ')}] (LLM width × feature width of this config), got [${got.join(', ')}] (it was trained with another LLM or encoder)`,
    );
  }
}

function requireStatistics(
  mean: HostTensor | undefined,
  std: HostTensor | undefined,
  C: number,
  { standardise }: ProjectionOptions,
  from: string,
): void {
  if (standardise !== Boolean(mean && std)) {
    throw new UserError(
      `${from}: model.projection.standardise is ${standardise}, but the checkpoint was trained with ${mean ? 'true' : 'false'} (use the config it was trained with)`,
    );
  }
  if (mean && std && [mean, std].some(({ shape }) => shape.join() !== String(C))) {
    throw new UserError(
      `${from}: feature_norm.mean and feature_norm.std must be [${C}], got [${mean.shape.join(', ')}] and [${std.shape.join(', ')}]`,
    );
  }
}

/** Names of a kind's trained tensors in a checkpoint, weight and bias layer by layer. */
export function tensorNames(kind: ProjectionKind): string[] {
  return Object.keys(projectionShapes(kind, [1, 1])).map((name) => PREFIX + name);
}
