/**
 * Random weights in MiniGPT-4's file layouts and real sizes: `eva_vit_g.pth`, the BLIP-2 file, and a Vicuna-7B folder of
 * float16 `.bin` shards. They know nothing; loading, memory and time are those of the real ones.
 * Sizes: shared specification 2.1, 2.2 and 2.4 (MiniGPT-4 at 22d8888, LAVIS, Vision-CAIR/vicuna-7b).
 */
import { cpSync, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileWhole } from '../../src/files.js';
import { OrderedDict, PyTorchTensor } from '../../src/model/weights/pytorchValues.js';
import { writePyTorch, type PyTorchTree } from '../../src/model/weights/pytorchWrite.js';
import { float32ToFloat16 } from '../../src/tensorflow/halfFloats.js';

/** Sizes of the frozen parts. */
export interface Sizes {
  readonly vit: { readonly width: number; readonly blocks: number; readonly mlp: number };
  readonly qformer: {
    readonly width: number;
    readonly layers: number;
    readonly ffn: number;
    readonly queries: number;
  };
  readonly llm: {
    readonly width: number;
    readonly layers: number;
    readonly heads: number;
    readonly ffn: number;
    readonly rows: number;
    readonly shards: number;
  };
}

/** MiniGPT-4 with Vicuna-7B. */
export const FULL: Sizes = {
  vit: { width: 1408, blocks: 39, mlp: 6144 },
  qformer: { width: 768, layers: 12, ffn: 3072, queries: 32 },
  llm: { width: 4096, layers: 32, heads: 32, ffn: 11008, rows: 32001, shards: 2 },
};

/** Where `makeWeights` puts the parts. */
export interface WeightPaths {
  readonly encoder: string;
  readonly qformer: string;
  readonly llm: string;
}

/** Paths of the parts under a folder. */
export function weightPaths(folder: string): WeightPaths {
  return {
    encoder: join(folder, 'eva_vit_g.pth'),
    qformer: join(folder, 'blip2_pretrained_flant5xxl.pth'),
    llm: join(folder, 'vicuna-7b'),
  };
}

/**
 * Writes the parts that are not there yet.
 *
 * @param tokenizer folder whose `tokenizer.model` and its companions the LLM gets; it may know fewer pieces than the LLM has rows
 */
export async function makeWeights(
  folder: string,
  sizes: Sizes,
  tokenizer: string,
  say: (text: string) => void,
): Promise<WeightPaths> {
  const paths = weightPaths(folder);
  mkdirSync(paths.llm, { recursive: true });
  const write = async (path: string, shapes: Shapes, dtype: 'float16' | 'float32', wrap = false) => {
    if (existsSync(path)) return;
    say(`writing ${path}`);
    const state = new OrderedDict<PyTorchTree>();
    for (const [name, shape] of shapes) state.set(name, randomTensor(name, shape, dtype));
    await writePyTorch(path, wrap ? { model: state } : state);
  };
  await write(paths.encoder, vitShapes(sizes.vit), 'float16');
  await write(paths.qformer, qformerShapes(sizes.qformer, sizes.vit.width), 'float32', true);
  const shards = splitEvenly(llmShapes(sizes.llm), sizes.llm.shards);
  const names = shards.map((_, i) => `pytorch_model-${five(i + 1)}-of-${five(shards.length)}.bin`);
  for (const [i, shard] of shards.entries()) await write(join(paths.llm, names[i] ?? ''), shard, 'float16');
  const weightMap = shards.flatMap((shard, i) => shard.map(([name]) => [name, names[i]] as const));
  await writeJson(paths.llm, 'pytorch_model.bin.index.json', { weight_map: Object.fromEntries(weightMap) });
  await writeJson(paths.llm, 'config.json', llmConfig(sizes.llm));
  for (const file of ['tokenizer.model', 'tokenizer_config.json', 'special_tokens_map.json'])
    cpSync(join(tokenizer, file), join(paths.llm, file));
  return paths;
}

type Shapes = readonly (readonly [string, readonly number[]])[];

function linear(name: string, out: number, input: number): Shapes {
  return [[`${name}.weight`, [out, input]], ...vector(`${name}.bias`, out)];
}

function norm(name: string, width: number): Shapes {
  return [...vector(`${name}.weight`, width), ...vector(`${name}.bias`, width)];
}

function vector(name: string, width: number): Shapes {
  return [[name, [width]]];
}

function times(count: number, of: (i: number) => Shapes): Shapes {
  return Array.from({ length: count }, (_, i) => of(i)).flat();
}

function vitShapes({ width: C, blocks, mlp }: Sizes['vit']): Shapes {
  return [
    ['cls_token', [1, 1, C]],
    ['pos_embed', [1, 257, C]],
    ['patch_embed.proj.weight', [C, 3, 14, 14]],
    ['patch_embed.proj.bias', [C]],
    ...times(blocks, (i) => [
      ...norm(`blocks.${i}.norm1`, C),
      ...vector(`blocks.${i}.attn.q_bias`, C),
      ...vector(`blocks.${i}.attn.v_bias`, C),
      [`blocks.${i}.attn.qkv.weight`, [3 * C, C]],
      ...linear(`blocks.${i}.attn.proj`, C, C),
      ...norm(`blocks.${i}.norm2`, C),
      ...linear(`blocks.${i}.mlp.fc1`, mlp, C),
      ...linear(`blocks.${i}.mlp.fc2`, C, mlp),
    ]),
  ];
}

