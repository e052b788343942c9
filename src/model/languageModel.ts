/**
 * Projection → frozen LLM as one graph with its session: losses, gradients of the projection, prefill and decoding.
 * The frozen weights have no gradient anywhere: the reverse graph follows the path from the projection only.
 */
import { concat, argMax, crossEntropy, flattenRows, gather, reshape, sum } from '../tensorflow/ops.js';
import { multiplyDims } from '../tensorflow/dims.js';
import { gradients } from '../tensorflow/gradients.js';
import { Graph, only, type GraphTensor } from '../tensorflow/graph.js';
import type { KeptTensor, Session, TensorFlow, Values } from '../tensorflow/session.js';
import { assignWeights } from './frozenWeights.js';
import type { Precision } from './layers.js';
import { Llama, type LayerCache, type LlamaConfig } from './llama.js';
import {
  project,
  projectionFeeds,
  projectionInputs,
  type Projection,
  type ProjectionOptions,
} from './projection.js';
import type { SequenceBatch } from './sequence.js';
import type { WeightSource } from './weights.js';

/** One unit of computation: its samples' features and their layout. */
export interface MicroBatch {
  /** float32[B, Q, C] */
  readonly features: Values;
  readonly sequence: SequenceBatch;
}

/** What one micro-batch contributes to a step: sums, so that units of any size add up. */
export interface UnitGradients {
  /** Sum of the targets' cross-entropies, nats. */
  readonly lossSum: number;
  /** N */
  readonly targetTokens: number;
  /** float32[D, C]: gradient of `lossSum` */
  readonly dWeight: Float32Array;
  /** float32[D] */
  readonly dBias: Float32Array;
}

/** Keys and values of a prefix that stay in TensorFlow; `release` them. */
export interface PrefixCache {
  readonly tensors: Readonly<Record<string, KeptTensor>>;
  /** Positions held. */
  readonly length: number;
}

/** The sizes that fix a language model graph. */
export interface LanguageModelSpec {
  readonly llama: LlamaConfig;
  /** C: channels of the features. */
  readonly featureSize: number;
  readonly precision: Precision;
  readonly projection: ProjectionOptions;
}

/** Builds the graph; exported for tests that look at it. */
export function languageModelGraph({
  llama: config,
  featureSize: C,
  precision,
  projection,
}: LanguageModelSpec): { graph: Graph; llama: Llama } {
  const graph = new Graph();
  const llama = new Llama(graph, config, precision);
  addSequenceEntry(graph, llama, C, projection);
  addDecodeEntry(graph, llama, 'decode', 'decode_B');
  addDecodeEntry(graph, llama, 'score', 1);
  return { graph, llama };
}

/** features, projection and layout → losses, gradients, logits and caches. */
function addSequenceEntry(graph: Graph, llama: Llama, C: number, options: ProjectionOptions): void {
  const { hiddenSize: D } = llama.config;
  const features = graph.placeholder('features', 'float32', ['B', 'Q', C]);
  const parameters = projectionInputs(graph, [C, D]);
  const tokens = graph.placeholder('tokens', 'int32', ['K']);
  const layout = graph.placeholder('layout', 'int32', ['B', 'S']);
  const positions = graph.placeholder('positions', 'int32', ['M']);
  const places = graph.placeholder('places', 'int32', ['B', 'S']);
  const targetRows = graph.placeholder('targetRows', 'int32', ['N']);
  const targetIds = graph.placeholder('targetIds', 'int32', ['N']);
  const softPrompt = project(features, parameters, options); // [B, Q, D]
  const pool = concat([flattenRows(softPrompt), llama.embed(tokens)], 0); // [B·Q + K, D]
  const flat = (grid: GraphTensor): GraphTensor => reshape(grid, ['B*S']);
  const embeddings = gather(pool, gather(flat(layout), positions)); // [M, D]
  const { hidden, caches } = llama.forwardPacked(embeddings, { positions, places });
  const logits = llama.logits(gather(hidden, gather(flat(places), targetRows))); // [N, V]
  const losses = crossEntropy(logits, targetIds); // [N]
  const lossSum = sum(losses, [0]);
  const [dWeight, dBias] = gradients(lossSum, [parameters.weight, parameters.bias]) as [
    GraphTensor,
    GraphTensor,
  ]; // as wanted
  graph.entryPoint('sequence', {
    inputs: { features, ...parameters, tokens, layout, positions, places, targetRows, targetIds },
    outputs: {
      softPrompt,
      logits,
      next: argMax(logits),
      losses,
      lossSum,
      dWeight,
      dBias,
      ...namedCaches(caches),
    },
  });
}

/** Tokens after a cached prefix → logits, losses and the longer caches. With batch 1 the prefix is shared by all rows. */
function addDecodeEntry(graph: Graph, llama: Llama, name: string, pastBatch: string | 1): void {
  const { layers, kvHeads, headWidth } = llama.config;
  const [B, T, P, N] = [`${name}_B`, `${name}_T`, `${name}_P`, `${name}_N`];
  const ids = graph.placeholder(`${name}/ids`, 'int32', [B, T]);
  const rows = graph.placeholder(`${name}/rows`, 'int32', [N]);
  const labels = graph.placeholder(`${name}/labels`, 'int32', [N]);
  const past: LayerCache[] = Array.from({ length: layers }, (_, i) => ({
    key: graph.placeholder(`${name}/key${i}`, llama.precision, [pastBatch, kvHeads, P, headWidth]),
    value: graph.placeholder(`${name}/value${i}`, llama.precision, [pastBatch, kvHeads, P, headWidth]),
  }));
  const { hidden, caches } = llama.forward(llama.embed(ids), past);
  const flat = reshape(hidden, [multiplyDims(B, T), llama.config.hiddenSize]);
  const logits = llama.logits(gather(flat, rows));
  graph.entryPoint(name, {
    inputs: { ids, rows, labels, ...namedCaches(past) },
    outputs: { logits, next: argMax(logits), losses: crossEntropy(logits, labels), ...namedCaches(caches) },
  });
}

