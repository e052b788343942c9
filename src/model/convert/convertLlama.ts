/** A GGUF LLaMA in Hugging Face's terms: its configuration, tensor names and row order. */
import { UserError } from '../../errors.js';
import { elementCount } from '../../tensorflow/dtypes.js';
import { toFloat32 } from '../../tensorflow/halfFloats.js';
import { shortestFloat32, type ModelContent } from './convertContent.js';
import type { GgufFile } from '../weights/gguf.js';
import type { SafetensorsEntry } from '../weights/safetensors.js';
import { missingTensor } from '../weights/weights.js';

/** Sizes of a LLaMA, as its GGUF key-values state them. */
interface LlamaSizes {
  readonly layers: number;
  readonly hidden: number;
  readonly intermediate: number;
  readonly heads: number;
  readonly keyValueHeads: number;
  readonly headDim: number;
  readonly vocabulary: number;
}

/** Where a tensor comes from, and the heads whose rows must be put back in order (queries and keys). */
interface TensorPlan {
  readonly name: string;
  readonly from: string;
  readonly shape: readonly number[];
  readonly permutedHeads?: number;
}

/**
 * What `convertGgufLlama` writes. Nothing but the header is read before a tensor's turn to be written.
 *
 * @throws UserError if it is no llama, scales its RoPE, misses tensors, or holds other ones or other shapes
 */
export function llamaModel(gguf: GgufFile): ModelContent {
  const architecture = gguf.keyValues.get('general.architecture');
  if (architecture !== 'llama') {
    throw new UserError(
      `${gguf.path}: general.architecture must be "llama", got ${String(architecture ?? 'none')}`,
    );
  }
  const sizes = llamaSizes(gguf);
  const names = new Set(gguf.names());
  const plans = planTensors(sizes, names);
  checkTensors(gguf, plans, names);
  return { config: llamaConfig(gguf, sizes, names), tensors: plans.map((plan) => tensorEntry(gguf, plan)) };
}

function llamaSizes(gguf: GgufFile): LlamaSizes {
  const layers = integer(gguf, 'llama.block_count');
  if (layers > gguf.names().length) {
    throw new UserError(
      `${gguf.path}: llama.block_count must fit its ${gguf.names().length} tensors, got ${layers}`,
    );
  }
  const hidden = integer(gguf, 'llama.embedding_length');
  const heads = integer(gguf, 'llama.attention.head_count');
  const headDim = integer(
    gguf,
    'llama.attention.key_length',
    integer(gguf, 'llama.rope.dimension_count', hidden / heads),
  );
  return {
    layers,
    hidden,
    intermediate: integer(gguf, 'llama.feed_forward_length'),
    heads,
    keyValueHeads: integer(gguf, 'llama.attention.head_count_kv', heads),
    headDim,
    vocabulary: gguf.info('token_embd.weight').shape[0] ?? 0,
  };
}

function llamaConfig(gguf: GgufFile, sizes: LlamaSizes, names: ReadonlySet<string>): Record<string, unknown> {
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    torch_dtype: 'float32',
    hidden_size: sizes.hidden,
    intermediate_size: sizes.intermediate,
    num_hidden_layers: sizes.layers,
    num_attention_heads: sizes.heads,
    num_key_value_heads: sizes.keyValueHeads,
    head_dim: sizes.headDim,
    hidden_act: 'silu',
    attention_bias: names.has('blk.0.attn_q.bias'),
    mlp_bias: false,
    rms_norm_eps: shortestFloat32(positive(gguf, 'llama.attention.layer_norm_rms_epsilon')),
    rope_theta: shortestFloat32(positive(gguf, 'llama.rope.freq_base', 10000)), // llama.cpp's default
    rope_scaling: unscaledRope(gguf, names),
    vocab_size: sizes.vocabulary,
    max_position_embeddings: integer(gguf, 'llama.context_length'),
    tie_word_embeddings: !names.has('output.weight'),
    bos_token_id: tokenId(gguf, 'bos'),
    eos_token_id: tokenId(gguf, 'eos'),
    pad_token_id: tokenId(gguf, 'padding'),
  };
}

/** Where each Hugging Face tensor comes from. Names: llama.cpp's gguf-py/gguf/tensor_mapping.py, arch LLAMA. */
function planTensors(sizes: LlamaSizes, names: ReadonlySet<string>): TensorPlan[] {
  const { hidden, vocabulary } = sizes;
  const plans: TensorPlan[] = [
    { name: 'model.embed_tokens.weight', from: 'token_embd.weight', shape: [vocabulary, hidden] },
    { name: 'model.norm.weight', from: 'output_norm.weight', shape: [hidden] },
  ];
  if (names.has('output.weight')) {
    plans.push({ name: 'lm_head.weight', from: 'output.weight', shape: [vocabulary, hidden] });
  }
  for (let layer = 0; layer < sizes.layers; layer++) plans.push(...planLayer(layer, sizes, names));
  return plans;
}

