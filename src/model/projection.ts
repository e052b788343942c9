/**
 * The one trained part: `softPrompt = layers(normalise(features))`, in MiniGPT-4 one linear layer. Its float32 master
 * weights live on the main thread, where the optimizer changes them; every run is fed the current ones.
 */
import type { ProjectionConfig } from '../config/schema.js';
import type { Graph, GraphTensor } from '../tensorflow/graph.js';
import type { Values } from '../tensorflow/session.js';
import { gelu, layerNorm, linear, standardise } from './layers.js';

/** eps of the optional LayerNorm before the projection: torch's default. */
const LAYER_NORM_EPS = 1e-5;

/** `linear`: MiniGPT-4's; `linear3`: the paper's ablation of three linear layers; `mlp2x_gelu`: LLaVA 1.5's. */
export type ProjectionKind = ProjectionConfig['kind'];

/** What the projection is made of, and what happens to the features before it. */
export interface ProjectionOptions {
  readonly kind: ProjectionKind;
  /** Subtract the training set's channel means and divide by their standard deviations. */
  readonly standardise: boolean;
  /** LayerNorm without weights over the channels, after `standardise`. */
  readonly layerNorm: boolean;
}

/** The part of a configuration that decides the graph and the files: how the weights begin does not. */
export function projectionOptions({ kind, standardise, layerNorm }: ProjectionConfig): ProjectionOptions {
  return { kind, standardise, layerNorm };
}

/** Channel statistics of the training features, float32[C] each. */
export interface FeatureStatistics {
  readonly mean: Float32Array;
  readonly std: Float32Array;
}

/** float32 arrays by parameter: `weight` [out, in] as torch.nn.Linear stores it, `bias` [out]; `0.weight` … in deeper kinds. */
export type ProjectionArrays = Readonly<Record<string, Float32Array>>;

/** Master weights of the projection. */
export interface Projection {
  readonly options: ProjectionOptions;
  /** C: channels of a feature. */
  readonly inputSize: number;
  /** D: width of the LLM. */
  readonly outputSize: number;
  /** In the order of `projectionShapes`. */
  readonly parameters: ProjectionArrays;
  /** Present where `options.standardise`; frozen once training has begun. */
  readonly statistics?: FeatureStatistics;
}

/** One linear layer of a projection. */
export interface ProjectionLayer {
  /** Before `weight` and `bias`: empty, or its place in torch's Sequential and a dot. */
  readonly name: string;
  readonly inputSize: number;
  readonly outputSize: number;
  readonly geluBefore: boolean;
}

/**
 * The layers of a kind, from features to soft prompts.
 *
 * Source: `linear`: MiniGPT-4, `llama_proj`; `linear3`: its paper's ablation (b), which gives no widths: D throughout, and
 * nothing between the layers; `mlp2x_gelu`: LLaVA, llava/model/multimodal_projector/builder.py.
 */
export function projectionLayers(
  kind: ProjectionKind,
  [C, D]: readonly [number, number],
): readonly ProjectionLayer[] {
  const layer = (name: string, inputSize: number, geluBefore = false): ProjectionLayer => ({
    name,
    inputSize,
    outputSize: D,
    geluBefore,
  });
  switch (kind) {
    case 'linear':
      return [layer('', C)];
    case 'linear3':
      return [layer('0.', C), layer('1.', D), layer('2.', D)];
    case 'mlp2x_gelu':
      return [layer('0.', C), layer('2.', D, true)];
  }
}

/** Shapes of the trained parameters, by name, in the order in which they are stored and updated. */
export function projectionShapes(
  kind: ProjectionKind,
  sizes: readonly [number, number],
): Readonly<Record<string, readonly number[]>> {
  return Object.fromEntries(
    projectionLayers(kind, sizes).flatMap(({ name, inputSize, outputSize }) => [
      [`${name}weight`, [outputSize, inputSize]],
      [`${name}bias`, [outputSize]],
    ]),
  );
}

/** The projection's placeholders in a graph. */
export interface ProjectionInputs {
  readonly parameters: Readonly<Record<string, GraphTensor>>;
  readonly statistics: Readonly<Record<'featureMean' | 'featureStd', GraphTensor>>;
}

/** Placeholders for the projection's weights and statistics. */
export function projectionInputs(
  graph: Graph,
  [C, D]: readonly [number, number],
  { kind }: ProjectionOptions,
): ProjectionInputs {
  const shapes = Object.entries(projectionShapes(kind, [C, D]));
  return {
    parameters: Object.fromEntries(
      shapes.map(([name, shape]) => [name, graph.placeholder(`projection/${name}`, 'float32', shape)]),
    ),
    statistics: statisticsInputs(graph, C),
  };
}

/** Placeholders for the channel statistics of the features. */
export function statisticsInputs(graph: Graph, C: number): ProjectionInputs['statistics'] {
  return {
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
  { parameters, statistics }: ProjectionInputs,
  options: ProjectionOptions,
): GraphTensor {
  const { kind } = options;
  const sizes = [Number(features.shape.at(-1)), 0] as const; // names only: the shapes are the parameters' own
  return projectionLayers(kind, sizes).reduce(
    (x, { name, geluBefore }) => {
      const [weight, bias] = [parameters[`${name}weight`], parameters[`${name}bias`]];
      if (!weight || !bias) throw new Error(`projection: ${kind} must have ${name}weight and ${name}bias`);
      return linear(geluBefore ? gelu(x) : x, weight, bias);
    },
    normalise(features, statistics, options),
  );
}

/** Features as the first layer sees them: float32[B, Q, C], standardised and normalised where the options say so. */
export function normalise(
  features: GraphTensor,
  { featureMean, featureStd }: ProjectionInputs['statistics'],
  { standardise: centre, layerNorm: normal }: Pick<ProjectionOptions, 'standardise' | 'layerNorm'>,
): GraphTensor {
  const centred = centre ? standardise(features, featureMean, featureStd) : features;
  return normal ? layerNorm(centred, LAYER_NORM_EPS) : centred;
}

/** What a run is fed for the projection's placeholders. */
export function projectionFeeds({
  options,
  inputSize: C,
  outputSize: D,
  parameters,
  statistics,
}: Projection): Record<string, Values> {
  const shapes = projectionShapes(options.kind, [C, D]);
  return {
    ...Object.fromEntries(
      Object.entries(parameters).map(([name, data]) => [name, { shape: shapes[name] ?? [], data }]),
    ),
    ...statisticsFeeds(statistics, C),
  };
}

/** What a run is fed for the placeholders of the statistics; where there are none, what changes nothing. */
export function statisticsFeeds(
  statistics: FeatureStatistics | undefined,
  C: number,
): Record<keyof ProjectionInputs['statistics'], Values> {
  return {
    featureMean: { shape: [C], data: statistics?.mean ?? new Float32Array(C) },
    featureStd: { shape: [C], data: statistics?.std ?? new Float32Array(C).fill(1) },
  };
}

/** Number of trained parameters. */
export function parameterCount(kind: ProjectionKind, sizes: readonly [number, number]): number {
  return Object.values(projectionShapes(kind, sizes))
    .map((shape) => shape.reduce((a, b) => a * b, 1))
    .reduce((a, b) => a + b, 0);
}

/** Whether all trained weights are finite numbers. */
export function isSound({ parameters }: Projection): boolean {
  return Object.values(parameters).every((values) => values.every(Number.isFinite));
}
