import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../../../src/errors.js';
import {
  answer,
  ask,
  conversationPrefix,
  conversationText,
  fitContext,
  imageCount,
  showImage,
  startConversation,
  type Conversation,
} from '../../../src/model/conversation/conversation.js';
import { TEMPLATES } from '../../../src/model/conversation/template.js';
import { prefixLength } from '../../../src/model/language/sequence.js';
import { loadTokenizer, type Tokenizer } from '../../../src/model/tokenizer/tokenizer.js';
import { readFixture } from '../../helpers/fixtures.js';

const Q = 8;
const TINY = join(import.meta.dirname, '../../fixtures/minigpt4-tiny/weights/llm');
let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await loadTokenizer(TINY);
});

const started = (name: keyof typeof TEMPLATES): Conversation => showImage(startConversation(TEMPLATES[name]));
/** What follows the system text. */
const said = (conversation: Conversation): string =>
  conversationText(conversation).slice(conversation.template.system.length);

describe('the text of a conversation', () => {
  it.each([
    ['vicuna-v0-first', '###Human: <Img><ImageHere></Img> What?###Assistant:'],
    ['vicuna-v0', '###Human: <Img><ImageHere></Img> What?###Assistant: '],
    ['llama2', '<s>[INST] <Img><ImageHere></Img> What? [/INST] '],
  ] as const)('%s: system text, image, question, an answer to come', (name, text) => {
    expect(said(ask(started(name), 'What?'))).toBe(text);
  });

  it.each([
    ['vicuna-v0', '###Human: <Img><ImageHere></Img> What?###Assistant: a dog.###Human: Sure?###Assistant: '],
    ['llama2', '<s>[INST] <Img><ImageHere></Img> What? [/INST] a dog.<s>[INST] Sure? [/INST] '],
  ] as const)('%s: a second question follows the first answer', (name, text) => {
    expect(said(ask(answer(ask(started(name), 'What?'), 'a dog.'), 'Sure?'))).toBe(text);
  });

  it('a question after a question, and one without an image, are messages of their own', () => {
    const plain = startConversation(TEMPLATES['vicuna-v0']);
    expect(said(ask(ask(plain, 'One.'), 'Two.'))).toBe('###Human: One.###Human: Two.###Assistant: ');
  });

  it('an empty answer has no separator after it, as in the reference', () => {
    const text = said(ask(answer(ask(started('vicuna-v0-first'), 'What?'), ''), 'Sure?'));
    expect(text).toBe('###Human: <Img><ImageHere></Img> What?###Assistant:Human: Sure?###Assistant:');
  });

  it.each(['', ' \n'])('refuses the question %j', (question) => {
    expect(() => ask(started('vicuna-v0'), question)).toThrow(UserError);
    expect(() => ask(started('vicuna-v0'), question)).toThrow('a question must not be empty');
  });
});

describe('the prefix of a conversation', () => {
  it('of Llama-2 is the slow LlamaTokenizer’s, where <s> is BOS (scripts/fixtures/beam_search.py)', async () => {
    const { llama2_prompts: prompts } = await readFixture<{
      llama2_prompts: readonly { text: string; segment_ids: readonly (readonly number[])[] }[];
    }>('beam-search/expected.json');
    const asked = ask(started('llama2'), 'Describe this image.');
    const again = ask(answer(ask(started('llama2'), 'What is it?'), 'a dog.'), 'Are you sure?');
    expect([asked, again].map(conversationText)).toEqual(prompts.map(({ text }) => text));
    for (const [i, conversation] of [asked, again].entries()) {
      const texts = conversationPrefix(conversation, tokenizer).flatMap((segment) =>
        segment.kind === 'text' ? [segment.ids] : [],
      );
      expect(texts).toEqual(prompts[i]?.segment_ids);
    }
  });

  it('has no place for an image that someone only writes about', () => {
    const asked = ask(started('vicuna-v0'), 'What does <ImageHere> mean?');
    expect(conversationPrefix(asked, tokenizer).filter(({ kind }) => kind === 'image')).toHaveLength(1);
    expect(imageCount(asked)).toBe(1);
  });
});

describe('a context that is too long', () => {
  /** Two images and three answered questions before the last one. */
  const long = [
    (c: Conversation) => answer(ask(showImage(c), 'What is in the first picture?'), 'a dog in the park.'),
    (c: Conversation) => answer(ask(c, 'Is it large?'), 'It is small.'),
    (c: Conversation) => answer(ask(showImage(c), 'And in this one?'), 'a cat on a table.'),
    (c: Conversation) => ask(c, 'Which do you like?'),
  ].reduce((c, step) => step(c), startConversation(TEMPLATES['vicuna-v0']));
  const lengthOf = (c: Conversation): number => prefixLength(conversationPrefix(c, tokenizer), Q);
  const fitted = (maxLength: number): Conversation => fitContext(long, { tokenizer, queries: Q, maxLength });

  it('stays as it is while it fits', () => {
    expect(fitted(lengthOf(long))).toBe(long);
  });

  it('loses its oldest questions first, with their answers', () => {
    const shorter = fitted(lengthOf(long) - 1);
    expect(said(shorter)).toBe(
      '###Human: <Img><ImageHere></Img>###Human: Is it large?###Assistant: It is small.' +
        '###Human: <Img><ImageHere></Img> And in this one?###Assistant: a cat on a table.' +
        '###Human: Which do you like?###Assistant: ',
    );
    expect(said(fitted(lengthOf(shorter) - 1))).not.toContain('Is it large?');
  });

  it('never loses an image, BOS, the system text or the last question', () => {
    const least =
      '###Human: <Img><ImageHere></Img>###Human: <Img><ImageHere></Img>###Human: Which do you like?###Assistant: ';
    const lengths = Array.from({ length: lengthOf(long) }, (_, i) => i + 1);
    let refused = 0;
    for (const maxLength of lengths) {
      try {
        const shorter = fitted(maxLength);
        expect(lengthOf(shorter)).toBeLessThanOrEqual(maxLength);
        expect(imageCount(shorter)).toBe(2);
        expect(shorter.messages.at(-1)).toEqual(long.messages.at(-1));
        expect(conversationPrefix(shorter, tokenizer)[0]).toEqual(conversationPrefix(long, tokenizer)[0]);
      } catch (error) {
        expect(error).toBeInstanceOf(UserError);
        refused += 1;
      }
    }
    expect(said(fitted(refused + 1))).toBe(least); // the shortest that is accepted
    expect(() => fitted(refused)).toThrow(
      `conversation: images and question must fit into ${refused} positions, got ${refused + 1} (ask less, show fewer images, or ask for fewer new tokens)`,
    );
  });
});
