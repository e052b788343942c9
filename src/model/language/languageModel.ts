/**
 * Projection → frozen LLM as one graph with its session: losses, gradients of the projection, prefill and decoding.
 * The frozen weights have no gradient anywhere: the reverse graph follows the path from the projection only.
 */
import { concat, argMax, crossEntropy, flattenRows, gather, reshape, sum } from '../../tensorflow/ops.js';
import type { Dim } from '../../tensorflow/dims.js';
import { gradients } from '../../tensorflow/gradients.js';
import { Graph, only, type GraphTensor } from '../../tensorflow/graph.js';
import type { KeptTensor, Session, TensorFlow, Values } from '../../tensorflow/session.js';
import { assignWeights } from '../weights/frozenWeights.js';
import type { Precision } from '../layers.js';
import { Llama, type LayerCache, type LlamaConfig } from './llama.js';
import {
  project,
  projectionFeeds,
  projectionInputs,
  type Projection,
  type ProjectionOptions,
} from '../projection.js';
import type { SequenceBatch } from './sequence.js';
import type { WeightSource } from '../weights/weights.js';

/** Stems whose keys and values stay in TensorFlow; a run has one, or one for each way its prompts begin. */
const STEMS_KEPT = 16;

/** One unit of computation: its samples' features and their layout. */
export interface MicroBatch {
  /** float32[I, Q, C], one for each sample; none where the layout points to no image */
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
  addStemEntry(graph, llama);
  addSequenceEntry(graph, llama, C, projection);
  addDecodeEntry(graph, llama);
  return { graph, llama };
}

/** Text that no projection precedes → caches. None at all gives empty caches. */
function addStemEntry(graph: Graph, llama: Llama): void {
  const ids = graph.placeholder('stem/ids', 'int32', [1, 'stem_P']);
  graph.entryPoint('stem', { inputs: { ids }, outputs: namedCaches(llama.forward(llama.embed(ids)).caches) });
}

