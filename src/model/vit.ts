/**
 * A DINOv2 vision transformer as a graph: patches and a class token, pre-norm blocks with layer scale, exact GELU.
 * Source of the arithmetic: transformers, models/dinov2/modeling_dinov2.py.
 */
import { UserError } from '../errors.js';
import { only, type Graph, type GraphTensor } from '../tensorflow/graph.js';
import {
  add,
  broadcastTo,
  concat,
  mean,
  mul,
  reshape,
  scalarLike,
  slice,
  softmax,
  splitLast,
  transpose,
} from '../tensorflow/ops.js';
import type { FrozenWeight } from './frozenWeights.js';
import { interpolatePositions } from './interpolate.js';
import { batchProduct, gelu, layerNorm, linear, splitHeads, type Precision } from './layers.js';

/** Sizes and constants of an encoder, from its `config.json`. */
export interface VitConfig {
  /** C */
  readonly hiddenSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly mlpSize: number;
  readonly patchSize: number;
  /** H = W in pixels of the images that it is fed. */
  readonly imageSize: number;
  readonly layerNormEps: number;
  readonly imageMean: readonly number[];
  readonly imageStd: readonly number[];
}

/** Which tokens leave the encoder: all, or the patches averaged to a grid × grid, with or without the class token. */
export type TokenChoice =
  { readonly kind: 'all' } | { readonly kind: 'grid'; readonly grid: number; readonly cls: boolean };

/**
 * Reads the sizes out of `config.json`.
 *
 * @param imageSize pixels of the images that will be fed, a multiple of the patch size
 * @throws UserError for another architecture or a missing size
 */
