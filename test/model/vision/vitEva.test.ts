/** EVA-CLIP's sizes and names from tables of contents; its numbers are checked in test/parity/minigpt4Vision.test.ts. */
import { describe, expect, it } from 'vitest';
import { UserError } from '../../../src/errors.js';
import { Vit } from '../../../src/model/vision/vit.js';
import { evaVision, evaWeights, type EvaOptions } from '../../../src/model/vision/vitEva.js';
import { elementCount, type HostTensor } from '../../../src/tensorflow/dtypes.js';
import { Graph } from '../../../src/tensorflow/graph.js';
import { evaTable, tableSource, without, type Table } from './vitTables.js';

const TINY = { C: 16, M: 40, p: 2, grid: 4, blocks: 3 };
const OPTIONS: EvaOptions = { imageSize: 8, heads: 2 };

/** A table under Hugging Face's names. */
function blip2Names(table: Table): Table {
  const entries = Object.entries(without(table, /^(norm|head)|v_bias/)).map(([name, shape]) => {
    const rename = name
      .replace(/^cls_token/, 'embeddings.class_embedding')
      .replace(/^pos_embed/, 'embeddings.position_embedding')
      .replace(/^patch_embed\.proj/, 'embeddings.patch_embedding')
      .replace(/^blocks/, 'encoder.layers')
      .replace('attn.q_bias', 'attn.qkv.bias')
      .replace('attn.qkv', 'self_attn.qkv')
      .replace('attn.proj', 'self_attn.projection')
      .replace(/\.norm/, '.layer_norm');
    return [`vision_model.${rename}`, name.endsWith('q_bias') ? [3 * (shape[0] ?? 0)] : shape] as const;
  });
  return Object.fromEntries(entries);
}

describe('evaVision', () => {
  it('of the released file’s sizes runs 39 of 40 blocks with 16 heads: 985,894,528 weights', () => {
    const { vit, depth, layout } = evaVision(tableSource(evaTable()), { imageSize: 224 });
    expect(depth).toBe(39);
    expect(vit).toMatchObject({
      hiddenSize: 1408,
      layers: 40,
      heads: 16,
      mlpSize: 6144,
      patchSize: 14,
      layerNormEps: 1e-6,
      imageMean: [0.48145466, 0.4578275, 0.40821073],
      imageStd: [0.26862954, 0.26130258, 0.27577711],
    });
    const graph = new Graph();
    const pixels = graph.placeholder('pixels', 'float32', ['B', 3, 224, 224]);
    const weights = evaWeights(vit, depth, layout);
    expect(new Vit(graph, vit, 'bfloat16', depth, weights).forward(pixels).shape).toEqual(['B', 257, 1408]);
    const count = [...graph.variables.values()].reduce((sum, { shape }) => sum + elementCount(shape), 0);
    expect(count - depth * 1408).toBe(985_894_528); // less the keys' biases, zeros that no file counts
    expect([...graph.variables.keys()].sort()).toEqual(weights.map(({ variable }) => variable).sort());
  });

  it('a released file that was cut to 39 blocks is used whole', () => {
    expect(evaVision(tableSource(evaTable({ blocks: 39 })), { imageSize: 224 }).depth).toBe(39);
  });

  it('in a file of another width the last block is dropped, unless the depth is given', () => {
    const source = tableSource(evaTable(TINY));
    expect(evaVision(source, OPTIONS).depth).toBe(2);
    expect(evaVision(source, { ...OPTIONS, depth: 3 }).depth).toBe(3);
  });

  it('every tensor of the file is used once, but for the last block, norm and head', () => {
    const table = evaTable(TINY);
    const { vit, depth, layout } = evaVision(tableSource(table), OPTIONS);
    const used = evaWeights(vit, depth, layout).flatMap(({ sources }) => sources);
    expect(used.sort()).toEqual(Object.keys(without(table, /^(norm|head|blocks\.2)/)).sort());
  });

  it('every tensor under Hugging Face’s names is used once', () => {
    const table = blip2Names(evaTable(TINY));
    const { vit, depth, layout } = evaVision(tableSource(table), OPTIONS);
    expect(depth).toBe(3);
    const used = evaWeights(vit, depth, layout).flatMap(({ sources }) => sources);
    expect(used.sort()).toEqual(Object.keys(table).sort());
  });

  it('takes the heads from config.json, where a missing entry means 16', () => {
    const source = tableSource(blip2Names(evaTable({ ...TINY, C: 32 })));
    const heads = (config: Record<string, unknown>): number =>
      evaVision(source, { imageSize: 8, config }).vit.heads;
    expect(heads({ vision_config: { num_attention_heads: 4 } })).toBe(4);
    expect(heads({ vision_config: {} })).toBe(16);
    expect(heads({})).toBe(16);
  });

  it('the key’s bias is zero between query’s and value’s', () => {
    const weights = evaWeights(evaVision(tableSource(evaTable(TINY)), OPTIONS).vit, 1, {
      kind: 'eva',
      prefix: '',
    });
    const bias = weights.find(({ variable }) => variable === 'block0/qkv/bias');
    const joined: HostTensor = { dtype: 'float16', shape: [4], data: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8) };
    expect(bias?.prepare?.(joined)).toEqual({
      dtype: 'float16',
      shape: [6],
      data: Uint8Array.of(1, 2, 3, 4, 0, 0, 0, 0, 5, 6, 7, 8),
    });
  });
});

