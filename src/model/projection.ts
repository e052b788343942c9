/**
 * The one trained part: `softPrompt = normalise(features) · weightᵀ + bias`. Its float32 master weights live on the
 * main thread, where the optimizer changes them; every run is fed the current ones.
 */
import { UserError } from '../errors.js';
import type { HostTensor } from '../tensorflow/dtypes.js';
import type { Graph, GraphTensor } from '../tensorflow/graph.js';
import { toFloat32 } from '../tensorflow/halfFloats.js';
import type { Values } from '../tensorflow/session.js';
import { layerNorm, linear, standardise } from './layers.js';

/** eps of the optional LayerNorm before the projection: torch's default. */
const LAYER_NORM_EPS = 1e-5;
/** Added to the channels' standard deviations so that a constant channel stays finite. */
const STD_FLOOR = 1e-3;

/** What happens to the features before the linear map. */
export interface ProjectionOptions {
  /** Subtract the training set's channel means and divide by their standard deviations. */
  readonly standardise: boolean;
  /** LayerNorm without weights over the channels, after `standardise`. */
  readonly layerNorm: boolean;
}

/** Channel statistics of the training features, float32[C] each. */
export interface FeatureStatistics {
  readonly mean: Float32Array;
  readonly std: Float32Array;
}

/** Master weights of the projection. `weight` is [D, C] as torch.nn.Linear stores it. */
export interface Projection {
  readonly options: ProjectionOptions;
  /** C: channels of a feature. */
  readonly inputSize: number;
  /** D: width of the LLM. */
  readonly outputSize: number;
  readonly weight: Float32Array;
  readonly bias: Float32Array;
  /** Present where `options.standardise`; frozen once training has begun. */
  readonly statistics?: FeatureStatistics;
}

/** How the weights begin: as torch.nn.Linear does, or so that soft prompts have the scale of the LLM's embeddings. */
export type ProjectionStart =
  | { readonly kind: 'torch' }
  | { readonly kind: 'embedding-rms'; readonly rms: number; readonly scale: number };

/**
 * A fresh projection.
 *
 * `torch`: uniform ±1/√C for weight and bias (torch.nn.Linear's kaiming_uniform with a = √5).
 * `embedding-rms`: normal with standard deviation `rms · scale / √C`, bias 0: features of unit variance then become soft
 * prompts with the root mean square of the LLM's own embeddings.
 *
 * @param random uniform [0, 1) deviates; the same ones give the same weights
 */
export function initialProjection(
  [C, D]: readonly [number, number],
  options: ProjectionOptions,
  start: ProjectionStart,
  random: () => number,
  statistics?: FeatureStatistics,
): Projection {
  const uniform = (): number => (2 * random() - 1) / Math.sqrt(C);
  const normal = (std: number): number =>
    std * Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const spread = start.kind === 'torch' ? 0 : (start.rms * start.scale) / Math.sqrt(C);
  const weight = Float32Array.from({ length: D * C }, () =>
    start.kind === 'torch' ? uniform() : normal(spread),
  );
  const bias = Float32Array.from({ length: D }, () => (start.kind === 'torch' ? uniform() : 0));
  return { options, inputSize: C, outputSize: D, weight, bias, ...(statistics ? { statistics } : {}) };
}

/** Channel means and standard deviations over all tokens of the training features, accumulated in float64. */
export function featureStatistics(features: Iterable<Float32Array>, C: number): FeatureStatistics {
  const sum = new Float64Array(C);
  const squares = new Float64Array(C);
  let rows = 0;
  for (const feature of features) {
    rows += feature.length / C;
    feature.forEach((value, i) => {
      sum[i % C] = (sum[i % C] ?? 0) + value;
      squares[i % C] = (squares[i % C] ?? 0) + value * value;
    });
  }
  if (rows === 0) throw new Error('projection: statistics need at least one feature');
  const mean = sum.map((total) => total / rows);
  const std = squares.map(
    (total, c) => Math.sqrt(Math.max(total / rows - (mean[c] ?? 0) ** 2, 0)) + STD_FLOOR,
  );
  return { mean: Float32Array.from(mean), std: Float32Array.from(std) };
}

/** The projection's placeholders in a graph. */
export type ProjectionInputs = Readonly<
  Record<'weight' | 'bias' | 'featureMean' | 'featureStd', GraphTensor>
>;