export function vitConfig(json: Readonly<Record<string, unknown>>, imageSize: number): VitConfig {
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
  if (imageSize % size('patch_size'))
    throw new UserError(`vit: the image size must be a multiple of ${size('patch_size')}, got ${imageSize}`);
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

/** Q: how many tokens a choice gives. */
export function tokenCount(config: VitConfig, tokens: TokenChoice): number {
  if (tokens.kind === 'all') return (config.imageSize / config.patchSize) ** 2 + 1;
  return tokens.grid ** 2 + (tokens.cls ? 1 : 0);
}

/** The encoder's graph functions. Only the blocks that are used exist in the graph. */
export class Vit {
  readonly #patches: number;

  /** @param depth blocks to run: the features are the output of block number `depth`, without the final norm unless it is the last */
  constructor(
    readonly graph: Graph,
    readonly config: VitConfig,
    readonly precision: Precision,
    readonly depth: number,
  ) {
    if (depth < 1 || depth > config.layers)
      throw new UserError(`vit: model.encoderLayer must be 1 to ${config.layers}, got ${depth}`);
    this.#patches = config.imageSize / config.patchSize;
  }

  /** Which tensors of the weight file fill which variables. */
  weights(): FrozenWeight[] {
    const { patchSize, hiddenSize } = this.config;
    const from = 'embeddings';
    const final =
      this.depth === this.config.layers
        ? ['weight', 'bias'].map((part) => ({ variable: `norm/${part}`, sources: [`layernorm.${part}`] }))
        : [];
    return [
      { variable: 'class', sources: [`${from}.cls_token`] },
      {
        variable: 'positions',
        sources: [`${from}.position_embeddings`],
        prepare: (table) => interpolatePositions(table, this.#patches),
      },
      {
        variable: 'patch/weight',
        sources: [`${from}.patch_embeddings.projection.weight`],
        prepare: (kernel) => ({ ...kernel, shape: [hiddenSize, 3 * patchSize * patchSize] }),
      },
      { variable: 'patch/bias', sources: [`${from}.patch_embeddings.projection.bias`] },
      ...Array.from({ length: this.depth }, (_, i) => blockWeights(i)).flat(),
      ...final,
    ];
  }

  /**
   * Encodes images.
   *
   * @param pixels float32[B, 3, H, W], normalised
   * @returns all tokens after block `depth`: float32[B, 1 + patches², C], class token first
   */
  forward(pixels: GraphTensor): GraphTensor {
    const { hiddenSize: C } = this.config;
    const B = only(pixels.shape);
    const N = this.#patches ** 2;
    const patches = linear(
      this.#patchRows(pixels),
      this.#weight('patch/weight', [C, 3 * this.config.patchSize ** 2]),
      this.#vector('patch/bias', C),
    ); // [B, N, C]
    const token = broadcastTo(this.graph.variable('class', 'float32', [1, 1, C]), [B, 1, C]);
    let x = add(concat([token, patches], 1), this.graph.variable('positions', 'float32', [1, N + 1, C])); // [B, N+1, C]
    for (let i = 0; i < this.depth; i++) x = this.#block(i, x);
    return this.depth === this.config.layers ? this.#norm('norm', x) : x;
  }

  /** Chooses or pools tokens: float32[B, 1 + patches², C] → float32[B, Q, C]. */
  choose(tokens: GraphTensor, choice: TokenChoice): GraphTensor {
    if (choice.kind === 'all') return tokens;
    const { hiddenSize: C } = this.config;
    const B = only(tokens.shape);
    const { grid } = choice;
    if (this.#patches % grid)
      throw new UserError(`vit: model.tokens.grid must divide ${this.#patches}, got ${grid}`);
    const width = this.#patches / grid;
    const patches = slice(tokens, [0, 1, 0], [B, this.#patches ** 2, C]);
    const pooled = reshape(mean(reshape(patches, [B, grid, width, grid, width, C]), [2, 4]), [
      B,
      grid * grid,
      C,
    ]);
    return choice.cls ? concat([slice(tokens, [0, 0, 0], [B, 1, C]), pooled], 1) : pooled;
  }

  /** Pixels as rows of patches in the order of the convolution kernel: [B, N, 3·p·p]. */
  #patchRows(pixels: GraphTensor): GraphTensor {
    const { patchSize: p } = this.config;
    const g = this.#patches;
    const B = only(pixels.shape);
    const cut = transpose(reshape(pixels, [B, 3, g, p, g, p]), [0, 2, 4, 1, 3, 5]);
    return reshape(cut, [B, g * g, 3 * p * p]);
  }

  #block(i: number, x: GraphTensor): GraphTensor {
    const { hiddenSize: C, mlpSize: M } = this.config;
    const attended = mul(
      this.#attention(i, this.#norm(`block${i}/norm1`, x)),
      this.#vector(`block${i}/scale1`, C),
    );
    const between = add(x, attended);
    const hidden = gelu(
      linear(
        this.#norm(`block${i}/norm2`, between),
        this.#weight(`block${i}/fc1/weight`, [M, C]),
        this.#vector(`block${i}/fc1/bias`, M),
      ),
    );
    const out = linear(
      hidden,
      this.#weight(`block${i}/fc2/weight`, [C, M]),
      this.#vector(`block${i}/fc2/bias`, C),
    );
    return add(between, mul(out, this.#vector(`block${i}/scale2`, C)));
  }

  #attention(i: number, x: GraphTensor): GraphTensor {
    const { hiddenSize: C, heads: H } = this.config;
    const [B, N] = [only(x.shape), only(x.shape, 1)];
    const W = C / H;
    const qkv = linear(
      x,
      this.#weight(`block${i}/qkv/weight`, [3 * C, C]),
      this.#vector(`block${i}/qkv/bias`, 3 * C),
    );
    const [q, k, v] = splitLast(qkv, [C, C, C]).map((part) =>
      transpose(splitHeads(part, H, W), [0, 2, 1, 3]),
    ) as [GraphTensor, GraphTensor, GraphTensor]; // [B, H, N, W] each
    const scores = mul(
      batchProduct(q, k, this.precision, { transposeB: true }),
      scalarLike(x, 1 / Math.sqrt(W)),
    );
    const mixed = batchProduct(softmax(scores), v, this.precision);
    const joined = reshape(transpose(mixed, [0, 2, 1, 3]), [B, N, C]);
    return linear(
      joined,
      this.#weight(`block${i}/out/weight`, [C, C]),
      this.#vector(`block${i}/out/bias`, C),
    );
  }

  #norm(name: string, x: GraphTensor): GraphTensor {
    const { hiddenSize: C, layerNormEps } = this.config;
    return layerNorm(x, layerNormEps, this.#vector(`${name}/weight`, C), this.#vector(`${name}/bias`, C));
  }

  #weight(name: string, shape: readonly number[]): GraphTensor {
    return this.graph.variable(name, this.precision, shape);
  }

  #vector(name: string, size: number): GraphTensor {
    return this.graph.variable(name, 'float32', [size]);
  }
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
