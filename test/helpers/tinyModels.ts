/** Random models small enough for a reference in plain float64 TypeScript, with every feature of the large ones. */
import type { LlamaConfig } from '../../src/model/language/llama.js';
import type { Projection, ProjectionOptions } from '../../src/model/projection.js';
import { initialProjection } from '../../src/model/projectionStart.js';
import type { VitConfig } from '../../src/model/vision/vit.js';
import { weightSource, type WeightSource } from '../../src/model/weights/weights.js';
import { elementCount, type HostTensor } from '../../src/tensorflow/dtypes.js';
import { mulberry32, randomNormal } from './random.js';

/** Weights by their names in the file. */
export type Weights = Readonly<Record<string, Float32Array>>;

/** Shapes by name, and how far values spread around what centre. */
type Plan = Record<string, { shape: readonly number[]; spread: number; centre?: number }>;

/** Two layers, 4 query heads on 2 key heads, a head of its own. */
export const TINY_LLAMA: LlamaConfig = {
  hiddenSize: 32,
  intermediateSize: 48,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  headWidth: 8,
  rmsNormEps: 1e-5,
  ropeTheta: 100, // small, so that all frequencies turn within a few positions
  vocabSize: 50,
  tiedHead: false,
  maxPositions: 64,
};

/** Two layers on 4 × 4 patches of 3 × 2 × 2 pixels. */
export const TINY_VIT: VitConfig = {
  hiddenSize: 16,
  layers: 2,
  heads: 2,
  mlpSize: 40,
  patchSize: 2,
  imageSize: 8,
  layerNormEps: 1e-6,
  imageMean: [0.5, 0.5, 0.5],
  imageStd: [0.25, 0.25, 0.25],
};

/** C and Q of the features in the tests of the tiny decoder. */
export const TINY_FEATURES = { channels: 20, queries: 3 } as const;

/** A model's weights, as its reference takes them and as a graph reads them. */
export interface TinyModel {
  readonly weights: Weights;
  readonly source: WeightSource;
}

/** Weights of a tiny LLaMA under Hugging Face's names, large enough that every layer matters. */
export function tinyLlama(config: LlamaConfig = TINY_LLAMA): TinyModel {
  const { hiddenSize: D, intermediateSize: F, heads: H, kvHeads: K, headWidth: W, vocabSize: V } = config;
  const norm = { shape: [D], spread: 0.2, centre: 1 };
  const linear = (out: number, into: number): Plan[string] => ({
    shape: [out, into],
    spread: 1 / Math.sqrt(into),
  });
  const layer = (i: number): Plan => ({
    [`model.layers.${i}.input_layernorm.weight`]: norm,
    [`model.layers.${i}.self_attn.q_proj.weight`]: linear(H * W, D),
    [`model.layers.${i}.self_attn.k_proj.weight`]: linear(K * W, D),
    [`model.layers.${i}.self_attn.v_proj.weight`]: linear(K * W, D),
    [`model.layers.${i}.self_attn.o_proj.weight`]: linear(D, H * W),
    [`model.layers.${i}.post_attention_layernorm.weight`]: norm,
    [`model.layers.${i}.mlp.gate_proj.weight`]: linear(F, D),
    [`model.layers.${i}.mlp.up_proj.weight`]: linear(F, D),
    [`model.layers.${i}.mlp.down_proj.weight`]: linear(D, F),
  });
  return tinyModel({
    'model.embed_tokens.weight': { shape: [V, D], spread: 0.5 },
    ...layers(config.layers, (i) => layer(i)),
    'model.norm.weight': norm,
    ...(config.tiedHead ? {} : { 'lm_head.weight': linear(V, D) }),
  });
}

/** Weights of a tiny DINOv2 under Hugging Face's names; positions for `grid` × `grid` patches. */
export function tinyVit(config: VitConfig = TINY_VIT, grid = config.imageSize / config.patchSize): TinyModel {
  const { hiddenSize: C, mlpSize: M, patchSize: p } = config;
  const vector = (size: number, centre = 0): Plan[string] => ({ shape: [size], spread: 0.2, centre });
  const linear = (out: number, into: number): Plan[string] => ({
    shape: [out, into],
    spread: 1 / Math.sqrt(into),
  });
  const both = (name: string, out: number, into: number): Plan => ({
    [`${name}.weight`]: linear(out, into),
    [`${name}.bias`]: vector(out),
  });
  const norm = (name: string): Plan => ({ [`${name}.weight`]: vector(C, 1), [`${name}.bias`]: vector(C) });
  const layer = (from: string): Plan => ({
    ...norm(`${from}.norm1`),
    ...both(`${from}.attention.attention.query`, C, C),
    ...both(`${from}.attention.attention.key`, C, C),
    ...both(`${from}.attention.attention.value`, C, C),
    ...both(`${from}.attention.output.dense`, C, C),
    [`${from}.layer_scale1.lambda1`]: vector(C, 0.7),
    ...norm(`${from}.norm2`),
    ...both(`${from}.mlp.fc1`, M, C),
    ...both(`${from}.mlp.fc2`, C, M),
    [`${from}.layer_scale2.lambda1`]: vector(C, 0.7),
  });
  return tinyModel({
    'embeddings.cls_token': { shape: [1, 1, C], spread: 0.5 },
    'embeddings.position_embeddings': { shape: [1, 1 + grid * grid, C], spread: 0.5 },
    'embeddings.patch_embeddings.projection.weight': { shape: [C, 3, p, p], spread: 0.3 },
    'embeddings.patch_embeddings.projection.bias': vector(C),
    ...layers(config.layers, (i) => layer(`encoder.layer.${i}`)),
    ...norm('layernorm'),
  });
}

/** A projection for the tiny decoder, with statistics where they are asked for. */
export function tinyProjection(options: ProjectionOptions, seed = 5): Projection {
  const { channels: C } = TINY_FEATURES;
  const statistics = {
    mean: randomNormal(C, 71),
    std: randomNormal(C, 72).map((value) => Math.abs(value) + 0.5),
  };
  return initialProjection(
    [C, TINY_LLAMA.hiddenSize],
    options,
    { kind: 'torch' },
    mulberry32(seed),
    options.standardise ? statistics : undefined,
  );
}

/** Tensors in memory as a weights file; each read gives a copy, as a file would. */
export function memorySource(tensors: Readonly<Record<string, HostTensor>>): WeightSource {
  return weightSource({
    path: 'memory',
    metadata: {},
    tensors: Object.entries(tensors).map(([name, tensor]) => ({ name, ...tensor })),
    readBytes: ({ data }) => Promise.resolve(data.slice()),
    close: () => Promise.resolve(),
  });
}

function layers(count: number, layer: (i: number) => Plan): Plan {
  return Object.fromEntries(Array.from({ length: count }, (_, i) => Object.entries(layer(i))).flat());
}

function tinyModel(plan: Plan): TinyModel {
  const entries = Object.entries(plan).map(([name, { shape, spread, centre = 0 }], i) => {
    const values = randomNormal(elementCount(shape), 1000 + i).map((value) => centre + spread * value);
    return { name, shape, values };
  });
  const tensor = (shape: readonly number[], values: Float32Array): HostTensor => ({
    dtype: 'float32',
    shape,
    data: new Uint8Array(values.buffer),
  });
  return {
    weights: Object.fromEntries(entries.map(({ name, values }) => [name, values])),
    source: memorySource(
      Object.fromEntries(entries.map(({ name, shape, values }) => [name, tensor(shape, values)])),
    ),
  };
}
