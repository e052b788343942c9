/**
 * A vision transformer as a graph: patches and a class token, pre-norm blocks. One body serves DINOv2 (vitDinov2.ts),
 * EVA-CLIP ViT-g (vitEva.ts) and CLIP (vitClip.ts): those say which weights there are, and a part whose weights
 * there are not is left out.
 */
import { UserError } from '../../errors.js';
import { only, type Graph, type GraphTensor } from '../../tensorflow/graph.js';
import {
  add,
  broadcastTo,
  concat,
  mean,
  mul,
  reshape,
  slice,
  split,
  transpose,
} from '../../tensorflow/ops.js';
import type { FrozenWeight } from '../weights/frozenWeights.js';
import { attention, gelu, layerNorm, linear, quickGelu, type Precision } from '../layers.js';

/** Sizes and constants of an encoder. */
export interface VitConfig {
  /** C */
  readonly hiddenSize: number;
  /** Blocks in the weights file. */
  readonly layers: number;
  readonly heads: number;
  readonly mlpSize: number;
  readonly patchSize: number;
  /** H = W in pixels of the images that it is fed. */
  readonly imageSize: number;
  readonly layerNormEps: number;
  /** Between the two layers of the MLP; left out: gelu, the exact one. */
  readonly activation?: 'gelu' | 'quick-gelu';
  readonly imageMean: readonly number[];
  readonly imageStd: readonly number[];
}

/**
 * Which tokens leave the encoder: all; the patches averaged to a grid × grid, with or without the class token; or the
 * patches alone, `concat` consecutive ones (row by row) joined into one. `concat` 1 gives LLaVA's choice, 4 that of
 * MiniGPT-4's Llama-2 release.
 */
export type TokenChoice =
  | { readonly kind: 'all' }
  | { readonly kind: 'grid'; readonly grid: number; readonly cls: boolean }
  | { readonly kind: 'patches'; readonly concat: number };

/** Q: how many tokens a choice gives. */
export function tokenCount(config: VitConfig, tokens: TokenChoice): number {
  const patches = (config.imageSize / config.patchSize) ** 2;
  if (tokens.kind === 'all') return patches + 1;
  if (tokens.kind === 'patches') return patches / tokens.concat;
  return tokens.grid ** 2 + (tokens.cls ? 1 : 0);
}

/** C: how wide the tokens of a choice are. */
export function tokenWidth(config: VitConfig, tokens: TokenChoice): number {
  return config.hiddenSize * (tokens.kind === 'patches' ? tokens.concat : 1);
}

/** The encoder's graph functions. Only the blocks that are used exist in the graph. */
export class Vit {
  readonly #patches: number;
  readonly #variables: ReadonlySet<string>;

  /**
   * @param depth blocks to run: the features are the output of block number `depth`
   * @param weights what fills the variables; patch bias, norm before the blocks, layer scale and final norm exist if named here
   * @throws UserError if there are not that many blocks
   */
  constructor(
    readonly graph: Graph,
    readonly config: VitConfig,
    readonly precision: Precision,
    readonly depth: number,
    weights: readonly FrozenWeight[],
  ) {
    if (!(depth >= 1 && depth <= config.layers))
      throw new UserError(`vit: model.encoderLayer must be 1 to ${config.layers}, got ${depth}`);
    this.#patches = config.imageSize / config.patchSize;
    this.#variables = new Set(weights.map(({ variable }) => variable));
  }

  /**
   * Encodes images.
   *
   * @param pixels float32[B, 3, H, W], normalised
   * @returns all tokens after block `depth`: float32[B, 1 + patches², C], class token first
   */
  forward(pixels: GraphTensor): GraphTensor {
    const last = only(this.hiddenStates(pixels), this.depth);
    return this.#variables.has('norm/weight') ? this.#norm('norm', last) : last;
  }

