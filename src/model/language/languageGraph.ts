/**
 * Projection → frozen LLM as one graph: entry points for embeddings, losses and gradients, prefill, decoding, and caches cut short.
 * The frozen weights have no gradient anywhere: the reverse graph follows the path from the projection only.
 */
import {
  argMax,
  concat,
  crossEntropy,
  flattenRows,
  gather,
  reshape,
  slice,
  sum,
} from '../../tensorflow/ops.js';
import type { Dim } from '../../tensorflow/dims.js';
import { gradients } from '../../tensorflow/gradients.js';
import { Graph, only, type GraphTensor } from '../../tensorflow/graph.js';
import type { Precision } from '../layers.js';
import { Llama, type LayerCache, type LlamaConfig } from './llama.js';
import { project, projectionInputs, type ProjectionOptions } from '../projection.js';

/** The sizes that fix a language model graph. */
export interface LanguageModelSpec {
  readonly llama: LlamaConfig;
  /** C: channels of the features. */
  readonly featureSize: number;
  readonly precision: Precision;
  /** bfloat16 weights are made float32 for each product: for CPUs that only emulate bfloat16's. Left out: they are not. */
  readonly widen?: boolean;
  readonly projection: ProjectionOptions;
}

/** Builds the graph. */
export function languageModelGraph({
  llama: config,
  featureSize: C,
  precision,
  widen = false,
  projection,
}: LanguageModelSpec): { graph: Graph; llama: Llama } {
  const graph = new Graph({ widen });
  const llama = new Llama(graph, config, precision);
  addEmbedEntry(graph, llama);
  addStemEntry(graph, llama);
  addSequenceEntry(graph, llama, C, projection);
  addDecodeEntry(graph, llama);
  addCropEntry(graph, llama);
  return { graph, llama };
}

/** Tokens → their word embeddings. */
function addEmbedEntry(graph: Graph, llama: Llama): void {
  const ids = graph.placeholder('embed/ids', 'int32', ['embed_K']);
  graph.entryPoint('embed', { inputs: { ids }, outputs: { embeddings: llama.embed(ids) } });
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
  const trained = projectionInputs(graph, [C, D], options);
  const tokens = graph.placeholder('tokens', 'int32', ['K']);
  const layout = graph.placeholder('layout', 'int32', ['B', 'S']);
  const positions = graph.placeholder('positions', 'int32', ['M']);
  const places = graph.placeholder('places', 'int32', ['B', 'S']);
  const targetRows = graph.placeholder('targetRows', 'int32', ['N']);
  const targetIds = graph.placeholder('targetIds', 'int32', ['N']);
  const softPrompt = project(features, trained, options); // [I, Q, D]
  const pool = concat([flattenRows(softPrompt), llama.embed(tokens)], 0); // [I·Q + K, D]
  const flat = (grid: GraphTensor): GraphTensor => reshape(grid, ['B*S']);
  const embeddings = gather(pool, gather(flat(layout), positions)); // [M, D]
  const { hidden, caches } = llama.forwardPacked(embeddings, { positions, places }, past);
  const logits = llama.logits(gather(hidden, gather(flat(places), targetRows))); // [N, V]
  const losses = crossEntropy(logits, targetIds); // [N]
  const lossSum = sum(losses, [0]);
  const names = Object.keys(trained.parameters);
  const slopes = gradients(lossSum, Object.values(trained.parameters));
  graph.entryPoint('sequence', {
    inputs: {
      ...namedCaches(past),
      features,
      ...trained.parameters,
      ...trained.statistics,
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
      ...Object.fromEntries(names.map((name, i) => [gradientOutput(name), only(slopes, i)])),
      ...namedCaches(caches),
    },
  });
}

/** The output that holds the gradient of a projection's parameter. */
export function gradientOutput(parameter: string): string {
  return `gradient/${parameter}`;
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

/** The first positions of one row of a cache. */
function addCropEntry(graph: Graph, llama: Llama): void {
  // How many is the length of an input: only dims that a placeholder binds can stand in a shape.
  const positions = graph.placeholder('crop/positions', 'int32', ['crop_N']);
  const row = graph.placeholder('crop/row', 'int32', [1]);
  const held = cachePlaceholders(llama, 'crop', 'crop_R', 'crop_P');
  const { kvHeads: K, headWidth: W } = llama.config;
  const first = (whole: GraphTensor): GraphTensor =>
    slice(gather(whole, row), [0, 0, 0, 0], [1, K, 'crop_N', W]);
  const cropped = held.map(({ key, value }) => ({ key: first(key), value: first(value) }));
  graph.entryPoint('crop', {
    inputs: { positions, row, ...namedCaches(held) },
    outputs: namedCaches(cropped),
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
