/**
 * Captions, tokens, labels, masks and learning rates of MiniGPT-4's own code (test/fixtures/minigpt4-tiny): all exact but
 * the rates, which are doubles on both sides.
 */
import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { cleanCaption } from '../../src/data/captions.js';
import { prefixLength, type Segment } from '../../src/model/language/sequence.js';
import { loadTokenizer } from '../../src/model/tokenizer/tokenizer.js';
import { learningRate } from '../../src/train/schedule.js';
import {
  expected,
  FEATURE_SHAPE,
  fixture,
  integers,
  pairsOf,
  prompterOf,
  questionOf,
  recordedBatch,
  scheduleOfStage,
  tiny,
} from './minigpt4.js';
import type { Stage } from './minigpt4Recorded.js';

const STAGES: readonly Stage[] = ['stage1', 'stage2'];
const [Q] = FEATURE_SHAPE;
/** The label of what is not predicted: torch's ignore_index. */
const IGNORED = -100;

describe('caption cleaning', () => {
  it.each([...expected.stage1_captions, ...expected.caption_cleaning])(
    'cleans $raw as the reference',
    ({ raw, cleaned }) => {
      expect(cleanCaption(raw)).toBe(cleaned); // the exotic entries too
    },
  );

  it('stage 1 trains on cleaned captions, stage 2 on captions as they are', () => {
    for (const stage of STAGES) {
      const { sample_indices: samples, texts } = expected[`${stage}_batch`];
      expect(samples.map((sample) => pairsOf(stage)[sample]?.caption)).toEqual(texts);
    }
  });
});

describe.each(['tokenizer.model', 'tokenizer.json'])('%s', (file) => {
  const tokenizer = loadTokenizer(fixture(`${tiny.files.llm}/${file}`));

  it('gives the ids of the reference’s slow LlamaTokenizer, with and without BOS', async () => {
    const llama = await tokenizer;
    for (const { text, ids, ids_with_bos: withBos } of expected.tokenizer) {
      expect({ text, ids: llama.encode(text) }).toEqual({ text, ids });
      expect(llama.encodeLiteral(text)).toEqual(ids); // none of the texts names a special token
      expect([llama.bosId, ...ids]).toEqual(withBos);
    }
  });

  it('decodes ids to the reference’s text, broken bytes one by one', async () => {
    const llama = await tokenizer;
    for (const { ids, decoded } of expected.tokenizer) expect(llama.decode(ids)).toBe(decoded);
    for (const { turns } of expected.generation.runs) {
      for (const { new_token_ids: ids, raw_decoded: decoded } of turns) {
        // Its slow tokenizer keeps the dummy blank in front where a special token is among the ids; ours never does.
        const ends = ids.includes(expected.special_ids.eos);
        expect(llama.decode(ids)).toBe(ends ? decoded.replace(/^ /, '') : decoded);
      }
    }
  });

  it('knows the special tokens', async () => {
    const llama = await tokenizer;
    const { unk, bos, eos } = expected.special_ids;
    expect([llama.tokenId('<unk>'), llama.bosId, llama.eosId]).toEqual([unk, bos, eos]);
  });

  it('writes both encodings of ### as stop sequences', async () => {
    const prompter = await prompterOf('stage2', file);
    expect(prompter.stopSequences).toEqual(expected.special_ids.stop_sequences);
    expect(tiny.stop_sequences).toEqual(expected.special_ids.stop_sequences);
  });
});

