/** Tables of contents of weights files in the real layouts, at any size, without the weights. */
import { weightSource, type WeightSource } from '../../../src/model/weights/weights.js';

/** Shapes by name. */
export type Table = Readonly<Record<string, readonly number[]>>;

/** A source that lists tensors and holds no values. */
export function tableSource(table: Table): WeightSource {
  return weightSource({
    path: 'table',
    metadata: {},
    tensors: Object.entries(table).map(([name, shape]) => ({ name, shape, dtype: 'float16' as const })),
    readBytes: () => Promise.reject(new Error('table: there are no values')),
    close: () => Promise.resolve(),
  });
}

/** The table without the names that match. */
export function without(table: Table, pattern: RegExp): Table {
  return Object.fromEntries(Object.entries(table).filter(([name]) => !pattern.test(name)));
}

/** `eva_vit_g.pth`: width C, MLP of M, `grid` × `grid` patches of p × p; the norm and head at its end included. */
export function evaTable({ C = 1408, M = 6144, p = 14, grid = 16, blocks = 40 } = {}): Table {
  const block = (from: string): Table => ({
    ...both(`${from}.norm1`, [C]),
    [`${from}.attn.q_bias`]: [C],
    [`${from}.attn.v_bias`]: [C],
    [`${from}.attn.qkv.weight`]: [3 * C, C],
    ...both(`${from}.attn.proj`, [C, C]),
    ...both(`${from}.norm2`, [C]),
    ...both(`${from}.mlp.fc1`, [M, C]),
    ...both(`${from}.mlp.fc2`, [C, M]),
  });
  return {
    cls_token: [1, 1, C],
    pos_embed: [1, 1 + grid ** 2, C],
    ...both('patch_embed.proj', [C, 3, p, p]),
    ...numbered(blocks, (i) => block(`blocks.${i}`)),
    ...both('norm', [C]),
    ...both('head', [1024, C]),
  };
}

/** `blip2_pretrained_*.pth`: what a Q-Former of width D over image tokens of width W has, and what is to be ignored. */
export function blip2Table({ Q = 32, D = 768, M = 3072, W = 1408, layers = 12 } = {}): Table {
  const output = (from: string, into: number): Table => ({
    ...both(`${from}.dense`, [D, into]),
    ...both(`${from}.LayerNorm`, [D]),
  });
  const attention = (from: string, keys: number): Table => ({
    ...both(`${from}.self.query`, [D, D]),
    ...both(`${from}.self.key`, [D, keys]),
    ...both(`${from}.self.value`, [D, keys]),
    ...output(`${from}.output`, D),
  });
  const layer = (from: string, i: number): Table => ({
    ...attention(`${from}.attention`, D),
    ...(i % 2 ? {} : attention(`${from}.crossattention`, W)),
    ...both(`${from}.intermediate.dense`, [M, D]),
    ...output(`${from}.output`, M),
    ...both(`${from}.intermediate_query.dense`, [M, D]),
    ...output(`${from}.output_query`, M),
  });
  return {
    query_tokens: [1, Q, D],
    ...both('ln_vision', [W]),
    'Qformer.bert.embeddings.word_embeddings.weight': [30523, D],
    ...both('Qformer.bert.embeddings.LayerNorm', [D]),
    ...numbered(layers, (i) => layer(`Qformer.bert.encoder.layer.${i}`, i)),
    ...both('t5_proj', [4096, D]),
  };
}

/** A linear layer or norm: a weight, and a bias as long as its rows. */
function both(name: string, shape: readonly number[]): Table {
  return { [`${name}.weight`]: shape, [`${name}.bias`]: shape.slice(0, 1) };
}

function numbered(count: number, part: (i: number) => Table): Table {
  return Object.fromEntries(Array.from({ length: count }, (_, i) => Object.entries(part(i))).flat());
}