function namedCaches(caches: readonly LayerCache[]): Record<string, GraphTensor> {
  return Object.fromEntries(
    caches.flatMap(({ key, value }, i) => [
      [`key${i}`, key],
      [`value${i}`, value],
    ]),
  );
}

/** The frozen LLM with the projection in front of it, loaded and ready to run. */
export class LanguageModel {
  readonly #cacheNames: readonly string[];

  private constructor(
    readonly session: Session,
    readonly spec: LanguageModelSpec,
  ) {
    this.#cacheNames = Array.from({ length: spec.llama.layers }, (_, i) => [`key${i}`, `value${i}`]).flat();
  }

  /** Builds and loads the graph and assigns the weights from `source`. */
  static async open(
    tensorflow: TensorFlow,
    spec: LanguageModelSpec,
    source: WeightSource,
    onProgress?: (done: number) => void,
  ): Promise<LanguageModel> {
    const { graph, llama } = languageModelGraph(spec);
    const session = await tensorflow.load(graph);
    await assignWeights(session, source, llama.weights(), onProgress);
    return new LanguageModel(session, spec);
  }

  /** Loss sum of a micro-batch and its gradient with respect to the projection. */
  async lossAndGradients(projection: Projection, batch: MicroBatch): Promise<UnitGradients> {
    const { lossSum, dWeight, dBias } = await this.session.run('sequence', feeds(projection, batch), [
      'lossSum',
      'dWeight',
      'dBias',
    ]);
    return {
      lossSum: only([...lossSum.data]),
      targetTokens: batch.sequence.targetIds.length,
      dWeight: dWeight.data as Float32Array, // the graph's output is float32
      dBias: dBias.data as Float32Array, // likewise
    };
  }

  /** Cross-entropy of every target in nats, float32[N]. */
  async losses(projection: Projection, batch: MicroBatch): Promise<Float32Array> {
    const { losses } = await this.session.run('sequence', feeds(projection, batch), ['losses']);
    return losses.data as Float32Array; // the graph's output is float32
  }

  /** Logits of the target rows, float32[N, V]; soft prompts float32[B, Q, D]. For tests and probes. */
  async inspect(
    projection: Projection,
    batch: MicroBatch,
  ): Promise<Record<'logits' | 'softPrompt' | 'losses', Values>> {
    return this.session.run('sequence', feeds(projection, batch), ['logits', 'softPrompt', 'losses']);
  }

  /**
   * Runs prefixes of one common length and keeps their keys and values.
   *
   * @param want `logits` float32[N, V] of the batch's target rows, or `next` int32[N], the likeliest token of each
   * @returns what was wanted; the caller releases the cache
   */
  async prefill(
    projection: Projection,
    batch: MicroBatch,
    want: 'logits' | 'next',
  ): Promise<{ output: Values; cache: PrefixCache }> {
    const { values, kept } = await this.session.runKeeping(
      'sequence',
      feeds(projection, batch),
      [want],
      this.#cacheNames,
    );
    return { output: values[want], cache: { tensors: kept, length: batch.sequence.length } };
  }

  /** Appends one token to each row of a cached prefix; takes the old cache and gives the new one. */
  async decode(
    cache: PrefixCache,
    ids: Int32Array,
    want: 'logits' | 'next',
  ): Promise<{ output: Values; cache: PrefixCache }> {
    const B = ids.length;
    const rows = rowFeeds(Int32Array.from(ids.keys()), new Int32Array(B));
    const inputs = { ids: { shape: [B, 1], data: ids }, ...rows, ...cache.tensors };
    const { values, kept } = await this.session.runKeeping('decode', inputs, [want], this.#cacheNames);
    await this.release(cache);
    return { output: values[want], cache: { tensors: kept, length: cache.length + 1 } };
  }

  /**
   * Scores many continuations of one cached prefix (batch 1).
   *
   * @param ids int32[B, T] inputs
   * @param rows int32[N] flat positions b·T + t
   * @param labels int32[N] the tokens that should follow there
   * @returns cross-entropies in nats, float32[N]
   */
  async score(cache: PrefixCache, ids: Values, rows: Int32Array, labels: Int32Array): Promise<Float32Array> {
    const { losses } = await this.session.run('score', { ids, ...rowFeeds(rows, labels), ...cache.tensors }, [
      'losses',
    ]);
    return losses.data as Float32Array; // the graph's output is float32
  }

  /** Frees a cache. */
  async release(cache: PrefixCache): Promise<void> {
    await this.session.release(Object.values(cache.tensors));
  }

  /** Frees the session. */
  close(): Promise<void> {
    return this.session.close();
  }
}

function rowFeeds(rows: Int32Array, labels: Int32Array): Record<'rows' | 'labels', Values> {
  return { rows: { shape: [rows.length], data: rows }, labels: { shape: [labels.length], data: labels } };
}

function feeds(projection: Projection, { features, sequence }: MicroBatch): Record<string, Values> {
  const [B] = features.shape;
  const vector = (data: Int32Array): Values => ({ shape: [data.length], data });
  return {
    features,
    ...projectionFeeds(projection),
    tokens: vector(sequence.tokens),
    layout: { shape: [B ?? 0, sequence.length], data: sequence.layout },
    positions: vector(sequence.positions),
    places: { shape: [B ?? 0, sequence.length], data: sequence.places },
    targetRows: vector(sequence.targetRows),
    targetIds: vector(sequence.targetIds),
  };
}
