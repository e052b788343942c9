import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  answerStops,
  decodeGenerated,
  readAnswer,
  steadyText,
} from '../../../src/model/conversation/answerText.js';
import { promptTemplate, TEMPLATES } from '../../../src/model/conversation/template.js';
import { loadTokenizer, type Tokenizer } from '../../../src/model/tokenizer/tokenizer.js';

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await loadTokenizer(
    join(import.meta.dirname, '../../fixtures/minigpt4-tiny/weights/llm/tokenizer.model'),
  );
});

describe('the end of an answer', () => {
  it('is the end token or ###, alone or after a word', () => {
    expect(answerStops(TEMPLATES['vicuna-v0'], tokenizer)).toEqual({
      endId: 2,
      stopSequences: [[274], [263, 552]],
    });
    expect(answerStops(TEMPLATES.llama2, tokenizer)).toEqual({ endId: 2, stopSequences: [] });
  });
});

describe('the answer', () => {
  it('is cut as the demo cuts it, or at the end symbol of training alone', () => {
    const prompt = { bos: 'tokenizer', template: '{} A:', captionPrefix: '', endSymbol: '%', questions: [] };
    const ids = tokenizer.encode('Sure. Assistant: a dog ### or % a cat');
    expect(readAnswer(TEMPLATES['vicuna-v0'], ids, tokenizer)).toBe('a dog');
    expect(readAnswer(promptTemplate(prompt), ids, tokenizer)).toBe('Sure. Assistant: a dog ### or');
    expect(readAnswer(promptTemplate(prompt), [...tokenizer.encode('a dog'), 2], tokenizer)).toBe('a dog');
  });

  it.each([
    ['a dog', '###', 'a dog'],
    ['a dog #', '###', 'a dog'],
    ['a dog.##', '###', 'a dog.'],
    ['a caf\uFFFD', '###', 'a caf'],
    ['a dog', '', 'a dog'],
    ['an e', 'end', 'an'],
  ])('%j with stop %j under way: nothing but %j is certain', (text, stop, certain) => {
    expect(steadyText(text, stop)).toBe(certain);
  });
});

describe('decodeGenerated', () => {
  it('decodes the runs between special tokens on their own, as the slow tokenizer does', () => {
    const [cat, dog] = [tokenizer.encode('a cat'), tokenizer.encode('a dog')];
    expect(decodeGenerated(cat, tokenizer)).toBe('a cat');
    expect(decodeGenerated([...cat, 2], tokenizer)).toBe(' a cat</s>');
    expect(decodeGenerated([1, ...cat, 2, 2, ...dog], tokenizer)).toBe('<s> a cat</s></s>a dog');
  });
});