describe('evaVision refuses', () => {
  const config = (vision: Record<string, unknown>): Record<string, unknown> => ({ vision_config: vision });
  const named = blip2Names(evaTable(TINY));

  it.each<[string, Table, EvaOptions, string]>([
    [
      'a file of something else',
      { weight: [2] },
      OPTIONS,
      'table: must hold an EVA-CLIP vision transformer ("patch_embed.proj.weight" as in eva_vit_g.pth',
    ],
    [
      'an unknown number of heads',
      evaTable(TINY),
      { imageSize: 8 },
      'vit: the number of heads must be given unless the width is 1408, got width 16',
    ],
    [
      'heads that do not divide the width',
      evaTable(TINY),
      { ...OPTIONS, heads: 3 },
      'vit: the number of heads must divide the width 16, got 3',
    ],
    [
      'an image size of half patches',
      evaTable(TINY),
      { ...OPTIONS, imageSize: 7 },
      'vit: the image size must be a multiple of 2, got 7',
    ],
    [
      'a patch kernel of another rank',
      { ...evaTable(TINY), 'patch_embed.proj.weight': [16, 12] },
      OPTIONS,
      'table: "patch_embed.proj.weight" must have 4 axes, got [16, 12]',
    ],
    [
      'a file without blocks',
      without(evaTable(TINY), /^blocks/),
      OPTIONS,
      'table: there must be layers "blocks.0" and on, got no "blocks.0"',
    ],
    [
      'a file with a gap',
      without(evaTable(TINY), /^blocks\.1/),
      OPTIONS,
      'table: there must be layers "blocks.0" and on, got no "blocks.1"',
    ],
    [
      'an approximate GELU',
      named,
      { imageSize: 8, config: config({ hidden_act: 'gelu_new' }) },
      'config.json: vision_config.hidden_act must be "gelu", got "gelu_new"',
    ],
    [
      'heads that are no number',
      named,
      { imageSize: 8, config: config({ num_attention_heads: '2' }) },
      'config.json: "num_attention_heads" must be a positive whole number, got "2"',
    ],
    [
      'a section that is no object',
      named,
      { imageSize: 8, config: { vision_config: 3 } },
      'config.json: "vision_config" must be an object, got 3',
    ],
  ])('%s', (_, table, options, message) => {
    const read = (): unknown => evaVision(tableSource(table), options);
    expect(read).toThrow(UserError);
    expect(read).toThrow(message);
  });

  it('a depth beyond the file’s blocks', () => {
    const { vit, layout } = evaVision(tableSource(evaTable(TINY)), OPTIONS);
    expect(() => new Vit(new Graph(), vit, 'float32', 4, evaWeights(vit, 4, layout))).toThrow(
      'vit: model.encoderLayer must be 1 to 3, got 4',
    );
  });
});
