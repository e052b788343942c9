/**
 * The models' arithmetic once more, in float64 and as plainly as possible: loops over rows, no batches, no caches, no
 * fused products. Written from transformers' modeling_llama.py and modeling_dinov2.py.
 */
import type { LlamaConfig } from '../../src/model/language/llama.js';
import { projectionLayers, type Projection } from '../../src/model/projection.js';
import type { Example } from '../../src/model/language/sequence.js';
import type { VitConfig } from '../../src/model/vision/vit.js';
import type { Weights } from './tinyModels.js';

/** One token's activations. */
type Row = number[];

/** What a sample's targets cost, and the logits at them. */
export interface ReferenceTargets {
  readonly losses: number[];
  readonly logits: Row[];
}

/** Targets of one sample: features [Q·C] of its image through the projection, then the decoder. */
export function referenceTargets(
  config: LlamaConfig,
  weights: Weights,
  projection: Projection,
  features: Float32Array,
  { prefix, target }: Example,
): ReferenceTargets {
  const embedding = named(weights, 'model.embed_tokens.weight');
  const embed = (ids: readonly number[]): Row[] => ids.map((id) => rowOf(embedding, id, config.hiddenSize));
  const image = projectRows(projection, features);
  const before = prefix.flatMap((segment) => (segment.kind === 'image' ? image : embed(segment.ids)));
  const hidden = decoder(config, weights, [...before, ...embed(target.slice(0, -1))]);
  const head = config.tiedHead ? embedding : named(weights, 'lm_head.weight');
  const logits = hidden.slice(before.length - 1).map((row) => linear(row, head));
  return { logits, losses: logits.map((row, t) => -Math.log(at(softmax(row), at(target, t)))) };
}

/** Soft tokens of one image. */
export function projectRows(projection: Projection, features: Float32Array): Row[] {
  const { inputSize: C, outputSize: D, parameters, statistics, options } = projection;
  const rows = Array.from({ length: features.length / C }, (_, q) => rowOf(features, q, C));
  return rows.map((row) => {
    const { mean, std } = statistics ?? { mean: [], std: [] };
    const centred = options.standardise ? row.map((value, c) => (value - at(mean, c)) / at(std, c)) : row;
    const normal = options.layerNorm ? layerNorm(centred, 1e-5) : centred;
    return projectionLayers(options.kind, [C, D]).reduce((x, { name, geluBefore }) => {
      const before = geluBefore ? x.map(gelu) : x;
      return linear(before, parameters[`${name}weight`] ?? [], parameters[`${name}bias`]);
    }, normal);
  });
}

/** All blocks and the final norm of a LLaMA. */
export function decoder(config: LlamaConfig, weights: Weights, rows: readonly Row[]): Row[] {
  const { rmsNormEps: eps } = config;
  let x = [...rows];
  for (let i = 0; i < config.layers; i++) {
    const from = `model.layers.${i}`;
    const normed = x.map((row) => rmsNorm(row, named(weights, `${from}.input_layernorm.weight`), eps));
    const attended = selfAttention(config, weights, `${from}.self_attn`, normed);
    x = x.map((row, s) => sumOf(row, at(attended, s)));
    x = x.map((row) => {
      const n = rmsNorm(row, named(weights, `${from}.post_attention_layernorm.weight`), eps);
      const gate = linear(n, named(weights, `${from}.mlp.gate_proj.weight`));
      const up = linear(n, named(weights, `${from}.mlp.up_proj.weight`));
      const mixed = gate.map((value, f) => (value / (1 + Math.exp(-value))) * at(up, f));
      return sumOf(row, linear(mixed, named(weights, `${from}.mlp.down_proj.weight`)));
    });
  }
  return x.map((row) => rmsNorm(row, named(weights, 'model.norm.weight'), eps));
}

function selfAttention(config: LlamaConfig, weights: Weights, from: string, rows: readonly Row[]): Row[] {
  const { heads: H, kvHeads: K, headWidth: W, ropeTheta } = config;
  const part = (name: string): Row[] =>
    rows.map((row) => linear(row, named(weights, `${from}.${name}_proj.weight`)));
  const turned = (all: readonly Row[], head: number): Row[] =>
    all.map((row, position) => rope(row.slice(head * W, (head + 1) * W), position, ropeTheta));
  const [q, k, v] = [part('q'), part('k'), part('v')] as const;
  const mixed = Array.from({ length: H }, (_, h) => {
    const shared = Math.floor(h / (H / K)); // the key head of this query head
    const keys = turned(k, shared);
    const values = v.map((row) => row.slice(shared * W, (shared + 1) * W));
    return turned(q, h).map((query, s) => {
      const scores = keys.slice(0, s + 1).map((key) => dotOf(query, key) / Math.sqrt(W));
      return mix(softmax(scores), values);
    });
  }); // [H][S][W]
  return rows.map((_, s) =>
    linear(
      mixed.flatMap((head) => at(head, s)),
      named(weights, `${from}.o_proj.weight`),
    ),
  );
}

/** Rotates the pairs (j, j + W/2) by position · theta^(-2j/W). */
function rope(row: Row, position: number, theta: number): Row {
  const half = row.length / 2;
  return row.map((value, i) => {
    const angle = position * theta ** (-(2 * (i % half)) / row.length);
    const partner = i < half ? -at(row, i + half) : at(row, i - half);
    return value * Math.cos(angle) + partner * Math.sin(angle);
  });
}

