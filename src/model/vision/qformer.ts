/**
 * What stands between BLIP-2's vision transformer and the projection: `ln_vision`, and the Q-Former's query path as a
 * graph. Learned queries attend to each other and, in every second layer, to the image; text has no part in it.
 * Source of the arithmetic: LAVIS, lavis/models/blip2_models/Qformer.py (`BertLayer.forward` without text) and
 * blip2.py; transformers, models/blip_2/modeling_blip_2.py, `Blip2QFormerModel`.
 */
import { UserError } from '../../errors.js';
import { only, type Graph, type GraphTensor } from '../../tensorflow/graph.js';
import { add, broadcastTo, split } from '../../tensorflow/ops.js';
import { attention, gelu, layerNorm, linear, type Precision } from '../layers.js';

const LN_VISION_EPS = 1e-5; // torch's default, whatever a Hugging Face config says: its value is the blocks' (spec 1.2)
const LAYER_NORM_EPS = 1e-12; // bert-base-uncased

/** Sizes of a Q-Former. */
export interface QFormerConfig {
  /** Q: learned queries, and so tokens that come out. */
  readonly queries: number;
  /** Width of the queries and of what comes out. */
  readonly hiddenSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly mlpSize: number;
  /** Width of the image tokens that it looks at. */
  readonly encoderWidth: number;
  /** Layers that look at the image, counted from 0; in BLIP-2 every second one. */
  readonly crossAttention: readonly number[];
}

/**
 * BLIP-2's norm over the vision transformer's output.
 *
 * @param tokens float32[B, N, C]
 * @param weights `plain`: the layer as torch makes it, weight 1 and bias 0
 * @returns float32[B, N, C]
 * Source: LAVIS, lavis/models/blip2_models/blip2.py, `LayerNorm`, made by `init_vision_encoder`.
 */
export function lnVision(
  graph: Graph,
  tokens: GraphTensor,
  weights: 'learned' | 'plain' = 'learned',
): GraphTensor {
  if (weights === 'plain') return layerNorm(tokens, LN_VISION_EPS);
  const C = Number(only(tokens.shape, 2)); // a model's width is known as the graph is built
  const [weight, bias] = ['weight', 'bias'].map((part) =>
    graph.variable(`lnVision/${part}`, 'float32', [C]),
  ) as [GraphTensor, GraphTensor]; // two names, two variables
  return layerNorm(tokens, LN_VISION_EPS, weight, bias);
}

/** The Q-Former's graph functions. */
export class QFormer {
  constructor(
    readonly graph: Graph,
    readonly config: QFormerConfig,
    readonly precision: Precision,
  ) {}

  /**
   * What the queries found in the image.
   *
   * @param image float32[B, N, encoderWidth], after `lnVision`, class token included
   * @returns float32[B, Q, hiddenSize]
   * @throws UserError if the image tokens have another width than the weights were made for
   */
  forward(image: GraphTensor): GraphTensor {
    return only(this.hiddenStates(image), this.config.layers);
  }

  /**
   * The queries as they go into the first layer, then as they come out of each.
   *
   * @param image as for `forward`
   * @returns `layers` + 1 tensors float32[B, Q, hiddenSize]
   */
  hiddenStates(image: GraphTensor): GraphTensor[] {
    const { encoderWidth, layers } = this.config;
    if (image.shape.at(-1) !== encoderWidth)
      throw new UserError(
        `qformer: the image tokens must be ${encoderWidth} wide, got ${image.shape.at(-1)} (do the two weights files belong together?)`,
      );
    const hidden = [this.#embed(only(image.shape))];
    for (let i = 0; i < layers; i++) hidden.push(this.#layer(i, only(hidden, i), image));
    return hidden;
  }

  /** The learned queries, normed; positions they have none. [B, Q, D] */
  #embed(B: number | string): GraphTensor {
    const { queries: Q, hiddenSize: D } = this.config;
    const queries = this.graph.variable('qformer/queries', 'float32', [1, Q, D]);
    return broadcastTo(this.#norm('qformer/norm', queries), [B, Q, D]);
  }

  #layer(i: number, x: GraphTensor, image: GraphTensor): GraphTensor {
    const name = `qformer/layer${i}`;
    const own = this.#selfAttention(`${name}/self`, x);
    const seen = this.config.crossAttention.includes(i)
      ? this.#crossAttention(`${name}/cross`, own, image)
      : own;
    return this.#mlp(name, seen);
  }

  #selfAttention(name: string, x: GraphTensor): GraphTensor {
    const { hiddenSize: D } = this.config;
    const [q, k, v] = split(this.#linear(`${name}/qkv`, x, [3 * D, D]), [D, D, D], -1) as [
      GraphTensor,
      GraphTensor,
      GraphTensor,
    ]; // three widths, three parts
    return this.#output(name, attention(q, k, v, this.#heads()), x);
  }

  #crossAttention(name: string, x: GraphTensor, image: GraphTensor): GraphTensor {
    const { hiddenSize: D, encoderWidth: W } = this.config;
    const q = this.#linear(`${name}/q`, x, [D, D]);
    const [k, v] = split(this.#linear(`${name}/kv`, image, [2 * D, W]), [D, D], -1) as [
      GraphTensor,
      GraphTensor,
    ]; // two widths, two parts
    return this.#output(name, attention(q, k, v, this.#heads()), x);
  }

  /** Post-norm: LayerNorm(dense(mixed) + input). */
  #output(name: string, mixed: GraphTensor, input: GraphTensor): GraphTensor {
    const { hiddenSize: D } = this.config;
    return this.#norm(`${name}/norm`, add(this.#linear(`${name}/out`, mixed, [D, D]), input));
  }

  #mlp(name: string, x: GraphTensor): GraphTensor {
    const { hiddenSize: D, mlpSize: M } = this.config;
    const hidden = gelu(this.#linear(`${name}/fc1`, x, [M, D]));
    return this.#norm(`${name}/norm`, add(this.#linear(`${name}/fc2`, hidden, [D, M]), x));
  }

  #heads(): { heads: number; precision: Precision } {
    return { heads: this.config.heads, precision: this.precision };
  }

  #linear(name: string, x: GraphTensor, shape: readonly [number, number]): GraphTensor {
    return linear(
      x,
      this.graph.variable(`${name}/weight`, this.precision, shape),
      this.graph.variable(`${name}/bias`, 'float32', [shape[0]]),
    );
  }

  #norm(name: string, x: GraphTensor): GraphTensor {
    const { hiddenSize: D } = this.config;
    const weight = this.graph.variable(`${name}/weight`, 'float32', [D]);
    const bias = this.graph.variable(`${name}/bias`, 'float32', [D]);
    return layerNorm(x, LAYER_NORM_EPS, weight, bias);
  }
}
