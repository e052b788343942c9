/**
 * Q-Former and `ln_vision` in weights files: LAVIS's `blip2_pretrained_*.pth`, and Hugging Face's BLIP-2 and InstructBLIP.
 * Text embeddings, text feed-forward layers, `cls` and the files' own projections are left alone.
 */
import { UserError } from '../../errors.js';
import { only } from '../../tensorflow/graph.js';
import type { FrozenWeight } from '../weights/frozenWeights.js';
import type { QFormerConfig } from './qformer.js';
import { blip2Heads, countLayers, headCount, type JsonObject, prefixOf, shapeOf } from './vitSizes.js';
import type { WeightSource } from '../weights/weights.js';

const RELEASED = { width: 768, heads: 12 };
const LAVIS_NORM = 'Qformer.bert.embeddings.LayerNorm.weight';
const BLIP2_NORM = 'qformer.layernorm.weight';
const INSTRUCT_NORM = 'qformer.embeddings.layernorm.weight';

/** How a file names the tensors. `prefix` stands before each name: '', or the module that holds the Q-Former. */
export interface QFormerLayout {
  readonly kind: 'lavis' | 'blip2' | 'instructblip';
  readonly prefix: string;
}

/** What a file's Q-Former is. */
export interface QFormerPart {
  readonly config: QFormerConfig;
  readonly layout: QFormerLayout;
}

/** What a file's shapes do not tell. */
export interface QFormerOptions {
  /** Left out: 12 at width 768; else config.json's, where there is one. */
  readonly heads?: number | undefined;
  /** config.json of a Hugging Face BLIP-2 or InstructBLIP folder. */
  readonly config?: JsonObject | undefined;
}

/**
 * Reads sizes and naming out of a weights file's table of contents.
 *
 * @throws UserError if the file holds no Q-Former, or its number of heads is not known
 */
export function qformerPart(source: WeightSource, { heads, config }: QFormerOptions = {}): QFormerPart {
  const layout = qformerLayout(source);
  const names = layoutNames(layout);
  const table = shapeOf(source, names.queries, 3); // [1, Q, D]
  const hiddenSize = only(table, 2);
  const layers = countLayers(source, names.layers);
  const crossAttention = crossLayers(source, names, layers);
  const key = `${names.layers}${only(crossAttention)}.crossattention.${names.inner}.key.weight`;
  return {
    layout,
    config: {
      queries: only(table, 1),
      hiddenSize,
      layers,
      heads: headCount('qformer', hiddenSize, heads ?? configHeads(layout, config), RELEASED),
      mlpSize: only(shapeOf(source, `${names.layers}0.intermediate_query.dense.weight`, 2)), // [M, D]
      encoderWidth: only(shapeOf(source, key, 2), 1), // [D, W]
      crossAttention,
    },
  };
}

/** Which tensors fill which variables of `QFormer`. */
export function qformerWeights(config: QFormerConfig, layout: QFormerLayout): FrozenWeight[] {
  const names = layoutNames(layout);
  return [
    { variable: 'qformer/queries', sources: [names.queries] },
    ...both('qformer/norm', names.norm),
    ...Array.from({ length: config.layers }, (_, i) =>
      layerWeights(names, i, config.crossAttention.includes(i)),
    ).flat(),
  ];
}

/** Which tensors fill the variables of `lnVision`: the Q-Former's file holds them, not `eva_vit_g.pth`. */
export function lnVisionWeights({ kind, prefix }: QFormerLayout): FrozenWeight[] {
  return both('lnVision', `${prefix}${kind === 'lavis' ? 'ln_vision' : 'vision_model.post_layernorm'}`);
}

/** Where a layout keeps what. `inner` is the module inside an attention that holds query, key and value. */
interface Names {
  readonly queries: string;
  readonly norm: string;
  readonly layers: string;
  readonly inner: string;
}

function qformerLayout(source: WeightSource): QFormerLayout {
  const lavis = prefixOf(source, LAVIS_NORM);
  if (lavis !== undefined) return { kind: 'lavis', prefix: lavis };
  const blip2 = prefixOf(source, BLIP2_NORM);
  if (blip2 !== undefined) return { kind: 'blip2', prefix: blip2 };
  const instruct = prefixOf(source, INSTRUCT_NORM);
  if (instruct !== undefined) return { kind: 'instructblip', prefix: instruct };
  throw new UserError(
    `${source.path}: must hold a Q-Former ("${LAVIS_NORM}" as in blip2_pretrained_*.pth, or "${BLIP2_NORM}" or "${INSTRUCT_NORM}" as in Hugging Face's folders), got none`,
  );
}

function layoutNames({ kind, prefix }: QFormerLayout): Names {
  const queries = `${prefix}query_tokens`;
  if (kind === 'lavis')
    return {
      queries,
      norm: `${prefix}Qformer.bert.embeddings.LayerNorm`,
      layers: `${prefix}Qformer.bert.encoder.layer.`,
      inner: 'self',
    };
  return {
    queries,
    norm: `${prefix}qformer.${kind === 'blip2' ? 'layernorm' : 'embeddings.layernorm'}`,
    layers: `${prefix}qformer.encoder.layer.`,
    inner: 'attention',
  };
}

/** The layers that have a cross-attention. */
function crossLayers(source: WeightSource, { layers, inner }: Names, count: number): number[] {
  const names = new Set(source.names());
  const found = Array.from({ length: count }, (_, i) => i).filter((i) =>
    names.has(`${layers}${i}.crossattention.${inner}.key.weight`),
  );
  if (found.length > 0) return found;
  throw new UserError(
    `${source.path}: some layer of the Q-Former must look at the image, got no "${layers}0.crossattention.${inner}.key.weight"`,
  );
}

function layerWeights({ layers, inner }: Names, i: number, looks: boolean): FrozenWeight[] {
  const from = `${layers}${i}`;
  const to = `qformer/layer${i}`;
  const parts = (attention: string, ...names: string[]): string[] =>
    names.map((name) => `${from}.${attention}.${name}`);
  const crossAttention = [
    ...both(`${to}/cross/q`, ...parts(`crossattention.${inner}`, 'query')),
    ...both(`${to}/cross/kv`, ...parts(`crossattention.${inner}`, 'key', 'value')),
    ...both(`${to}/cross/out`, `${from}.crossattention.output.dense`),
    ...both(`${to}/cross/norm`, `${from}.crossattention.output.LayerNorm`),
  ];
  return [
    ...both(`${to}/self/qkv`, ...parts(`attention.${inner}`, 'query', 'key', 'value')),
    ...both(`${to}/self/out`, `${from}.attention.output.dense`),
    ...both(`${to}/self/norm`, `${from}.attention.output.LayerNorm`),
    ...(looks ? crossAttention : []),
    ...both(`${to}/fc1`, `${from}.intermediate_query.dense`),
    ...both(`${to}/fc2`, `${from}.output_query.dense`),
    ...both(`${to}/norm`, `${from}.output_query.LayerNorm`),
  ];
}

function both(variable: string, ...layers: string[]): FrozenWeight[] {
  return ['weight', 'bias'].map((part) => ({
    variable: `${variable}/${part}`,
    sources: layers.map((layer) => `${layer}.${part}`),
  }));
}

function configHeads({ kind }: QFormerLayout, config: JsonObject | undefined): number | undefined {
  if (kind === 'lavis' || config === undefined) return undefined;
  return blip2Heads(config, 'qformer_config', RELEASED.heads);
}
