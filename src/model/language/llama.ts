/**
 * A LLaMA-family decoder as a graph: RMSNorm, rotary positions (rotate-half), grouped-query attention, SwiGLU.
 * Source of the arithmetic: transformers, models/llama/modeling_llama.py.
 */
import { UserError } from '../../errors.js';
import { addDims, multiplyDims, type Dim } from '../../tensorflow/dims.js';
import type { Graph, GraphTensor } from '../../tensorflow/graph.js';
import { only } from '../../tensorflow/graph.js';
import {
  add,
  broadcastTo,
  cast,
  concat,
  cos,
  gather,
  greaterEqual,
  mul,
  neg,
  range,
  reshape,
  scalarLike,
  select,
  sin,
  softmax,
  split,
  transpose,
} from '../../tensorflow/ops.js';
import { batchProduct, linear, rmsNorm, silu, splitHeads, type Precision } from '../layers.js';
import type { FrozenWeight } from '../weights/frozenWeights.js';

/** Sizes and constants of a decoder, from a Hugging Face `config.json`. */
export interface LlamaConfig {
  /** D */
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headWidth: number;
  readonly rmsNormEps: number;
  readonly ropeTheta: number;
  /** V: rows of the embedding. */
  readonly vocabSize: number;
  /** Whether the head is the embedding itself. */
  readonly tiedHead: boolean;
  /** Longest sequence that the model was trained for. */
  readonly maxPositions: number;
}

/** Right-padded sequences whose padding the linear layers skip. */
export interface Packing {
  /** int32[M]: flat positions b·S + s that hold a token. */
  readonly positions: GraphTensor;
  /** int32[B, S]: row of the packed activations at each position; any row for padding. */
  readonly places: GraphTensor;
}

/** Keys and values of one layer, [B, kvHeads, S, headWidth]. */
export interface LayerCache {
  readonly key: GraphTensor;
  readonly value: GraphTensor;
}

/**
 * Reads the sizes out of `config.json`.
 *
 * @throws UserError for another architecture or a missing size
 */
export function llamaConfig(json: Readonly<Record<string, unknown>>): LlamaConfig {
  if (json['model_type'] !== 'llama')
    throw new UserError(
      `llama: config.json must have model_type "llama", got ${JSON.stringify(json['model_type'])}`,
    );
  if (json['rope_scaling'] != null)
    throw new UserError(`llama: rope_scaling is not supported, got ${JSON.stringify(json['rope_scaling'])}`);
  const size = (key: string, fallback?: number): number => {
    const value = json[key] ?? fallback;
    if (typeof value !== 'number' || !(value > 0))
      throw new UserError(
        `llama: config.json needs a positive number "${key}", got ${JSON.stringify(json[key])}`,
      );
    return value;
  };
  const [hiddenSize, heads] = [size('hidden_size'), size('num_attention_heads')];
  const kvHeads = size('num_key_value_heads', heads);
  if (heads % kvHeads)
    throw new UserError(
      `llama: num_key_value_heads must divide num_attention_heads ${heads}, got ${kvHeads}`,
    );
  return {
    hiddenSize,
    heads,
    intermediateSize: size('intermediate_size'),
    layers: size('num_hidden_layers'),
    kvHeads,
    headWidth: size('head_dim', hiddenSize / heads),
    rmsNormEps: size('rms_norm_eps'),
    ropeTheta: size('rope_theta', 10000),
    vocabSize: size('vocab_size'),
    tiedHead: json['tie_word_embeddings'] === true,
    maxPositions: size('max_position_embeddings', 2048),
  };
}

/** The decoder's graph functions; each call adds nodes to the graph that read the same frozen weights. */
export class Llama {
  constructor(
    readonly graph: Graph,
    readonly config: LlamaConfig,
    readonly precision: Precision,
  ) {}

