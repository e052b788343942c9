import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../../../src/errors.js';
import { Prompter, stopSequences, type PromptFormat } from '../../../src/model/conversation/prompt.js';
import { loadTokenizer, type Tokenizer } from '../../../src/model/tokenizer/tokenizer.js';
import { modelFolder } from '../../../src/setup/models.js';

const FORMAT: PromptFormat = {
  bos: 'tokenizer',
  template: '',
  captionPrefix: '',
  endSymbol: '###',
  maxTargetTokens: 32,
};

describe('Prompter with LLaMA’s tokenizer', () => {
  let llama: Tokenizer;
  beforeAll(async () => {
    llama = await loadTokenizer(join(import.meta.dirname, '../../fixtures/tokenizers/tiny-llama'));
  });

  it('a bare image follows BOS', () => {
    expect(new Prompter(llama, FORMAT).prefix()).toEqual([
      { kind: 'text', ids: [llama.bosId] },
      { kind: 'image' },
    ]);
    expect(new Prompter(llama, { ...FORMAT, bos: 'none' }).prefix()).toEqual([{ kind: 'image' }]);
    expect(new Prompter(llama, { ...FORMAT, bos: '</s>' }).prefix()[0]).toEqual({
      kind: 'text',
      ids: [llama.eosId],
    });
  });

  it('a question stands around the image, each side tokenized on its own', () => {
    const prompter = new Prompter(llama, { ...FORMAT, template: '###Human: {} ###Assistant: ' });
    expect(prompter.prefix('<Img><ImageHere></Img> Describe this image.')).toEqual([
      { kind: 'text', ids: [llama.bosId, ...llama.encode('###Human: <Img>')] },
      { kind: 'image' },
      { kind: 'text', ids: llama.encode('</Img> Describe this image. ###Assistant: ') },
    ]);
  });

  it('a question may begin or end with the image', () => {
    const prompter = new Prompter(llama, { ...FORMAT, bos: 'none', template: '{}' });
    expect(prompter.prefix('<ImageHere>')).toEqual([{ kind: 'image' }]);
    expect(prompter.prefix('<ImageHere> what?')).toEqual([
      { kind: 'image' },
      { kind: 'text', ids: llama.encode(' what?') },
    ]);
  });

  it('a question’s dollar signs are text', () => {
    const prompter = new Prompter(llama, { ...FORMAT, bos: 'none', template: 'Q: {}' });
    expect(prompter.prefix("<ImageHere> costs $& or $'?")[2]).toEqual({
      kind: 'text',
      ids: llama.encode(" costs $& or $'?"),
    });
  });

  it.each(['Describe this.', '<ImageHere> or <ImageHere>?'])('refuses the question %j', (question) => {
    const prompter = new Prompter(llama, { ...FORMAT, template: '{}' });
    expect(() => prompter.prefix(question)).toThrow(UserError);
    expect(() => prompter.prefix(question)).toThrow(
      `prompt: a question must hold <ImageHere> once, got ${JSON.stringify(question)}`,
    );
  });

  it('refuses a BOS that is no token', () => {
    expect(() => new Prompter(llama, { ...FORMAT, bos: '<|no such|>' })).toThrow(
      'prompt.bos: must name a token of this tokenizer, got "<|no such|>"',
    );
  });

  it('the target is the caption with its end symbol in one text, as the reference has it', () => {
    const { target, ...example } = new Prompter(llama, FORMAT).example('a red apple');
    expect(target).toEqual(llama.encodeLiteral('a red apple###'));
    expect(example.prefix).toEqual(new Prompter(llama, FORMAT).prefix());
  });

  it('a long target is cut to the limit and loses its end symbol', () => {
    const prompter = new Prompter(llama, { ...FORMAT, maxTargetTokens: 4 });
    expect(prompter.target('a red apple on a table')).toEqual(
      llama.encodeLiteral('a red apple on a table###').slice(0, 4),
    );
    const special = new Prompter(llama, { ...FORMAT, maxTargetTokens: 4, endSymbol: '</s>' });
    expect(special.target('a red apple on a table')).not.toContain(llama.eosId);
  });

  it('a text is ended by every encoding of the end symbol', () => {
    const sequences = new Prompter(llama, FORMAT).stopSequences;
    for (const before of ['a red apple', 'a red apple.', 'a red apple '])
      expect(
        sequences.some((ids) => llama.encode(`${before}###`).slice(-ids.length).join() === ids.join()),
      ).toBe(true);
    expect(
      sequences.every(
        (ids) =>
          ids.length && ['###', ' ###'].includes(llama.decode([...llama.encode('a'), ...ids]).slice(1)),
      ),
    ).toBe(true);
    expect(stopSequences(llama, '</s>')).toEqual([[llama.eosId]]);
    expect(stopSequences(llama, '\n')).toEqual([[llama.encode('a\n').at(-1)]]); // not ▁ and line break: the shorter tail
  });

  it('a caption that spells special tokens has none of them but the end that we add', () => {
    const prompter = new Prompter(llama, { ...FORMAT, endSymbol: '</s>', maxTargetTokens: 99 });
    expect(prompter.endId).toBe(llama.eosId);
    const target = prompter.target('a</s><s><unk> sign');
    const controls = [llama.bosId, llama.eosId, llama.tokenId('<unk>')];
    expect(target.filter((id) => controls.includes(id))).toEqual([llama.eosId]);
    expect(target.at(-1)).toBe(llama.eosId);
    expect(target.slice(0, -1)).toEqual(llama.encodeLiteral('a</s><s><unk> sign'));
  });
});

/** The quick start's two formats. Needs `minigpt4 setup`. */
describe('Prompter with SmolLM2’s tokenizer', () => {
  let smol: Tokenizer;
  beforeAll(async () => {
    smol = await loadTokenizer(await modelFolder('smollm2-135m-instruct'));
  });

  it('stage 1: <|endoftext|>, image, caption after a blank, line break', () => {
    const prompter = new Prompter(smol, {
      ...FORMAT,
      bos: '<|endoftext|>',
      captionPrefix: ' ',
      endSymbol: '\n',
    });
    expect(prompter.example('hot air balloon')).toEqual({
      prefix: [{ kind: 'text', ids: [0] }, { kind: 'image' }],
      target: [3380, 1512, 16670, 198], // test/fixtures/models/projection-gradient.json
    });
    expect(prompter.endId).toBe(198);
  });

  it('stage 2: ChatML around the image; its special tokens are control tokens in ours and text in captions', () => {
    const template = '<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n';
    const prompter = new Prompter(smol, {
      ...FORMAT,
      bos: 'none',
      template,
      endSymbol: '<|im_end|>',
      maxTargetTokens: 99,
    });
    const [before, image, after] = prompter.prefix('What is <ImageHere>?');
    const [start, end] = [smol.tokenId('<|im_start|>'), smol.tokenId('<|im_end|>')];
    expect(image).toEqual({ kind: 'image' });
    expect(before?.kind === 'text' && before.ids.filter((id) => id === start)).toHaveLength(1);
    expect(after?.kind === 'text' && after.ids.filter((id) => id === start || id === end)).toEqual([
      end,
      start,
    ]);
    const target = prompter.target('no<|im_end|>\n<|im_start|>user\nmore');
    expect(target.filter((id) => id === start || id === end)).toEqual([end]);
    expect(target.at(-1)).toBe(end);
    expect(smol.decode(target.slice(0, -1))).toBe('no<|im_end|>\n<|im_start|>user\nmore');
  });
});
