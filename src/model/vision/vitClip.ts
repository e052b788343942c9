/**
 * CLIP's vision transformer, as LLaVA uses it: a norm before the blocks, no bias in the patch embedding, and the
 * residual stream before the last block. Weights under Hugging Face's names (CLIPModel, CLIPVisionModel, LLaVA).
 * Source of the arithmetic: transformers, models/clip/modeling_clip.py; the choice of layer: LLaVA,
 * llava/model/multimodal_encoder/clip_encoder.py, `feature_select` (mm_vision_select_layer -2).
 */
import { UserError } from '../../errors.js';
import type { HostTensor } from '../../tensorflow/dtypes.js';
import { only } from '../../tensorflow/graph.js';
import type { FrozenWeight } from '../weights/frozenWeights.js';
import { interpolatePositions } from './interpolate.js';
import type { VitConfig } from './vit.js';
import {
  checkImageSize,
  CLIP_PIXELS,
  countLayers,
  headCount,
  prefixOf,
  section,
  shapeOf,
  wholeNumber,
  type JsonObject,
} from './vitSizes.js';
import type { WeightSource } from '../weights/weights.js';

const ROOT = 'vision_model.embeddings.patch_embedding.weight';
/** transformers, configuration_clip.py, `CLIPVisionConfig`: what save_pretrained leaves out of config.json. */
const DEFAULTS = { heads: 12, eps: 1e-5, activation: 'quick_gelu' };

/** How a file names the tensors. `prefix` stands before `vision_model`: '', or the module that holds it. */
export interface ClipLayout {
  readonly kind: 'clip';
  readonly prefix: string;
}

/** What a file's transformer is, and the blocks of it that LLaVA uses. */
export interface ClipVision {
  readonly vit: VitConfig;
  readonly layout: ClipLayout;
  readonly depth: number;
}

/** Options of `clipVision`. */
export interface ClipOptions {
  /** Pixels of the images that will be fed, a multiple of the patch size. */
  readonly imageSize: number;
  /** Blocks to run; left out: all but the last, LLaVA's penultimate layer. */
  readonly depth?: number | undefined;
}

/**
 * Reads sizes and naming out of a model folder's config.json and table of contents.
 *
 * @param json config.json of a CLIPModel, CLIPVisionModel or LLaVA
 * @throws UserError if the file holds no such transformer, or config.json asks for another activation
 */
export function clipVision(
  source: WeightSource,
  json: JsonObject,
  { imageSize, depth }: ClipOptions,
): ClipVision {
  const layout = clipLayout(source);
  const names = `${layout.prefix}vision_model`;
  const config = json['vision_config'] === undefined ? json : section(json, 'vision_config');
  const kernel = shapeOf(source, `${names}.embeddings.patch_embedding.weight`, 4); // [C, 3, p, p]
  const [hiddenSize, patchSize] = [only(kernel), only(kernel, 3)];
  checkImageSize(imageSize, patchSize);
  const layers = countLayers(source, `${names}.encoder.layers.`);
  const mlp = shapeOf(source, `${names}.encoder.layers.0.mlp.fc1.weight`, 2); // [M, C]
  const heads = wholeNumber(config, 'num_attention_heads') ?? DEFAULTS.heads;
  return {
    layout,
    depth: depth ?? Math.max(layers - 1, 1),
    vit: {
      hiddenSize,
      layers,
      heads: headCount('vit', hiddenSize, heads, { width: hiddenSize, heads }),
      mlpSize: only(mlp),
      patchSize,
      imageSize,
      layerNormEps: layerNormEps(config),
      activation: activation(config),
      ...CLIP_PIXELS,
    },
  };
}

/**
 * Which tensors fill which variables. `post_layernorm` is not among them: CLIP applies it to its pooled output only.
 *
 * @param depth blocks that are used
 */
export function clipWeights(config: VitConfig, depth: number, { prefix }: ClipLayout): FrozenWeight[] {
  const { patchSize, hiddenSize, imageSize } = config;
  const from = `${prefix}vision_model`;
  return [
    { variable: 'class', sources: [`${from}.embeddings.class_embedding`], prepare: withLeadingOnes },
    {
      variable: 'positions',
      sources: [`${from}.embeddings.position_embedding.weight`],
      prepare: (table) => withLeadingOnes(interpolatePositions(table, imageSize / patchSize)),
    },
    {
      variable: 'patch/weight',
      sources: [`${from}.embeddings.patch_embedding.weight`],
      prepare: (kernel) => ({ ...kernel, shape: [hiddenSize, 3 * patchSize * patchSize] }),
    },
    ...both('prenorm', `${from}.pre_layrnorm`), // the reference's spelling
    ...Array.from({ length: depth }, (_, i) => blockWeights(`${from}.encoder.layers.${i}`, i)).flat(),
  ];
}

function clipLayout(source: WeightSource): ClipLayout {
  const prefix = prefixOf(source, ROOT);
  if (prefix === undefined)
    throw new UserError(`${source.path}: must hold a CLIP vision transformer ("${ROOT}"), got none`);
  return { kind: 'clip', prefix };
}

function blockWeights(from: string, i: number): FrozenWeight[] {
  const qkv = ['q_proj', 'k_proj', 'v_proj'].map((part) => `${from}.self_attn.${part}`);
  return [
    ...both(`block${i}/norm1`, `${from}.layer_norm1`),
    ...both(`block${i}/qkv`, ...qkv),
    ...both(`block${i}/out`, `${from}.self_attn.out_proj`),
    ...both(`block${i}/norm2`, `${from}.layer_norm2`),
    ...both(`block${i}/fc1`, `${from}.mlp.fc1`),
    ...both(`block${i}/fc2`, `${from}.mlp.fc2`),
  ];
}

function both(variable: string, ...layers: string[]): FrozenWeight[] {
  return ['weight', 'bias'].map((part) => ({
    variable: `${variable}/${part}`,
    sources: layers.map((layer) => `${layer}.${part}`),
  }));
}

/** [C] → [1, 1, C] and [N, C] → [1, N, C], the shapes that the other transformers' files have. */
function withLeadingOnes(tensor: HostTensor): HostTensor {
  const { shape } = tensor;
  return { ...tensor, shape: [...Array.from({ length: 3 - shape.length }, () => 1), ...shape] };
}

function layerNormEps(config: JsonObject): number {
  const eps = config['layer_norm_eps'] ?? DEFAULTS.eps;
  if (typeof eps === 'number' && eps > 0) return eps;
  throw new UserError(`config.json: "layer_norm_eps" must be a positive number, got ${JSON.stringify(eps)}`);
}

function activation(config: JsonObject): 'gelu' | 'quick-gelu' {
  const name = config['hidden_act'] ?? DEFAULTS.activation;
  if (name === 'gelu') return 'gelu';
  if (name === 'quick_gelu') return 'quick-gelu';
  throw new UserError(
    `config.json: "hidden_act" must be "gelu" or "quick_gelu", got ${JSON.stringify(name)}`,
  );
}