  /** Which tensors of the weight files fill which variables; q·k·v and gate·up are fused into one product each. */
  weights(): FrozenWeight[] {
    const layers = Array.from({ length: this.config.layers }, (_, i) => this.#layerWeights(i)).flat();
    const head = this.config.tiedHead ? [] : [{ variable: 'head', sources: ['lm_head.weight'] }];
    return [
      { variable: 'embedding', sources: ['model.embed_tokens.weight'] },
      ...layers,
      { variable: 'norm', sources: ['model.norm.weight'] },
      ...head,
    ];
  }

  /** Token embeddings: int32[...] → float32[..., D]. */
  embed(ids: GraphTensor): GraphTensor {
    return cast(gather(this.#embedding(), ids), 'float32');
  }

  /**
   * Runs all blocks and the final norm on whole sequences after a cached past.
   *
   * @param x float32[B, S, D]
   * @param past the caches of the tokens before, [B, kvHeads, P, headWidth] in `precision`; B may be 1 and is then shared
   * @returns hidden float32[B, S, D], and the caches with these tokens appended
   */
  forward(x: GraphTensor, past?: readonly LayerCache[]): { hidden: GraphTensor; caches: LayerCache[] } {
    return this.#blocks(x, { B: only(x.shape), S: only(x.shape, 1) }, { ...(past && { past }) });
  }

  /**
   * Runs all blocks and the final norm on right-padded sequences, computing the tokens only: linear layers see no padding,
   * attention sees the padded view. Under the causal mask padding on the right reaches no token.
   *
   * @param x float32[M, D], the tokens of all sequences
   * @param past as for `forward`
   * @returns hidden float32[M, D], and the caches in the padded view
   */
  forwardPacked(
    x: GraphTensor,
    packing: Packing,
    past?: readonly LayerCache[],
  ): { hidden: GraphTensor; caches: LayerCache[] } {
    const { shape } = packing.places;
    return this.#blocks(x, { B: only(shape), S: only(shape, 1) }, { packing, ...(past && { past }) });
  }

  #blocks(
    x: GraphTensor,
    { B, S }: { readonly B: Dim; readonly S: Dim },
    { past, packing }: { readonly past?: readonly LayerCache[]; readonly packing?: Packing },
  ): { hidden: GraphTensor; caches: LayerCache[] } {
    const P = past ? only(only(past).key.shape, 2) : 0;
    const context = {
      B,
      S,
      rotary: this.#rotary(x, P, S),
      mask: causalMask(x, P, S),
      ...(packing && { packing }),
    };
    const caches: LayerCache[] = [];
    let hidden = x;
    for (let i = 0; i < this.config.layers; i++) {
      const attended = this.#attention(
        i,
        rmsNorm(hidden, this.#norm(`layer${i}/norm1`), this.config.rmsNormEps),
        context,
        past?.[i],
      );
      caches.push(attended.cache);
      hidden = add(hidden, attended.out);
      hidden = add(
        hidden,
        this.#mlp(i, rmsNorm(hidden, this.#norm(`layer${i}/norm2`), this.config.rmsNormEps)),
      );
    }
    return { hidden: rmsNorm(hidden, this.#norm('norm'), this.config.rmsNormEps), caches };
  }

  /** Next-token logits of hidden rows: float32[N, D] → float32[N, V]. */
  logits(rows: GraphTensor): GraphTensor {
    const { vocabSize: V, hiddenSize: D, tiedHead } = this.config;
    return linear(rows, tiedHead ? this.#embedding() : this.graph.variable('head', this.precision, [V, D]));
  }

  #attention(
    i: number,
    x: GraphTensor,
    { B, S, rotary, mask, packing }: AttentionContext,
    past?: LayerCache,
  ): { out: GraphTensor; cache: LayerCache } {
    const { hiddenSize: D, heads: H, kvHeads: K, headWidth: W } = this.config;
    const tokens = linear(x, this.graph.variable(`layer${i}/qkv`, this.precision, [(H + 2 * K) * W, D]));
    const qkv = packing ? gather(tokens, packing.places) : tokens; // [B, S, (H+2K)W]
    const heads = transpose(splitHeads(qkv, H + 2 * K, W), [0, 2, 1, 3]); // [B, H+2K, S, W]
    const [qk, v] = split(heads, [H + K, K], 1) as [GraphTensor, GraphTensor]; // two sizes, two parts
    const [query, k] = split(rotate(qk, rotary), [H, K], 1) as [GraphTensor, GraphTensor]; // likewise
    const key = this.#append(past?.key, k, B); // [B, K, P+S, W]
    const value = this.#append(past?.value, v, B); // [B, K, P+S, W]
    // The H/K queries of a key head become rows of one product: keys and values are never repeated.
    const G = H / K;
    const rows = multiplyDims(G, S);
    const grouped = reshape(query, [B, K, rows, W]);
    const T = only(key.shape, 2);
    const scores = mul(
      batchProduct(grouped, key, this.precision, { transposeB: true }),
      scalarLike(x, 1 / Math.sqrt(W)),
    );
    const weights = softmax(add(reshape(scores, [B, K, G, S, T]), mask)); // [B, K, G, S, T]
    const mixed = batchProduct(reshape(weights, [B, K, rows, T]), value, this.precision); // [B, K, G·S, W]
    const joined = reshape(transpose(reshape(mixed, [B, H, S, W]), [0, 2, 1, 3]), [B, S, H * W]);
    const rowsOut = packing
      ? gather(reshape(joined, [multiplyDims(B, S), H * W]), packing.positions) // [M, H·W]
      : joined;
    return {
      out: linear(rowsOut, this.graph.variable(`layer${i}/out`, this.precision, [D, H * W])),
      cache: { key, value },
    };
  }

  #append(past: GraphTensor | undefined, now: GraphTensor, B: Dim): GraphTensor {
    const rounded = cast(now, this.precision);
    if (!past) return rounded;
    const shared = only(past.shape) === 1 && B !== 1;
    return concat([shared ? broadcastTo(past, [B, ...past.shape.slice(1)]) : past, rounded], 2);
  }

  #mlp(i: number, x: GraphTensor): GraphTensor {
    const { hiddenSize: D, intermediateSize: F } = this.config;
    const gateUp = linear(x, this.graph.variable(`layer${i}/gateUp`, this.precision, [2 * F, D]));
    const [gate, up] = split(gateUp, [F, F], -1) as [GraphTensor, GraphTensor]; // two sizes, two parts
    return linear(mul(silu(gate), up), this.graph.variable(`layer${i}/down`, this.precision, [D, F]));
  }

  #rotary(like: GraphTensor, P: Dim, S: Dim): Rotary {
    const { headWidth: W, ropeTheta } = this.config;
    const frequencies = this.graph.constant(
      Array.from({ length: W / 2 }, (_, j) => 1 / ropeTheta ** ((2 * j) / W)),
    ); // [W/2]
    const positions = cast(add(range(like, S), this.graph.size(P)), 'float32'); // [S]
    const angles = mul(reshape(positions, [S, 1]), frequencies); // [S, W/2]
    const [c, s] = [cos(angles), sin(angles)];
    return { cos: concat([c, c], 1), sin: concat([neg(s), s], 1) };
  }

  #embedding(): GraphTensor {
    return this.graph.variable('embedding', this.precision, [this.config.vocabSize, this.config.hiddenSize]);
  }