function qformerShapes({ width: W, layers, ffn, queries }: Sizes['qformer'], C: number): Shapes {
  const attention = (name: string, source: number): Shapes => [
    ...linear(`${name}.self.query`, W, W),
    ...linear(`${name}.self.key`, W, source),
    ...linear(`${name}.self.value`, W, source),
    ...linear(`${name}.output.dense`, W, W),
    ...norm(`${name}.output.LayerNorm`, W),
  ];
  return [
    ['query_tokens', [1, queries, W]],
    ...norm('ln_vision', C),
    ...norm('Qformer.bert.embeddings.LayerNorm', W),
    ...times(layers, (i) => {
      const layer = `Qformer.bert.encoder.layer.${i}`;
      return [
        ...attention(`${layer}.attention`, W),
        ...(i % 2 === 0 ? attention(`${layer}.crossattention`, C) : []),
        ...linear(`${layer}.intermediate_query.dense`, ffn, W),
        ...linear(`${layer}.output_query.dense`, W, ffn),
        ...norm(`${layer}.output_query.LayerNorm`, W),
      ];
    }),
  ];
}

function llmShapes({ width: D, layers, ffn, rows }: Sizes['llm']): Shapes {
  return [
    ['model.embed_tokens.weight', [rows, D]],
    ...times(layers, (i) => {
      const layer = `model.layers.${i}`;
      return [
        ...['q', 'k', 'v', 'o'].map((part) => [`${layer}.self_attn.${part}_proj.weight`, [D, D]] as const),
        [`${layer}.mlp.gate_proj.weight`, [ffn, D]],
        [`${layer}.mlp.up_proj.weight`, [ffn, D]],
        [`${layer}.mlp.down_proj.weight`, [D, ffn]],
        [`${layer}.input_layernorm.weight`, [D]],
        [`${layer}.post_attention_layernorm.weight`, [D]],
      ];
    }),
    ['model.norm.weight', [D]],
    ['lm_head.weight', [rows, D]],
  ];
}

function llmConfig({ width, layers, heads, ffn, rows }: Sizes['llm']): object {
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_size: width,
    intermediate_size: ffn,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    vocab_size: rows,
    rms_norm_eps: 1e-6,
    max_position_embeddings: 2048,
    tie_word_embeddings: false,
    torch_dtype: 'float16',
    bos_token_id: 0, // wrong, as the published file has it: the tokenizer's counts
    eos_token_id: 1,
  };
}

/** Consecutive runs of tensors with about as many elements each. */
function splitEvenly(shapes: Shapes, parts: number): Shapes[] {
  const elements = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
  const total = shapes.reduce((sum, [, shape]) => sum + elements(shape), 0);
  const runs: (readonly [string, readonly number[]])[][] = Array.from({ length: parts }, () => []);
  let before = 0;
  for (const entry of shapes) {
    runs[Math.min(parts - 1, Math.floor((before / total) * parts))]?.push(entry);
    before += elements(entry[1]);
  }
  return runs;
}

const POOL = normalPool(1 << 22, 0.02);
const POOLS = { float32: bytesOf(POOL), float16: float32ToFloat16(POOL) };

/** Normal with deviation 0.02, as all of these models begin; ones for the weights of norms, zeros for biases. */
function randomTensor(name: string, shape: readonly number[], dtype: 'float16' | 'float32'): PyTorchTensor {
  const size = dtype === 'float16' ? 2 : 4;
  const bytes = shape.reduce((a, b) => a * b, size);
  return new PyTorchTensor(dtype, shape, () => {
    if (/bias$/.test(name)) return new Uint8Array(bytes);
    if (/norm\w*\.weight$|ln_vision\.weight$/i.test(name)) return repeated(ones(dtype), bytes);
    const start = (hashOf(name) % (POOL.length >> 1)) * size; // another stretch of the pool for each tensor
    return repeated(POOLS[dtype].subarray(start), bytes);
  });
}

function ones(dtype: 'float16' | 'float32'): Uint8Array {
  return dtype === 'float16' ? Uint8Array.of(0, 0x3c) : bytesOf(Float32Array.of(1));
}

function repeated(pattern: Uint8Array, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes);
  for (let at = 0; at < bytes; at += pattern.length) out.set(pattern.subarray(0, bytes - at), at);
  return out;
}

/** Box–Muller over a 32-bit generator (mulberry32): the same weights on every machine. */
function normalPool(length: number, std: number): Float32Array {
  let state = 42;
  const uniform = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return Float32Array.from(
    { length },
    () => std * Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()),
  );
}

function hashOf(text: string): number {
  return Buffer.from(text).reduce((hash, byte) => (Math.imul(hash, 31) + byte) >>> 0, 7);
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

function five(number: number): string {
  return String(number).padStart(5, '0');
}

async function writeJson(folder: string, name: string, value: unknown): Promise<void> {
  await writeFileWhole(join(folder, name), `${JSON.stringify(value, undefined, 2)}\n`);
}