describe.each(STAGES)('the %s batch', (stage) => {
  it('has the reference’s target tokens; long captions are cut and lose their end symbol', async () => {
    const { examples, target_ids: ids, target_mask: mask, end_sym: end } = await recordedBatch(stage);
    const { tokenizer, format } = await prompterOf(stage);
    const real = ids.map((row, b) => row.filter((_, t) => mask[b]?.[t] === 1));
    expect(examples.map(({ target }) => target)).toEqual(real);
    const ended = real.map((row) => tokenizer.decode(row).endsWith(end));
    expect(ended).toEqual(real.map((row) => row.length < format.maxTargetTokens));
    expect(ended).toContain(false); // both batches hold a caption that is cut
  });

  it('has the reference’s lengths, labels and attention mask', async () => {
    const { examples, batch, ...want } = await recordedBatch(stage);
    const { stem, length, targetRows, targetIds, positions, targetCounts } = batch.sequence;
    const S = stem.length + length + 1; // the last target is predicted, never read: the reference reads it too
    expect(S).toBe(want.sequence_length);
    expect(targetIds).toHaveLength(want.supervised_tokens);
    expect(targetCounts).toEqual(examples.map(({ target }) => target.length));

    const labels = new Array<number>(examples.length * S).fill(IGNORED);
    const at = (flat: number): number => Math.floor(flat / length) * S + stem.length + (flat % length);
    targetRows.forEach((row, i) => (labels[at(row) + 1] = targetIds[i] ?? NaN));
    expect(labels).toEqual(await integers(`${stage}_batch.labels`));

    const mask = new Array<number>(examples.length * S).fill(0);
    examples.forEach((_, b) => mask.fill(1, b * S, b * S + stem.length));
    positions.forEach((position) => mask.fill(1, at(position), at(position) + 2)); // a token, and the target after it
    expect(mask).toEqual(await integers(`${stage}_batch.attention_mask`));
  });
});

it('each segment of a prompt is tokenized on its own, with its dummy prefix and trailing blank', async () => {
  const prompter = await prompterOf('stage2');
  const idsOf = (text: string): readonly number[] | undefined =>
    expected.tokenizer.find((entry) => entry.text === text)?.ids;
  for (const prompt of expected.stage2_train.prompts ?? []) {
    const [before = '', after = ''] = prompt.split('<ImageHere>');
    const prefix: readonly Segment[] = prompter.prefix(questionOf(prompt));
    const [start, end] = [idsOf(before), idsOf(after)];
    expect(prefix).toEqual([
      { kind: 'text', ids: [expected.special_ids.bos, ...(start ?? [])] },
      { kind: 'image' },
      { kind: 'text', ids: end },
    ]);
    expect(prefixLength(prefix, Q)).toBe(1 + (start?.length ?? NaN) + Q + (end?.length ?? NaN));
  }
});

it('the prompt file’s lines are the questions of stage 2', async () => {
  const lines = (await readFile(fixture(tiny.files.prompts), 'utf8')).trim().split('\n');
  expect(expected.stage2_train.prompts?.map(questionOf)).toEqual(lines);
});

describe.each(STAGES)('the learning rates of %s', (stage) => {
  const { lr, steps } = expected[`${stage}_train`];
  const schedule = scheduleOfStage(stage);

  it('are the reference’s at every step', () => {
    expect(lr).toHaveLength(steps);
    // doubles on both sides: the order of the operations may change the last bits
    lr.forEach((rate, step) => expect(Math.abs(learningRate(step, schedule) / rate - 1)).toBeLessThan(1e-9));
  });

  it('drop at the end of the warm-up, because the cosine counts from step 0', () => {
    const { warmupSteps, peak, totalSteps, floor } = schedule;
    const cosine = 0.5 * (1 + Math.cos((Math.PI * warmupSteps) / totalSteps));
    expect(lr[warmupSteps]).toBeCloseTo(floor + (peak - floor) * cosine, 12);
    expect(lr[warmupSteps]).toBeLessThan(peak);
  });

  it('start the warm-up again where it is longer than an epoch', () => {
    const { warmupSteps, stepsPerEpoch, start } = schedule;
    expect(lr.slice(0, warmupSteps).filter((rate) => rate === start)).toHaveLength(
      Math.ceil(warmupSteps / stepsPerEpoch),
    );
  });
});
