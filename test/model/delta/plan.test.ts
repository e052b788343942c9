import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { UserError } from '../../../src/errors.js';
import { planMerge, type MergePlan } from '../../../src/model/delta/plan.js';
import { openHuggingFaceFolder } from '../../../src/model/weights/huggingface.js';
import { temporaryFolder } from '../weights/weightsFixture.js';
import { copyFixture, writeLlama, type MadeLlama } from './deltaFixture.js';

/** Plans the merge of two made folders; the delta has a row more and small weights where nothing else is said. */
async function planOf(base: MadeLlama, delta: MadeLlama): Promise<MergePlan> {
  const root = await temporaryFolder();
  const sources = [
    await openHuggingFaceFolder(await writeLlama(join(root, 'base'), base)),
    await openHuggingFaceFolder(await writeLlama(join(root, 'delta'), { rows: 7, value: 0.01, ...delta })),
  ] as const;
  try {
    return await planMerge(...sources);
  } finally {
    for (const source of sources) await source.close();
  }
}

describe('planMerge', () => {
  it('plans the delta’s tensors in its order, without rotary buffers', async () => {
    const { base, delta } = await copyFixture();
    const sources = [await openHuggingFaceFolder(base), await openHuggingFaceFolder(delta)] as const;
    const plan = await planMerge(...sources);
    expect(plan).toMatchObject({ model: 'LLaMA (16 wide, 2 layers)', baseRows: 600, rows: 601, notes: [] });
    // 2 embeddings, 9 tensors a layer, the last norm; (2 · 601 + 1) · 16 + 2 · (4 · 16² + 3 · 16 · 24 + 2 · 16) values
    expect(plan.tensors).toHaveLength(21);
    expect(plan.values).toBe(23664);
    expect(plan.sizeBytes).toBe(2 * 23664);
    expect(plan.tensors[0]).toEqual({
      name: 'lm_head.weight',
      dtype: 'float16',
      shape: [601, 16],
      sizeBytes: 601 * 16 * 2,
    });
    expect(plan.tensors.some(({ name }) => name.includes('rotary'))).toBe(false);
    for (const source of sources) await source.close();
  });

  const extra = { name: 'model.extra', dtype: 'float16', shape: [2] } as const;
  const names7 = { width: 4096, layers: 32 };
  it.each<[string, MadeLlama, MadeLlama, string | RegExp]>([
    [
      'a base of 7B and a delta of 13B',
      names7,
      { width: 5120, layers: 40 },
      /the base \S+ of LLaMA 7B \(4096 wide, 32 layers\) and the delta \S+ of LLaMA 13B \(5120 wide, 40 layers\)/,
    ],
    ['other numbers of layers', {}, { layers: 3 }, '(4 wide, 2 layers) and the delta'],
    [
      'base and delta exchanged',
      { rows: 7, value: 0.01 },
      { rows: 6, value: 1 },
      /7 in \S+ and 6 in \S+ \(exchange/,
    ],
    ['whole weights as the delta', { value: 1 }, { value: 1.01 }, 'whole weights in place of the delta?'],
    [
      'an exchange that rows do not tell',
      { rows: 7, value: 0.01 },
      { value: 1 },
      'base and delta exchanged?',
    ],
    ['a tensor only in the base', { more: [extra] }, {}, /model\.extra \(1\) only in \S+base /],
    [
      'a tensor that the base lacks',
      { without: ['lm_head.weight'] },
      {},
      /lm_head\.weight \(1\) only in \S+delta /,
    ],
    ['another shape', { more: [extra] }, { more: [{ ...extra, shape: [1, 2] }] }, 'got [2] and [1, 2]'],
    [
      'an embedding of other rows than the other one',
      {},
      { without: ['lm_head.weight'], more: [{ ...extra, name: 'lm_head.weight', shape: [8, 4] }] },
      'lm_head.weight must have one shape in base and delta but for the rows 6 and 7, got [6, 4] and [8, 4]',
    ],
    [
      'an embedding of a vector',
      { without: ['model.embed_tokens.weight'], more: [{ ...extra, name: 'model.embed_tokens.weight' }] },
      {},
      'must have two dimensions, got [2]',
    ],
    [
      'no LLaMA',
      { without: ['model.embed_tokens.weight'] },
      {},
      'must be a tensor "model.embed_tokens.weight"',
    ],
    ['quantised weights', { dtype: 'int8' }, {}, 'must be float16, bfloat16, float32, got int8 (quantised'],
    [
      'a configuration of other rows',
      {},
      { config: { vocab_size: 6 } },
      'vocab_size must be that of the weights, 7, got 6',
    ],
    [
      'a configuration without layers',
      {},
      { config: { num_hidden_layers: undefined } },
      'num_hidden_layers must be',
    ],
  ])('refuses %s', async (_, base, delta, message) => {
    const planning = planOf(base, delta);
    await expect(planning).rejects.toThrow(UserError);
    await expect(planning).rejects.toThrow(message);
  });

  it('notes a delta with LLaMA’s own rows: Vicuna v1.1 or later', async () => {
    const { notes } = await planOf({ rows: 32000, width: 2 }, { rows: 32000, width: 2 });
    expect(notes).toEqual([
      expect.stringMatching(/32000 rows: it is Vicuna's v1\.1 or later.*v0, which has 32001/),
    ]);
  });

  it('notes a base that has the delta’s rows already', async () => {
    const { notes } = await planOf({ rows: 7 }, {});
    expect(notes).toEqual([expect.stringMatching(/has 7 rows as the delta has.*merged already\?/)]);
  });

  it('notes that a base of another dtype is rounded; the sum has the delta’s', async () => {
    const { notes, tensors } = await planOf({ dtype: 'float32' }, { dtype: 'bfloat16' });
    expect(notes).toEqual([expect.stringContaining('rounded first, float32 to bfloat16, as')]);
    expect(new Set(tensors.map(({ dtype }) => dtype))).toEqual(new Set(['bfloat16']));
  });
});
