/** Layers that the model graphs share. Activations between blocks are float32; matrix products run in `precision`. */
import { formatShape, type Dim } from '../tensorflow/dims.js';
import { graphError, only, type GraphTensor } from '../tensorflow/graph.js';
import {
  add,
  batchMatMul,
  cast,
  castAfter,
  div,
  erf,
  flattenRows,
  matMul,
  mean,
  mul,
  reshape,
  rsqrt,
  scalarLike,
  sigmoid,
  softmax,
  square,
  sub,
  transpose,
} from '../tensorflow/ops.js';

/** Arithmetic of the frozen parts' matrix products. */
export type Precision = 'float32' | 'bfloat16';

/**
 * `y = x · weightᵀ + bias` as torch.nn.Linear.
 *
 * @param x float32[..., in]
 * @param weight [out, in], float32 or bfloat16: the product runs in this dtype, or in float32 where the graph widens
 * @param bias float32[out]
 * @returns float32[..., out]
 */
export function linear(x: GraphTensor, weight: GraphTensor, bias?: GraphTensor): GraphTensor {
  const [out] = weight.shape;
  if (out === undefined || x.shape.at(-1) !== weight.shape[1])
    graphError(
      'linear',
      `x ${formatShape(x.shape)} must end in the columns of the weight ${formatShape(weight.shape)}`,
    );
  const dtype = weight.dtype === 'bfloat16' && !x.graph.widens ? 'bfloat16' : 'float32';
  const flat = cast(flattenRows(x), dtype);
  const product = cast(matMul(flat, castAfter(weight, dtype, flat), { transposeB: true }), 'float32');
  return reshape(bias ? add(product, bias) : product, [...x.shape.slice(0, -1), out]);
}

/** Product of stacks of matrices in `precision`, float32 in and out. */
export function batchProduct(
  a: GraphTensor,
  b: GraphTensor,
  precision: Precision,
  options: { transposeB?: boolean } = {},
): GraphTensor {
  const dtype = a.graph.widens ? 'float32' : precision;
  return cast(batchMatMul(cast(a, dtype), cast(b, dtype), options), 'float32');
}

/**
 * `x / √(mean(x²) + eps) · weight` over the last axis, float32.
 * Source: transformers, modeling_llama.py, `LlamaRMSNorm`.
 */
export function rmsNorm(x: GraphTensor, weight: GraphTensor, eps: number): GraphTensor {
  const scale = rsqrt(add(mean(square(x), [-1], { keepDims: true }), scalarLike(x, eps)));
  return mul(mul(x, scale), weight);
}

/** `(x - mean) / √(variance + eps)` over the last axis, then `· weight + bias` where given, float32. */
export function layerNorm(
  x: GraphTensor,
  eps: number,
  weight?: GraphTensor,
  bias?: GraphTensor,
): GraphTensor {
  const centred = sub(x, mean(x, [-1], { keepDims: true }));
  const scale = rsqrt(add(mean(square(centred), [-1], { keepDims: true }), scalarLike(x, eps)));
  const normal = mul(centred, scale);
  const scaled = weight ? mul(normal, weight) : normal;
  return bias ? add(scaled, bias) : scaled;
}

/** `x · sigmoid(x)` */
export function silu(x: GraphTensor): GraphTensor {
  return mul(x, sigmoid(x));
}

/** GELU with the exact error function: `x · ½ (1 + erf(x / √2))`. */
export function gelu(x: GraphTensor): GraphTensor {
  const half = mul(x, scalarLike(x, 0.5));
  return add(half, mul(half, erf(mul(x, scalarLike(x, Math.SQRT1_2)))));
}

/** OpenAI CLIP's approximation of GELU: `x · sigmoid(1.702 x)`. Source: transformers, activations.py, `QuickGELUActivation`. */
export function quickGelu(x: GraphTensor): GraphTensor {
  return mul(x, sigmoid(mul(x, scalarLike(x, 1.702))));
}

/**
 * Attention without a mask: every query sees every key, `softmax(q · kᵀ / √width) · v` head by head.
 *
 * @param q float32[B, N, C], heads one after the other in C
 * @param k float32[B, M, C]
 * @param v float32[B, M, C]
 * @returns float32[B, N, C]
 */
export function attention(
  q: GraphTensor,
  k: GraphTensor,
  v: GraphTensor,
  { heads, precision }: { heads: number; precision: Precision },
): GraphTensor {
  const width = Number(q.shape.at(-1)) / heads; // a model's width is known as the graph is built
  const split = (x: GraphTensor): GraphTensor => transpose(splitHeads(x, heads, width), [0, 2, 1, 3]);
  const scores = batchProduct(split(q), split(k), precision, { transposeB: true }); // [B, heads, N, M]
  const scaled = mul(scores, scalarLike(q, 1 / Math.sqrt(width)));
  const mixed = batchProduct(softmax(scaled), split(v), precision); // [B, heads, N, width]
  return reshape(transpose(mixed, [0, 2, 1, 3]), [only(q.shape), only(q.shape, 1), heads * width]);
}

/** `(x - mean) / std` channel by channel; `mean` and `std` [C]. */
export function standardise(x: GraphTensor, channelMean: GraphTensor, std: GraphTensor): GraphTensor {
  return div(sub(x, channelMean), std);
}

/** [B, S, heads·width] → [B, S, heads, width]. */
export function splitHeads(x: GraphTensor, heads: Dim, width: number): GraphTensor {
  return reshape(x, [...x.shape.slice(0, -1), heads, width]);
}
