/** The Q-Former's sizes and names from tables of contents; its numbers are checked in test/parity/minigpt4Vision.test.ts. */
import { describe, expect, it } from 'vitest';
import { UserError } from '../../../src/errors.js';
import { QFormer } from '../../../src/model/vision/qformer.js';
import {
  lnVisionWeights,
  qformerPart,
  qformerWeights,
  type QFormerOptions,
} from '../../../src/model/vision/qformerWeights.js';
import { elementCount } from '../../../src/tensorflow/dtypes.js';
import { Graph } from '../../../src/tensorflow/graph.js';
import { blip2Table, tableSource, without, type Table } from './vitTables.js';

const TINY = { Q: 3, D: 12, M: 20, W: 16, layers: 3 };
const IGNORED =
  /word_embeddings|t5_proj|language_projection|\.intermediate\.|layer\.\d+\.output\.(dense|LayerNorm)/;

/** A table under Hugging Face's names, BLIP-2's or InstructBLIP's. */
function hfNames(table: Table, norm: string): Table {
  const rename = (name: string): string =>
    name
      .replace('ln_vision', 'vision_model.post_layernorm')
      .replace('Qformer.bert.embeddings.LayerNorm', norm)
      .replace('Qformer.bert', 'qformer')
      .replace('attention.self', 'attention.attention')
      .replace('t5_proj', 'language_projection');
  return Object.fromEntries(Object.entries(table).map(([name, shape]) => [rename(name), shape]));
}

describe('qformerPart', () => {
  it('of the released file’s sizes has 12 heads and looks at the image in every second layer', () => {
    const { config, layout } = qformerPart(tableSource(blip2Table()));
    expect(layout).toEqual({ kind: 'lavis', prefix: '' });
    expect(config).toEqual({
      queries: 32,
      hiddenSize: 768,
      layers: 12,
      heads: 12,
      mlpSize: 3072,
      encoderWidth: 1408,
      crossAttention: [0, 2, 4, 6, 8, 10],
    });
  });

  it('the query path of the released sizes has 105,137,664 weights and 24,576 of queries', () => {
    const { config, layout } = qformerPart(tableSource(blip2Table()));
    const graph = new Graph();
    const image = graph.placeholder('image', 'float32', ['B', 257, 1408]);
    expect(new QFormer(graph, config, 'bfloat16').forward(image).shape).toEqual(['B', 32, 768]);
    const count = [...graph.variables.values()].reduce((sum, { shape }) => sum + elementCount(shape), 0);
    expect(count).toBe(105_137_664 + 24_576);
    const filled = qformerWeights(config, layout).map(({ variable }) => variable);
    expect([...graph.variables.keys()].sort()).toEqual(filled.sort());
  });

  it.each([
    ['lavis', blip2Table(TINY)],
    ['blip2', hfNames(blip2Table(TINY), 'qformer.layernorm')],
    ['instructblip', hfNames(blip2Table(TINY), 'qformer.embeddings.layernorm')],
  ])('%s: every tensor is used once, but for those of the text and the projection', (kind, table) => {
    const { config, layout } = qformerPart(tableSource(table), { heads: 3 });
    expect(layout.kind).toBe(kind);
    expect(config.crossAttention).toEqual([0, 2]);
    const used = [...lnVisionWeights(layout), ...qformerWeights(config, layout)].flatMap(
      ({ sources }) => sources,
    );
    expect(used.sort()).toEqual(Object.keys(without(table, IGNORED)).sort());
  });

  it('takes the heads from config.json, where a missing entry means 12', () => {
    const source = tableSource(hfNames(blip2Table({ ...TINY, D: 24 }), 'qformer.layernorm'));
    const heads = (config: Record<string, unknown>): number => qformerPart(source, { config }).config.heads;
    expect(heads({ qformer_config: { num_attention_heads: 4 } })).toBe(4);
    expect(heads({ qformer_config: {} })).toBe(12);
    expect(qformerPart(source, { heads: 2, config: {} }).config.heads).toBe(2);
  });
});

describe('qformerPart refuses', () => {
  it.each<[string, Table, QFormerOptions, string]>([
    [
      'a file of something else',
      { query_tokens: [1, 3, 12] },
      {},
      'table: must hold a Q-Former ("Qformer.bert.embeddings.LayerNorm.weight" as in blip2_pretrained_*.pth',
    ],
    [
      'an unknown number of heads',
      blip2Table(TINY),
      {},
      'qformer: the number of heads must be given unless the width is 768, got width 12',
    ],
    [
      'heads that do not divide the width',
      blip2Table(TINY),
      { heads: 5 },
      'qformer: the number of heads must divide the width 12, got 5',
    ],
    [
      'a file without queries',
      without(blip2Table(TINY), /^query_tokens/),
      { heads: 3 },
      'table: there must be a tensor "query_tokens", got none',
    ],
    [
      'a Q-Former that never looks at the image',
      without(blip2Table(TINY), /crossattention/),
      { heads: 3 },
      'table: some layer of the Q-Former must look at the image, got no "Qformer.bert.encoder.layer.0.crossattention.self.key.weight"',
    ],
    [
      'an approximate GELU',
      hfNames(blip2Table(TINY), 'qformer.layernorm'),
      { config: { qformer_config: { hidden_act: 'relu' } } },
      'config.json: qformer_config.hidden_act must be "gelu", got "relu"',
    ],
  ])('%s', (_, table, options, message) => {
    const read = (): unknown => qformerPart(tableSource(table), options);
    expect(read).toThrow(UserError);
    expect(read).toThrow(message);
  });

  it('image tokens of another width', () => {
    const { config } = qformerPart(tableSource(blip2Table(TINY)), { heads: 3 });
    const graph = new Graph();
    const image = graph.placeholder('image', 'float32', ['B', 5, 18]);
    expect(() => new QFormer(graph, config, 'float32').forward(image)).toThrow(
      'qformer: the image tokens must be 16 wide, got 18',
    );
  });
});