/** Past, features, projection and layout → losses, gradients, logits and longer caches. */
function addSequenceEntry(graph: Graph, llama: Llama, C: number, options: ProjectionOptions): void {
  const { hiddenSize: D } = llama.config;
  const past = cachePlaceholders(llama, 'past', 1, 'P');
  const features = graph.placeholder('features', 'float32', ['I', 'Q', C]);
  const parameters = projectionInputs(graph, [C, D]);
  const tokens = graph.placeholder('tokens', 'int32', ['K']);
  const layout = graph.placeholder('layout', 'int32', ['B', 'S']);
  const positions = graph.placeholder('positions', 'int32', ['M']);
  const places = graph.placeholder('places', 'int32', ['B', 'S']);
  const targetRows = graph.placeholder('targetRows', 'int32', ['N']);
  const targetIds = graph.placeholder('targetIds', 'int32', ['N']);
  const softPrompt = project(features, parameters, options); // [I, Q, D]
  const pool = concat([flattenRows(softPrompt), llama.embed(tokens)], 0); // [I·Q + K, D]
  const flat = (grid: GraphTensor): GraphTensor => reshape(grid, ['B*S']);
  const embeddings = gather(pool, gather(flat(layout), positions)); // [M, D]
  const { hidden, caches } = llama.forwardPacked(embeddings, { positions, places }, past);
  const logits = llama.logits(gather(hidden, gather(flat(places), targetRows))); // [N, V]
  const losses = crossEntropy(logits, targetIds); // [N]
  const lossSum = sum(losses, [0]);
  const [dWeight, dBias] = gradients(lossSum, [parameters.weight, parameters.bias]) as [
    GraphTensor,
    GraphTensor,
  ]; // as wanted
  graph.entryPoint('sequence', {
    inputs: {
      ...namedCaches(past),
      features,
      ...parameters,
      tokens,
      layout,
      positions,
      places,
      targetRows,
      targetIds,
    },
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

/** One token after each chosen row of a cache → logits and longer caches. */
function addDecodeEntry(graph: Graph, llama: Llama): void {
  const ids = graph.placeholder('decode/ids', 'int32', ['decode_B', 1]);
  const rows = graph.placeholder('decode/rows', 'int32', ['decode_B']);
  const held = cachePlaceholders(llama, 'decode', 'decode_R', 'decode_P');
  const past = held.map(({ key, value }) => ({ key: gather(key, rows), value: gather(value, rows) }));
  const { hidden, caches } = llama.forward(llama.embed(ids), past);
  const logits = llama.logits(flattenRows(hidden));
  graph.entryPoint('decode', {
    inputs: { ids, rows, ...namedCaches(held) },
    outputs: { logits, next: argMax(logits), ...namedCaches(caches) },
  });
}

function cachePlaceholders({ graph, config, precision }: Llama, name: string, B: Dim, P: Dim): LayerCache[] {
  const shape = [B, config.kvHeads, P, config.headWidth];
  return Array.from({ length: config.layers }, (_, i) => ({
    key: graph.placeholder(`${name}/key${i}`, precision, shape),
    value: graph.placeholder(`${name}/value${i}`, precision, shape),
  }));
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
  /** By their tokens, least lately used first. */
  readonly #stems = new Map<string, Promise<PrefixCache>>();

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
    const inputs = feeds(projection, batch, await this.#stem(batch));
    const { lossSum, dWeight, dBias } = await this.session.run('sequence', inputs, [
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

  /**
   * Cross-entropy of every target in nats, float32[N].
   *
   * @param past one cached prefix (batch 1) that all samples continue, instead of the batch's stem
   */
  async losses(projection: Projection, batch: MicroBatch, past?: PrefixCache): Promise<Float32Array> {
    const inputs = feeds(projection, batch, past ?? (await this.#stem(batch)));
    const { losses } = await this.session.run('sequence', inputs, ['losses']);
    return losses.data as Float32Array; // the graph's output is float32
  }

  /** Logits of the target rows, float32[N, V]; soft prompts float32[B, Q, D]. For tests and probes. */
  async inspect(
    projection: Projection,
    batch: MicroBatch,
  ): Promise<Record<'logits' | 'softPrompt' | 'losses', Values>> {
    const inputs = feeds(projection, batch, await this.#stem(batch));
    return this.session.run('sequence', inputs, ['logits', 'softPrompt', 'losses']);
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
    const stem = await this.#stem(batch);
    const { values, kept } = await this.session.runKeeping(
      'sequence',
      feeds(projection, batch, stem),
      [want],
      this.#cacheNames,
    );
    return { output: values[want], cache: { tensors: kept, length: stem.length + batch.sequence.length } };
  }

  /**
   * Appends one token to each of the chosen rows; takes the old cache and gives the new one.
   *
   * @param rows int32[B]: the row of the cache that each token follows; rows may be left out, repeated and reordered
   * @param ids int32[B]
   */
  async decode(
    cache: PrefixCache,
    rows: Int32Array,
    ids: Int32Array,
    want: 'logits' | 'next',
  ): Promise<{ output: Values; cache: PrefixCache }> {
    const inputs = {
      ids: { shape: [ids.length, 1], data: ids },
      rows: { shape: [rows.length], data: rows },
      ...cache.tensors,
    };
    const { values, kept } = await this.session.runKeeping('decode', inputs, [want], this.#cacheNames);
    await this.release(cache);
    return { output: values[want], cache: { tensors: kept, length: cache.length + 1 } };
  }

  /** Frees a cache. */
  async release(cache: PrefixCache): Promise<void> {
    await this.session.release(Object.values(cache.tensors));
  }

  /** Frees the session. */
  close(): Promise<void> {
    return this.session.close();
  }

  /** The cache of a batch's stem, computed where it is new. The model owns it. */
  #stem({ sequence: { stem } }: MicroBatch): Promise<PrefixCache> {
    const name = stem.join();
    const cache = this.#stems.get(name) ?? this.#computeStem(stem);
    this.#stems.delete(name);
    this.#stems.set(name, cache); // now the last in line to go
    return cache;
  }

  async #computeStem(stem: readonly number[]): Promise<PrefixCache> {
    const [oldest] = this.#stems;
    if (oldest && this.#stems.size >= STEMS_KEPT) {
      this.#stems.delete(oldest[0]);
      await this.release(await oldest[1]);
    }
    const ids = { shape: [1, stem.length], data: Int32Array.from(stem) };
    const { kept } = await this.session.runKeeping('stem', { ids }, [], this.#cacheNames);
    return { tensors: kept, length: stem.length };
  }
}

function feeds(
  projection: Projection,
  { features, sequence }: MicroBatch,
  past: PrefixCache,
): Record<string, Values | KeptTensor> {
  const B = sequence.layout.length / sequence.length;
  const vector = (data: Int32Array): Values => ({ shape: [data.length], data });
  return {
    ...past.tensors,
    features,
    ...projectionFeeds(projection),
    tokens: vector(sequence.tokens),
    layout: { shape: [B, sequence.length], data: sequence.layout },
    positions: vector(sequence.positions),
    places: { shape: [B, sequence.length], data: sequence.places },
    targetRows: vector(sequence.targetRows),
    targetIds: vector(sequence.targetIds),
  };
}