  #norm(name: string): GraphTensor {
    return this.graph.variable(name, 'float32', [this.config.hiddenSize]);
  }

  #layerWeights(i: number): FrozenWeight[] {
    const from = `model.layers.${i}`;
    return [
      { variable: `layer${i}/norm1`, sources: [`${from}.input_layernorm.weight`] },
      {
        variable: `layer${i}/qkv`,
        sources: ['q', 'k', 'v'].map((part) => `${from}.self_attn.${part}_proj.weight`),
      },
      { variable: `layer${i}/out`, sources: [`${from}.self_attn.o_proj.weight`] },
      { variable: `layer${i}/norm2`, sources: [`${from}.post_attention_layernorm.weight`] },
      {
        variable: `layer${i}/gateUp`,
        sources: ['gate', 'up'].map((part) => `${from}.mlp.${part}_proj.weight`),
      },
      { variable: `layer${i}/down`, sources: [`${from}.mlp.down_proj.weight`] },
    ];
  }
}

/** What the attention of every layer shares. */
interface AttentionContext {
  readonly B: Dim;
  readonly S: Dim;
  readonly rotary: Rotary;
  readonly mask: GraphTensor;
  readonly packing?: Packing;
}

/** [S, W] each; the first half of the sines is negative. */
interface Rotary {
  readonly cos: GraphTensor;
  readonly sin: GraphTensor;
}

/** Rotate-half layout: x·cos + concat(-x[W/2:], x[:W/2])·sin, the minus being in the table of sines. */
function rotate(x: GraphTensor, { cos: c, sin: s }: Rotary): GraphTensor {
  const W = x.shape.at(-1);
  if (typeof W !== 'number') throw new Error(`llama: the head width must be known, got ${W}`);
  const [x1, x2] = split(x, [W / 2, W / 2], -1) as [GraphTensor, GraphTensor]; // two sizes, two parts
  return add(mul(x, c), mul(concat([x2, x1], -1), s));
}

/** Additive mask [S, P+S]: 0 where the key is not after the query, else a number whose exponential is 0. */
function causalMask(like: GraphTensor, P: Dim, S: Dim): GraphTensor {
  const keys = addDims(P, S);
  const query = reshape(add(range(like, S), like.graph.size(P)), [S, 1]);
  const visible = greaterEqual(query, reshape(range(like, keys), [1, keys]));
  return select(visible, scalarLike(like, 0), scalarLike(like, -1e9));
}
