import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { answerOptions, conversationTemplate, readImage } from '../src/chat.js';
import { parseConfig } from '../src/config/load.js';
import type { Config } from '../src/config/schema.js';
import { UserError } from '../src/errors.js';
import { promptTemplate, TEMPLATES } from '../src/model/conversation/template.js';
import { tinyConfig, tinyPicture } from './helpers/tinyFolders.js';

const [stage1, stage2] = (['pretrain', 'finetune'] as const).map((stage) =>
  parseConfig(tinyConfig(stage, { llm: 'llm', encoder: 'encoder' }, 'root'), 'c.yaml'),
) as [Config, Config]; // two stages, two configurations

describe('the template of a name', () => {
  it('is the configuration’s own, or one of the reference’s', () => {
    expect(conversationTemplate('config', stage2)).toEqual(promptTemplate(stage2.prompt));
    expect(conversationTemplate('vicuna-v0', stage2)).toBe(TEMPLATES['vicuna-v0']);
    expect(conversationTemplate('llama2', stage1)).toBe(TEMPLATES.llama2);
  });

  it.each([
    ['vicuna-0', 'got "vicuna-0", did you mean "vicuna-v0"?'],
    ['toString', 'must be one of config, vicuna-v0, vicuna-v0-first, llama2, got "toString"'],
    ['config', 'prompt.template: must hold {} once for a conversation, got ""'],
  ])('%s with a configuration of stage 1 is refused', (name, message) => {
    const choose = (): unknown => conversationTemplate(name, stage1);
    expect(choose).toThrow(UserError);
    expect(choose).toThrow(message);
  });
});

describe('the options of an answer', () => {
  it('are greedy unless drawing is asked for, then the demo’s', () => {
    expect(answerOptions({})).toEqual({});
    expect(answerOptions({ maxNewTokens: 5, beams: 2, lengthPenalty: 0, repetitionPenalty: 1.1 })).toEqual({
      maxNewTokens: 5,
      beams: 2,
      lengthPenalty: 0,
      repetitionPenalty: 1.1,
    });
    const { random, ...drawn } = answerOptions({ topK: 0, temperature: undefined });
    expect(drawn).toEqual({ temperature: 1, topK: 0, topP: 0.9, repetitionPenalty: 1 });
    expect(random).toBeTypeOf('function');
  });

  it('draw the same deviates for the same seed, each another', () => {
    const deviates = (seed?: number): number[] => {
      const { random } = answerOptions({ temperature: 1, seed });
      return Array.from({ length: 4 }, () => random?.() ?? NaN);
    };
    expect(deviates(7)).toEqual(deviates(7));
    expect(deviates(0)).toEqual(deviates());
    expect(deviates(7)).not.toEqual(deviates(8));
    expect(new Set(deviates(7)).size).toBe(4);
  });

  it.each([
    [{ seed: 1 }, 'a seed is for answers that are drawn'],
    [{ lengthPenalty: 2 }, 'a length penalty is for several beams'],
    [{ lengthPenalty: 2, beams: 1 }, 'a length penalty is for several beams'],
  ])('%j would have no effect', (settings, message) => {
    expect(() => answerOptions(settings)).toThrow(UserError);
    expect(() => answerOptions(settings)).toThrow(message);
  });
});

describe('readImage', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'chat-'));
    await writeFile(join(folder, 'one.png'), await tinyPicture(1));
    await writeFile(join(folder, 'cut.png'), (await tinyPicture(1)).subarray(0, 50));
  });
  afterAll(() => rm(folder, { recursive: true }));

  it('gives the bytes of an image', async () => {
    await expect(readImage(join(folder, 'one.png'))).resolves.toEqual(await tinyPicture(1));
  });

  it.each([
    ['cut.png', 'must be an image, got'],
    ['missing.png', 'no such file or folder'],
  ])('%s: %s', async (name, message) => {
    await expect(readImage(join(folder, name))).rejects.toThrow(UserError);
    await expect(readImage(join(folder, name))).rejects.toThrow(`${join(folder, name)}: ${message}`);
  });
});
