import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { UserError } from '../../../src/errors.js';
import { readSideFiles, tokenizerNotes } from '../../../src/model/delta/sideFiles.js';
import { temporaryFolder } from '../weights/weightsFixture.js';
import { addTokenizer } from './deltaFixture.js';

async function notesOn(specialTokens: string): Promise<string[]> {
  const folder = await temporaryFolder();
  await addTokenizer(folder);
  await writeFile(join(folder, 'special_tokens_map.json'), specialTokens);
  return tokenizerNotes(folder, await readSideFiles(folder));
}

describe('readSideFiles', () => {
  it('takes what is there of the known files, and nothing else', async () => {
    const folder = await temporaryFolder();
    await addTokenizer(folder);
    for (const file of ['added_tokens.json', 'README.md'])
      await writeFile(join(folder, file), '{"[PAD]": 600}');
    expect([...(await readSideFiles(folder)).keys()].sort()).toEqual([
      'added_tokens.json',
      'generation_config.json',
      'special_tokens_map.json',
      'tokenizer.json',
      'tokenizer.model',
      'tokenizer_config.json',
    ]);
  });

  it('needs one of the two tokenizers', async () => {
    const folder = await temporaryFolder();
    await addTokenizer(folder);
    await rm(join(folder, 'tokenizer.json'));
    await readSideFiles(folder);
    await rm(join(folder, 'tokenizer.model'));
    const reading = readSideFiles(folder);
    await expect(reading).rejects.toThrow(UserError);
    await expect(reading).rejects.toThrow(
      'must hold the tokenizer, tokenizer.model or tokenizer.json, got neither',
    );
  });
});

describe('tokenizerNotes', () => {
  it.each([
    '{"bos_token": "</s>", "eos_token": "</s>", "pad_token": "[PAD]", "unk_token": "</s>"}',
    '{"bos_token": {"content": "</s>"}, "eos_token": {"content": "</s>"}}',
  ])('warns where a text begins as it ends: %s', async (text) => {
    expect(await notesOn(text)).toEqual([
      expect.stringContaining('says "</s>" for the beginning and the end of a text'),
    ]);
  });

  it.each(['{"bos_token": "<s>", "eos_token": "</s>"}', '{}', '[]', 'null'])(
    'is quiet about %s',
    async (text) => {
      expect(await notesOn(text)).toEqual([]);
    },
  );

  it('refuses a file that is no JSON', async () => {
    await expect(notesOn('{')).rejects.toThrow('special_tokens_map.json: must be JSON');
  });
});