/** Placeholders for the projection's weights and statistics. */
export function projectionInputs(graph: Graph, [C, D]: readonly [number, number]): ProjectionInputs {
  return {
    weight: graph.placeholder('weight', 'float32', [D, C]),
    bias: graph.placeholder('bias', 'float32', [D]),
    featureMean: graph.placeholder('featureMean', 'float32', [C]),
    featureStd: graph.placeholder('featureStd', 'float32', [C]),
  };
}

/**
 * The projection as a graph.
 *
 * @param features float32[B, Q, C]
 * @returns soft prompt float32[B, Q, D]
 * Source: MiniGPT-4, `llama_proj` in minigpt4/models/minigpt4.py; the normalisation before it is this project's option.
 */
export function project(
  features: GraphTensor,
  inputs: ProjectionInputs,
  options: ProjectionOptions,
): GraphTensor {
  const centred = options.standardise
    ? standardise(features, inputs.featureMean, inputs.featureStd)
    : features;
  const normal = options.layerNorm ? layerNorm(centred, LAYER_NORM_EPS) : centred;
  return linear(normal, inputs.weight, inputs.bias);
}

/** What a run is fed for the projection's placeholders. */
export function projectionFeeds({
  inputSize: C,
  outputSize: D,
  weight,
  bias,
  statistics,
}: Projection): Record<keyof ProjectionInputs, Values> {
  return {
    weight: { shape: [D, C], data: weight },
    bias: { shape: [D], data: bias },
    featureMean: { shape: [C], data: statistics?.mean ?? new Float32Array(C) },
    featureStd: { shape: [C], data: statistics?.std ?? new Float32Array(C).fill(1) },
  };
}

/** The projection as tensors of a checkpoint, under the reference's names. Copies: later steps do not change them. */
export function projectionTensors({
  inputSize: C,
  outputSize: D,
  weight,
  bias,
  statistics,
}: Projection): Record<string, HostTensor> {
  const tensor = (shape: readonly number[], values: Float32Array): HostTensor => ({
    dtype: 'float32',
    shape,
    data: new Uint8Array(values.slice().buffer),
  });
  return {
    'llama_proj.weight': tensor([D, C], weight),
    'llama_proj.bias': tensor([D], bias),
    ...(statistics && {
      'feature_norm.mean': tensor([C], statistics.mean),
      'feature_norm.std': tensor([C], statistics.std),
    }),
  };
}

/**
 * The projection in a checkpoint's tensors.
 *
 * @param from where they were read, for messages
 * @throws UserError if a tensor is missing or the projection was trained for other widths or another normalisation
 */
export function projectionFromTensors(
  tensors: Readonly<Record<string, HostTensor>>,
  [C, D]: readonly [number, number],
  options: ProjectionOptions,
  from: string,
): Projection {
  const {
    'llama_proj.weight': weight,
    'llama_proj.bias': bias,
    'feature_norm.mean': mean,
    'feature_norm.std': std,
  } = tensors;
  if (!weight || !bias)
    throw new UserError(
      `${from}: a projection must hold llama_proj.weight and llama_proj.bias, got ${Object.keys(tensors).join(', ') || 'nothing'}`,
    );
  if (weight.shape.join() !== [D, C].join() || bias.shape.join() !== String(D)) {
    throw new UserError(
      `${from}: llama_proj.weight must be [${D}, ${C}] (LLM width × feature width of this config), got [${weight.shape.join(', ')}] (it was trained with another LLM or encoder)`,
    );
  }
  if (options.standardise !== Boolean(mean && std)) {
    throw new UserError(
      `${from}: model.projection.standardise is ${options.standardise}, but the checkpoint was trained with ${mean ? 'true' : 'false'} (use the config it was trained with)`,
    );
  }
  if (mean && std && [mean, std].some(({ shape }) => shape.join() !== String(C))) {
    throw new UserError(
      `${from}: feature_norm.mean and feature_norm.std must be [${C}], got [${mean.shape.join(', ')}] and [${std.shape.join(', ')}]`,
    );
  }
  const statistics =
    mean && std ? { statistics: { mean: toFloat32(mean).slice(), std: toFloat32(std).slice() } } : {};
  return {
    options,
    inputSize: C,
    outputSize: D,
    weight: toFloat32(weight).slice(),
    bias: toFloat32(bias).slice(),
    ...statistics,
  };
}
