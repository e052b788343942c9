/**
 * DINOv2: its sizes from config.json and its weights under Hugging Face's names.
 * Source of the arithmetic: transformers, models/dinov2/modeling_dinov2.py.
 */
import { UserError } from '../../errors.js';
import type { FrozenWeight } from '../weights/frozenWeights.js';
import { interpolatePositions } from './interpolate.js';
import type { VitConfig } from './vit.js';
import { checkImageSize, type JsonObject } from './vitSizes.js';

/**
 * Reads the sizes out of `config.json`.
 *
 * @param imageSize pixels of the images that will be fed, a multiple of the patch size
 * @throws UserError for another architecture or a missing size
 */
export function vitConfig(json: JsonObject, imageSize: number): VitConfig {
  if (json['model_type'] !== 'dinov2')
    throw new UserError(
      `vit: config.json must have model_type "dinov2", got ${JSON.stringify(json['model_type'])}`,
    );
  const size = (key: string): number => {
    const value = json[key];
    if (typeof value !== 'number' || !(value > 0))
      throw new UserError(`vit: config.json needs a positive number "${key}", got ${JSON.stringify(value)}`);
    return value;
  };
  const triple = (key: string): number[] => {
    const value: unknown = json[key];
    if (!Array.isArray(value) || value.length !== 3)
      throw new UserError(`vit: config.json needs three numbers "${key}", got ${JSON.stringify(value)}`);
    return value.map(Number);
  };
  if (json['use_swiglu_ffn'] === true) throw new UserError('vit: use_swiglu_ffn is not supported, got true');
  const [hiddenSize, heads] = [size('hidden_size'), size('num_attention_heads')];
  if (hiddenSize % heads)
    throw new UserError(`vit: num_attention_heads must divide hidden_size ${hiddenSize}, got ${heads}`);
  checkImageSize(imageSize, size('patch_size'));
  return {
    hiddenSize,
    layers: size('num_hidden_layers'),
    heads,
    mlpSize: hiddenSize * size('mlp_ratio'),
    patchSize: size('patch_size'),
    imageSize,
    layerNormEps: size('layer_norm_eps'),
    imageMean: triple('image_mean'),
    imageStd: triple('image_std'),
  };
}

/**
 * Which tensors of the weights file fill which variables. The final norm is there after the last block only.
 *
 * @param depth blocks that are used
 */
export function dinov2Weights(config: VitConfig, depth: number): FrozenWeight[] {
  const { patchSize, hiddenSize, imageSize, layers } = config;
  const from = 'embeddings';
  const final =
    depth === layers
      ? ['weight', 'bias'].map((part) => ({ variable: `norm/${part}`, sources: [`layernorm.${part}`] }))
      : [];
  return [
    { variable: 'class', sources: [`${from}.cls_token`] },
    {
      variable: 'positions',
      sources: [`${from}.position_embeddings`],
      prepare: (table) => interpolatePositions(table, imageSize / patchSize),
    },
    {
      variable: 'patch/weight',
      sources: [`${from}.patch_embeddings.projection.weight`],
      prepare: (kernel) => ({ ...kernel, shape: [hiddenSize, 3 * patchSize * patchSize] }),
    },
    { variable: 'patch/bias', sources: [`${from}.patch_embeddings.projection.bias`] },
    ...Array.from({ length: depth }, (_, i) => blockWeights(i)).flat(),
    ...final,
  ];
}

function blockWeights(i: number): FrozenWeight[] {
  const from = `encoder.layer.${i}`;
  const both = (variable: string, ...layers: string[]): FrozenWeight[] =>
    ['weight', 'bias'].map((part) => ({
      variable: `block${i}/${variable}/${part}`,
      sources: layers.map((layer) => `${from}.${layer}.${part}`),
    }));
  return [
    ...both('norm1', 'norm1'),
    ...both('qkv', 'attention.attention.query', 'attention.attention.key', 'attention.attention.value'),
    ...both('out', 'attention.output.dense'),
    { variable: `block${i}/scale1`, sources: [`${from}.layer_scale1.lambda1`] },
    ...both('norm2', 'norm2'),
    ...both('fc1', 'mlp.fc1'),
    ...both('fc2', 'mlp.fc2'),
    { variable: `block${i}/scale2`, sources: [`${from}.layer_scale2.lambda1`] },
  ];
}