function planLayer(layer: number, sizes: LlamaSizes, names: ReadonlySet<string>): TensorPlan[] {
  const { hidden, intermediate, heads, keyValueHeads, headDim } = sizes;
  const [queries, keys] = [heads * headDim, keyValueHeads * headDim];
  const [to, from] = [`model.layers.${layer}`, `blk.${layer}`];
  const linears: (Omit<TensorPlan, 'shape'> & { readonly shape: readonly [number, number] })[] = [
    { name: 'self_attn.q_proj', from: 'attn_q', shape: [queries, hidden], permutedHeads: heads },
    { name: 'self_attn.k_proj', from: 'attn_k', shape: [keys, hidden], permutedHeads: keyValueHeads },
    { name: 'self_attn.v_proj', from: 'attn_v', shape: [keys, hidden] },
    { name: 'self_attn.o_proj', from: 'attn_output', shape: [hidden, queries] },
    { name: 'mlp.gate_proj', from: 'ffn_gate', shape: [intermediate, hidden] },
    { name: 'mlp.up_proj', from: 'ffn_up', shape: [intermediate, hidden] },
    { name: 'mlp.down_proj', from: 'ffn_down', shape: [hidden, intermediate] },
  ];
  const plans: TensorPlan[] = [
    { name: `${to}.input_layernorm.weight`, from: `${from}.attn_norm.weight`, shape: [hidden] },
    { name: `${to}.post_attention_layernorm.weight`, from: `${from}.ffn_norm.weight`, shape: [hidden] },
  ];
  for (const linear of linears) {
    const [rows] = linear.shape;
    plans.push({ ...linear, name: `${to}.${linear.name}.weight`, from: `${from}.${linear.from}.weight` });
    const bias = `${from}.${linear.from}.bias`;
    if (names.has(bias))
      plans.push({ ...linear, name: `${to}.${linear.name}.bias`, from: bias, shape: [rows] });
  }
  return plans;
}

/** Every planned tensor must be there in its shape, and nothing else may be: an unknown tensor is an unknown model. */
function checkTensors(gguf: GgufFile, plans: readonly TensorPlan[], names: ReadonlySet<string>): void {
  for (const { from, shape } of plans) {
    if (!names.has(from)) throw missingTensor(gguf.path, from, [...names]);
    const got = gguf.info(from).shape;
    if (got.join() === shape.join()) continue;
    throw new UserError(`${gguf.path}: "${from}" must be [${shape.join(', ')}], got [${got.join(', ')}]`);
  }
  const planned = new Set(plans.map(({ from }) => from));
  const other = [...names].find((name) => !planned.has(name));
  if (other === undefined) return;
  throw new UserError(
    `${gguf.path}: must hold a plain LLaMA's tensors only, got "${other}" (unsupported variant)`,
  );
}

function tensorEntry(gguf: GgufFile, { name, from, shape, permutedHeads }: TensorPlan): SafetensorsEntry {
  return {
    name,
    dtype: 'float32',
    shape,
    read: async () => {
      const values = toFloat32(await gguf.read(from));
      const ordered = permutedHeads === undefined ? values : unpermuteRows(values, shape, permutedHeads);
      return new Uint8Array(ordered.buffer, ordered.byteOffset, ordered.byteLength);
    },
  };
}

/**
 * Puts the rows of a query or key projection back in the order Hugging Face's rotate-half RoPE pairs them in:
 * within a head of 2n rows, GGUF's row 2i + t is row t·n + i.
 * Source: the inverse of `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py.
 */
function unpermuteRows(values: Float32Array, shape: readonly number[], heads: number): Float32Array {
  const rows = shape[0] ?? 0;
  const width = elementCount(shape.slice(1));
  const half = rows / heads / 2;
  const ordered = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    const head = Math.floor(row / (2 * half));
    const inHead = row % (2 * half);
    const from = head * 2 * half + 2 * (inHead % half) + Math.floor(inHead / half);
    ordered.set(values.subarray(from * width, (from + 1) * width), row * width);
  }
  return ordered;
}

/** `null`, Hugging Face's word for a RoPE that is not scaled. */
function unscaledRope(gguf: GgufFile, names: ReadonlySet<string>): null {
  const scaling = gguf.keyValues.get('llama.rope.scaling.type') ?? 'none';
  if (scaling === 'none' && !names.has('rope_freqs.weight')) return null;
  throw new UserError(`${gguf.path}: RoPE must not be scaled, got ${String(scaling)} (choose another model)`);
}

function tokenId(gguf: GgufFile, kind: string): number | null {
  const key = `tokenizer.ggml.${kind}_token_id`;
  return gguf.keyValues.has(key) ? integer(gguf, key) : null;
}

function integer(gguf: GgufFile, key: string, fallback?: number): number {
  const value = gguf.keyValues.get(key) ?? fallback;
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  throw new UserError(`${gguf.path}: ${key} must be a whole number, got ${String(value ?? 'none')}`);
}

function positive(gguf: GgufFile, key: string, fallback?: number): number {
  const value = gguf.keyValues.get(key) ?? fallback;
  if (typeof value === 'number' && value > 0) return value;
  throw new UserError(`${gguf.path}: ${key} must be a positive number, got ${String(value ?? 'none')}`);
}