/** All tokens of a DINOv2 after `depth` blocks, after the final norm too where that is all of them. */
export function encoderTokens(
  config: VitConfig,
  weights: Weights,
  pixels: Float32Array,
  depth: number,
  positions = named(weights, 'embeddings.position_embeddings'),
): Row[] {
  const { hiddenSize: C, layerNormEps: eps } = config;
  const kernel = named(weights, 'embeddings.patch_embeddings.projection.weight');
  const bias = named(weights, 'embeddings.patch_embeddings.projection.bias');
  const embedded = patches(config, pixels).map((patch) => linear(patch, kernel, bias));
  const cls = [...named(weights, 'embeddings.cls_token')];
  let x = [cls, ...embedded].map((row, n) => sumOf(row, rowOf(positions, n, C)));
  for (let i = 0; i < depth; i++) x = encoderBlock(config, weights, `encoder.layer.${i}`, x);
  return depth === config.layers ? x.map((row) => affineNorm(weights, 'layernorm', row, eps)) : x;
}

/** Patches as a convolution sees them: channel, then row, then column. */
function patches({ imageSize: H, patchSize: p }: VitConfig, pixels: Float32Array): Row[] {
  const g = H / p;
  const pixel = (c: number, y: number, x: number): number => at(pixels, (c * H + y) * H + x);
  const inside = Array.from(
    { length: 3 * p * p },
    (_, i) => [Math.floor(i / (p * p)), Math.floor(i / p) % p, i % p] as const,
  );
  return Array.from({ length: g * g }, (_, n) =>
    inside.map(([c, y, x]) => pixel(c, Math.floor(n / g) * p + y, (n % g) * p + x)),
  );
}

function encoderBlock(config: VitConfig, weights: Weights, from: string, rows: readonly Row[]): Row[] {
  const { heads: H, hiddenSize: C, layerNormEps: eps } = config;
  const W = C / H;
  const apply = (name: string, row: Row): Row =>
    linear(row, named(weights, `${from}.${name}.weight`), named(weights, `${from}.${name}.bias`));
  const normed = rows.map((row) => affineNorm(weights, `${from}.norm1`, row, eps));
  const part = (name: string): Row[] => normed.map((row) => apply(`attention.attention.${name}`, row));
  const [q, k, v] = [part('query'), part('key'), part('value')] as const;
  return rows.map((row, s) => {
    const heads = Array.from({ length: H }, (_, h) => {
      const cut = (whole: Row): Row => whole.slice(h * W, (h + 1) * W);
      const scores = k.map((key) => dotOf(cut(at(q, s)), cut(key)) / Math.sqrt(W));
      return mix(softmax(scores), v.map(cut));
    });
    const scaled = (name: string, values: Row): Row =>
      values.map((value, c) => value * at(named(weights, `${from}.${name}.lambda1`), c));
    const between = sumOf(row, scaled('layer_scale1', apply('attention.output.dense', heads.flat())));
    const hidden = apply('mlp.fc1', affineNorm(weights, `${from}.norm2`, between, eps)).map(gelu);
    return sumOf(between, scaled('layer_scale2', apply('mlp.fc2', hidden)));
  });
}

/** x · Φ(x), the error function by its Taylor series, which is exact enough up to about |x| = 5. */
export function gelu(x: number): number {
  const z = x / Math.SQRT2;
  let [sum, term] = [0, z];
  for (let n = 0; n < 120; n++) {
    sum += term / (2 * n + 1);
    term *= -(z * z) / (n + 1);
  }
  return x * 0.5 * (1 + (2 / Math.sqrt(Math.PI)) * sum);
}

function rmsNorm(row: Row, weight: Float32Array, eps: number): Row {
  const scale = 1 / Math.sqrt(dotOf(row, row) / row.length + eps);
  return row.map((value, d) => value * scale * at(weight, d));
}

function layerNorm(row: Row, eps: number): Row {
  const mean = row.reduce((sum, value) => sum + value, 0) / row.length;
  const centred = row.map((value) => value - mean);
  return centred.map((value) => value / Math.sqrt(dotOf(centred, centred) / row.length + eps));
}

function affineNorm(weights: Weights, name: string, row: Row, eps: number): Row {
  const [weight, bias] = [named(weights, `${name}.weight`), named(weights, `${name}.bias`)];
  return layerNorm(row, eps).map((value, c) => value * at(weight, c) + at(bias, c));
}

/** Weight [out, in], as torch.nn.Linear has it. */
function linear(row: Row, weight: ArrayLike<number>, bias?: ArrayLike<number>): Row {
  const size = row.length;
  return Array.from({ length: weight.length / size }, (_, out) => {
    let sum = bias ? at(bias, out) : 0;
    for (let i = 0; i < size; i++) sum += at(row, i) * at(weight, out * size + i);
    return sum;
  });
}

function softmax(scores: readonly number[]): Row {
  const most = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - most));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

function mix(shares: readonly number[], rows: readonly Row[]): Row {
  return shares.map((share, t) => at(rows, t).map((value) => value * share)).reduce(sumOf);
}

function sumOf(a: Row, b: Row): Row {
  return a.map((value, i) => value + at(b, i));
}

function dotOf(a: Row, b: Row): number {
  return a.reduce((sum, value, i) => sum + value * at(b, i), 0);
}

function rowOf(table: Float32Array, row: number, width: number): Row {
  return [...table.subarray(row * width, (row + 1) * width)];
}

function named(weights: Weights, name: string): Float32Array {
  const found = weights[name];
  if (!found) throw new Error(`reference: there must be a weight "${name}"`);
  return found;
}

function at<T>(list: ArrayLike<T>, index: number): T {
  const item = list[index];
  if (item === undefined) throw new Error(`reference: item ${index} must exist, got ${list.length} items`);
  return item;
}
