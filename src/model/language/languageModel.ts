/**
 * Projection → frozen LLM, loaded: losses, gradients of the projection, prefill and decoding, with the caches of common
 * beginnings kept.
 */
import { only } from '../../tensorflow/graph.js';
import type { KeptTensor, Session, TensorFlow, Values } from '../../tensorflow/session.js';
import { assignWeights } from '../weights/frozenWeights.js';
import { requireMemory } from '../weights/memory.js';
import { gradientOutput, languageModelGraph, type LanguageModelSpec } from './languageGraph.js';
import { projectionFeeds, type Projection, type ProjectionArrays } from '../projection.js';
import type { SequenceBatch } from './sequence.js';
import type { WeightSource } from '../weights/weights.js';

/** Stems whose keys and values stay in TensorFlow; a run has one, or one for each way its prompts begin. */
const STEMS_KEPT = 16;

/** One unit of computation: its samples' features and their layout. */
export interface MicroBatch {
  /** float32[I, Q, C]: the images in the order of their places, sample after sample */
  readonly features: Values;
  readonly sequence: SequenceBatch;
}

/** What one micro-batch contributes to a step: sums, so that units of any size add up. */
export interface UnitGradients {
  /** Sum of the targets' cross-entropies, nats. */
  readonly lossSum: number;
  /** N */
  readonly targetTokens: number;
  /** Gradient of `lossSum` by the projection's parameters, float32 of their shapes. */
  readonly gradients: ProjectionArrays;
}

/** Keys and values of a prefix that stay in TensorFlow; `release` them. */
export interface PrefixCache {
  readonly tensors: Readonly<Record<string, KeptTensor>>;
  /** Positions held. */
  readonly length: number;
}

/** What is asked after reading: all logits, or the likeliest token of each row. */
export type Wanted = 'logits' | 'next';

/** What the LLM says after the last position of each row, and the rows' keys and values. */
export interface Reading {
  /** `logits` float32[rows, V] or `next` int32[rows] */
  readonly output: Values;
  readonly cache: PrefixCache;
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
    requireMemory(session, 'language model');
    await assignWeights(session, source, llama.weights(), onProgress);
    return new LanguageModel(session, spec);
  }

  /** Runs that are computed at the same time, if they are asked for at the same time. */
  get concurrency(): number {
    return this.session.tensorflow.concurrency;
  }

  /** Loss sum of a micro-batch and its gradient with respect to the projection. */
  async lossAndGradients(projection: Projection, batch: MicroBatch): Promise<UnitGradients> {
    const inputs = feeds(projection, batch, await this.#stem(batch));
    const names = Object.keys(projection.parameters);
    const { lossSum, ...outputs } = await this.session.run('sequence', inputs, [
      'lossSum',
      ...names.map(gradientOutput),
    ]);
    const gradients = names.map((name) => [name, outputs[gradientOutput(name)]?.data]);
    return {
      lossSum: only([...(lossSum?.data ?? [])]),
      targetTokens: batch.sequence.targetIds.length,
      gradients: Object.fromEntries(gradients) as ProjectionArrays, // the graph's outputs are float32
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

  /** Word embeddings of tokens: float32[K, D]. */
  async embeddings(ids: readonly number[]): Promise<Float32Array> {
    const inputs = { ids: { shape: [ids.length], data: Int32Array.from(ids) } };
    const { embeddings } = await this.session.run('embed', inputs, ['embeddings']);
    return embeddings.data as Float32Array; // the graph's output is float32
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
   * @param past as for `losses`; it stays the caller's
   * @returns what was wanted; the caller releases the cache
   */
  async prefill(
    projection: Projection,
    batch: MicroBatch,
    want: Wanted,
    past?: PrefixCache,
  ): Promise<Reading> {
    const before = past ?? (await this.#stem(batch));
    const { values, kept } = await this.session.runKeeping(
      'sequence',
      feeds(projection, batch, before),
      [want],
      this.#cacheNames,
    );
    return { output: values[want], cache: { tensors: kept, length: before.length + batch.sequence.length } };
  }

  /**
   * Copies the first positions of one row of a cache.
   *
   * @param length positions to copy, at most the cache's
   * @returns a cache of one row; the caller releases both
   */
  async crop(cache: PrefixCache, length: number, row = 0): Promise<PrefixCache> {
    const positions = Int32Array.from({ length }, (_, i) => i);
    const inputs = {
      positions: { shape: [length], data: positions },
      row: { shape: [1], data: Int32Array.of(row) },
      ...cache.tensors,
    };
    const { kept } = await this.session.runKeeping('crop', inputs, [], this.#cacheNames);
    return { tensors: kept, length };
  }

  /**
   * Appends one token to each of the chosen rows; takes the old cache and gives the new one.
   *
   * @param rows int32[B]: the row of the cache that each token follows; rows may be left out, repeated and reordered
   * @param ids int32[B]
   */
  async decode(cache: PrefixCache, rows: Int32Array, ids: Int32Array, want: Wanted): Promise<Reading> {
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
  if (features.shape[0] !== sequence.images)
    throw new Error(
      `languageModel: there must be features of each image, got ${features.shape[0]} for ${sequence.images} places`,
    );
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