  /**
   * The residual stream: what goes into the first block, then what comes out of each.
   *
   * @param pixels float32[B, 3, H, W], normalised
   * @returns `depth` + 1 tensors float32[B, 1 + patches², C]; the final norm is not applied
   */
  hiddenStates(pixels: GraphTensor): GraphTensor[] {
    const hidden = [this.#embed(pixels)];
    for (let i = 0; i < this.depth; i++) hidden.push(this.#block(i, only(hidden, i)));
    return hidden;
  }

  /** Patches and class token with their positions: [B, 1 + patches², C]. */
  #embed(pixels: GraphTensor): GraphTensor {
    const { hiddenSize: C } = this.config;
    const B = only(pixels.shape);
    const N = this.#patches ** 2;
    const patches = linear(
      this.#patchRows(pixels),
      this.#weight('patch/weight', [C, 3 * this.config.patchSize ** 2]),
      this.#variables.has('patch/bias') ? this.#vector('patch/bias', C) : undefined,
    ); // [B, N, C]
    const token = broadcastTo(this.graph.variable('class', 'float32', [1, 1, C]), [B, 1, C]);
    const x = add(concat([token, patches], 1), this.graph.variable('positions', 'float32', [1, N + 1, C])); // [B, N+1, C]
    return this.#variables.has('prenorm/weight') ? this.#norm('prenorm', x) : x;
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
    const attended = this.#attention(i, this.#norm(`block${i}/norm1`, x));
    const between = add(x, this.#scale(`block${i}/scale1`, attended));
    const out = this.#mlp(i, this.#norm(`block${i}/norm2`, between));
    return add(between, this.#scale(`block${i}/scale2`, out));
  }

  #attention(i: number, x: GraphTensor): GraphTensor {
    const { hiddenSize: C, heads } = this.config;
    const qkv = linear(
      x,
      this.#weight(`block${i}/qkv/weight`, [3 * C, C]),
      this.#vector(`block${i}/qkv/bias`, 3 * C),
    );
    const [q, k, v] = split(qkv, [C, C, C], -1) as [GraphTensor, GraphTensor, GraphTensor]; // three widths, three parts
    return linear(
      attention(q, k, v, { heads, precision: this.precision }),
      this.#weight(`block${i}/out/weight`, [C, C]),
      this.#vector(`block${i}/out/bias`, C),
    );
  }

  #mlp(i: number, x: GraphTensor): GraphTensor {
    const { hiddenSize: C, mlpSize: M, activation } = this.config;
    const hidden = linear(
      x,
      this.#weight(`block${i}/fc1/weight`, [M, C]),
      this.#vector(`block${i}/fc1/bias`, M),
    );
    return linear(
      activation === 'quick-gelu' ? quickGelu(hidden) : gelu(hidden),
      this.#weight(`block${i}/fc2/weight`, [C, M]),
      this.#vector(`block${i}/fc2/bias`, C),
    );
  }

  /** LayerScale, where there is one. */
  #scale(name: string, x: GraphTensor): GraphTensor {
    return this.#variables.has(name) ? mul(x, this.#vector(name, this.config.hiddenSize)) : x;
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

/**
 * Chooses, pools or joins tokens.
 *
 * @param tokens float32[B, 1 + N, C], class token first, N a square
 * @returns float32[B, Q, C], or [B, N / concat, concat·C]
 * @throws UserError if the grid or the number of neighbours does not divide the patches
 * Source of the joining: MiniGPT-4, minigpt4/models/mini_gpt4.py, `encode_img` without a Q-Former.
 */
export function chooseTokens(tokens: GraphTensor, choice: TokenChoice): GraphTensor {
  if (choice.kind === 'all') return tokens;
  const [B, C] = [only(tokens.shape), only(tokens.shape, 2)];
  const N = Number(only(tokens.shape, 1)) - 1; // a ViT's count of tokens is known as the graph is built
  const patches = slice(tokens, [0, 1, 0], [B, N, C]);
  if (choice.kind === 'patches') {
    if (N % choice.concat)
      throw new UserError(`vit: model.tokens.concat must divide ${N}, got ${choice.concat}`);
    return reshape(patches, [B, N / choice.concat, Number(C) * choice.concat]);
  }
  const { grid } = choice;
  const side = Math.sqrt(N);
  if (side % grid) throw new UserError(`vit: model.tokens.grid must divide ${side}, got ${grid}`);
  const width = side / grid;
  const pooled = reshape(mean(reshape(patches, [B, grid, width, grid, width, C]), [2, 4]), [
    B,
    grid * grid,
    C,
  ]);
  return choice.cls ? concat([slice(tokens, [0, 0, 0], [B, 1, C]), pooled], 1) : pooled;
}
