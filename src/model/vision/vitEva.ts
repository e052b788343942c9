/**
 * EVA-CLIP ViT-g/14 as BLIP-2 and MiniGPT-4 use it: no norm before the blocks, none after, no layer scale, biases for
 * query and value but none for key. Weights under LAVIS's names (eva_vit_g.pth) or Hugging Face's (BLIP-2, InstructBLIP).
 * Source of the arithmetic: LAVIS, lavis/models/eva_vit.py; transformers, models/blip_2/modeling_blip_2.py.
 */
import { UserError } from '../../errors.js';
import { elementCount, type HostTensor } from '../../tensorflow/dtypes.js';
import { only } from '../../tensorflow/graph.js';
import type { FrozenWeight } from '../weights/frozenWeights.js';
import { interpolatePositions } from './interpolate.js';
import type { VitConfig } from './vit.js';
import {
  blip2Heads,
  checkImageSize,
  CLIP_PIXELS,
  countLayers,
  headCount,
  type JsonObject,
  prefixOf,
  shapeOf,
} from './vitSizes.js';
import type { WeightSource } from '../weights/weights.js';

const RELEASED = { width: 1408, heads: 16, blocks: 39 };
const LAYER_NORM_EPS = 1e-6; // LAVIS, eva_vit.py, `create_eva_vit_g`; Hugging Face's older configs say 1e-5, wrongly

/** How a file names the tensors. `prefix` stands before each name: '', or the module that holds the transformer. */
export interface EvaLayout {
  readonly kind: 'eva' | 'blip2';
  readonly prefix: string;
}

/** What a file's transformer is, and the blocks of it that BLIP-2 uses. */
export interface EvaVision {
  readonly vit: VitConfig;
  readonly layout: EvaLayout;
  readonly depth: number;
}

/** What a file's shapes do not tell. */
export interface EvaOptions {
  /** Pixels of the images that will be fed, a multiple of the patch size. */
  readonly imageSize: number;
  /** Left out: 16 at width 1408; else config.json's, where there is one. */
  readonly heads?: number | undefined;
  /** Blocks to run; left out: what BLIP-2 runs, see `evaVision`. */
  readonly depth?: number | undefined;
  /** config.json of a Hugging Face BLIP-2 or InstructBLIP folder. */
  readonly config?: JsonObject | undefined;
}

/**
 * Reads sizes and naming out of a weights file's table of contents.
 *
 * Depth: a Hugging Face file holds the 39 blocks that are used. `eva_vit_g.pth` holds the whole EVA-CLIP model, of which
 * BLIP-2 drops what follows block 39; in a file of another width, which is a small model for tests, the last block is dropped.
 *
 * @throws UserError if the file holds no such transformer, or its number of heads is not known
 */
export function evaVision(source: WeightSource, { imageSize, config, ...given }: EvaOptions): EvaVision {
  const layout = evaLayout(source);
  const names = layoutNames(layout);
  const kernel = shapeOf(source, `${names.patch}.weight`, 4); // [C, 3, p, p]
  const [hiddenSize, patchSize] = [only(kernel), only(kernel, 3)];
  checkImageSize(imageSize, patchSize);
  const layers = countLayers(source, names.blocks);
  const mlp = shapeOf(source, `${names.blocks}0.mlp.fc1.weight`, 2); // [M, C]
  const heads = headCount('vit', hiddenSize, given.heads ?? configHeads(layout, config), RELEASED);
  const used = hiddenSize === RELEASED.width ? Math.min(RELEASED.blocks, layers) : Math.max(layers - 1, 1);
  return {
    layout,
    depth: given.depth ?? (layout.kind === 'blip2' ? layers : used),
    vit: {
      hiddenSize,
      layers,
      heads,
      mlpSize: only(mlp),
      patchSize,
      imageSize,
      layerNormEps: LAYER_NORM_EPS,
      ...CLIP_PIXELS,
    },
  };
}

/**
 * Which tensors fill which variables. The key's bias is zero: LAVIS leaves it out, Hugging Face stores the zeros.
 *
 * @param depth blocks that are used
 * Source: LAVIS, eva_vit.py, `Attention.forward` and `interpolate_pos_embed`.
 */
export function evaWeights(config: VitConfig, depth: number, layout: EvaLayout): FrozenWeight[] {
  const { patchSize, hiddenSize, imageSize } = config;
  const names = layoutNames(layout);
  return [
    { variable: 'class', sources: [names.token] },
    {
      variable: 'positions',
      sources: [names.positions],
      prepare: (table) => interpolatePositions(table, imageSize / patchSize),
    },
    {
      variable: 'patch/weight',
      sources: [`${names.patch}.weight`],
      prepare: (kernel) => ({ ...kernel, shape: [hiddenSize, 3 * patchSize * patchSize] }),
    },
    { variable: 'patch/bias', sources: [`${names.patch}.bias`] },
    ...Array.from({ length: depth }, (_, i) => blockWeights(layout, `${names.blocks}${i}`, i)).flat(),
  ];
}

function evaLayout(source: WeightSource): EvaLayout {
  const lavis = prefixOf(source, 'patch_embed.proj.weight');
  if (lavis !== undefined) return { kind: 'eva', prefix: lavis };
  const blip2 = prefixOf(source, 'vision_model.embeddings.patch_embedding.weight');
  if (blip2 !== undefined) return { kind: 'blip2', prefix: blip2 };
  throw new UserError(
    `${source.path}: must hold an EVA-CLIP vision transformer ("patch_embed.proj.weight" as in eva_vit_g.pth, or "vision_model.embeddings.patch_embedding.weight" as in Hugging Face's BLIP-2), got neither`,
  );
}

function layoutNames({
  kind,
  prefix,
}: EvaLayout): Record<'token' | 'positions' | 'patch' | 'blocks', string> {
  if (kind === 'eva')
    return {
      token: `${prefix}cls_token`,
      positions: `${prefix}pos_embed`,
      patch: `${prefix}patch_embed.proj`,
      blocks: `${prefix}blocks.`,
    };
  const from = `${prefix}vision_model`;
  return {
    token: `${from}.embeddings.class_embedding`,
    positions: `${from}.embeddings.position_embedding`,
    patch: `${from}.embeddings.patch_embedding`,
    blocks: `${from}.encoder.layers.`,
  };
}

function blockWeights({ kind }: EvaLayout, from: string, i: number): FrozenWeight[] {
  const eva = kind === 'eva';
  const both = (variable: string, layer: string): FrozenWeight[] =>
    ['weight', 'bias'].map((part) => ({
      variable: `block${i}/${variable}/${part}`,
      sources: [`${from}.${layer}.${part}`],
    }));
  const attention = `${from}.${eva ? 'attn' : 'self_attn'}`;
  const bias = `block${i}/qkv/bias`;
  return [
    ...both('norm1', eva ? 'norm1' : 'layer_norm1'),
    { variable: `block${i}/qkv/weight`, sources: [`${attention}.qkv.weight`] },
    eva
      ? { variable: bias, sources: [`${attention}.q_bias`, `${attention}.v_bias`], prepare: zeroKeyBias }
      : { variable: bias, sources: [`${attention}.qkv.bias`] },
    ...both('out', eva ? 'attn.proj' : 'self_attn.projection'),
    ...both('norm2', eva ? 'norm2' : 'layer_norm2'),
    ...both('fc1', 'mlp.fc1'),
    ...both('fc2', 'mlp.fc2'),
  ];
}

/** Biases of query and value, one after the other [2C], with zeros for the key between them [3C]. */
function zeroKeyBias({ dtype, shape, data }: HostTensor): HostTensor {
  const half = data.byteLength / 2; // zero is all bits zero in every float type
  const all = new Uint8Array(3 * half);
  all.set(data.subarray(0, half));
  all.set(data.subarray(half), 2 * half);
  return { dtype, shape: [(elementCount(shape) / 2) * 3], data: all };
}

function configHeads({ kind }: EvaLayout, config: JsonObject | undefined): number | undefined {
  if (kind === 'eva' || config === undefined) return undefined;
  return blip2Heads(config, 'vision_config', RELEASED.heads);
}
