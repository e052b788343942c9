import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../../../src/errors.js';
import { beamSearch } from '../../../src/model/language/beamSearch.js';
import {
  ask,
  conversationPrefix,
  imageCount,
  showImage,
  startConversation,
  TEMPLATES,
} from '../../../src/model/conversation/conversation.js';
import { LanguageModel } from '../../../src/model/language/languageModel.js';
import {
  answerStops,
  decodeGenerated,
  reply,
  type Assistant,
} from '../../../src/model/conversation/reply.js';
import { loadTokenizer } from '../../../src/model/tokenizer/tokenizer.js';
import { TensorFlow } from '../../../src/tensorflow/session.js';
import { mulberry32, randomNormal } from '../../helpers/random.js';
import { TINY_FEATURES, TINY_LLAMA, tinyLlama, tinyProjection } from '../../helpers/tinyModels.js';

const { channels: C, queries: Q } = TINY_FEATURES;
const OPTIONS = { standardise: true, layerNorm: true };
/** Rows for the fixture's tokenizer, and positions for a system text in single letters. */
const LLAMA = { ...TINY_LLAMA, vocabSize: 601, maxPositions: 160 };

let tensorflow: TensorFlow;
let assistant: Assistant;
beforeAll(async () => {
  const tokenizer = await loadTokenizer(
    join(import.meta.dirname, '../../fixtures/minigpt4-tiny/weights/llm/tokenizer.model'),
  );
  tensorflow = await TensorFlow.open();
  const spec = { llama: LLAMA, featureSize: C, precision: 'float32' as const, projection: OPTIONS };
  const model = await LanguageModel.open(tensorflow, spec, tinyLlama(LLAMA).source);
  assistant = { model, projection: tinyProjection(OPTIONS), tokenizer };
});
afterAll(() => tensorflow.close());

const image = randomNormal(Q * C, 1);
const asked = ask(showImage(startConversation(TEMPLATES.vicuna)), 'What is in this picture?');

describe('reply', () => {
  it('adds the answer to the conversation, and the same deviates give the same answer', async () => {
    const draw = (seed: number): ReturnType<typeof reply> =>
      reply(assistant, asked, [image], {
        maxNewTokens: 8,
        temperature: 1,
        topK: 50,
        random: mulberry32(seed),
      });
    const { conversation, text, generated } = await draw(1);
    expect(conversation.messages).toEqual([...asked.messages, { role: 'assistant', image: false, text }]);
    expect(generated.ids.length).toBeGreaterThan(0);
    expect(await draw(1)).toEqual({ conversation, text, generated });
    expect((await draw(2)).generated).not.toEqual(generated);
  });

  it('of several beams is the beam search’s text', async () => {
    const { model, projection, tokenizer } = assistant;
    const options = { maxNewTokens: 6, beams: 4, lengthPenalty: 0 };
    const input = { features: image, prefix: conversationPrefix(asked, tokenizer) };
    const rule = { ...options, ...answerStops(TEMPLATES.vicuna, tokenizer) };
    const text = await beamSearch(model, projection, input, [Q, C], rule);
    expect((await reply(assistant, asked, [image], options)).generated).toEqual(text);
    expect((await reply(assistant, asked, [image], { maxNewTokens: 6 })).generated).not.toHaveProperty(
      'score',
    );
  });

  it('keeps every image over more turns than the model has positions for', async () => {
    let conversation = asked;
    for (let turn = 0; turn < 4; turn++) {
      ({ conversation } = await reply(assistant, conversation, [image], { maxNewTokens: 8 }));
      conversation = ask(conversation, 'Are you sure? Say it again.');
    }
    expect(imageCount(conversation)).toBe(1);
    expect(conversation.messages.length).toBeLessThan(9);
    const tooLong = reply(assistant, conversation, [image], { maxNewTokens: 120 });
    await expect(tooLong).rejects.toThrow(UserError);
    await expect(tooLong).rejects.toThrow('images and question must fit into 40 positions');
  });

  it('refuses more or fewer features than images', async () => {
    await expect(reply(assistant, asked, [image, image])).rejects.toThrow(
      'reply: there must be features of one size for 1 images, got 2',
    );
  });
});

describe('the end of an answer', () => {
  it('is the end token or ###, alone or after a word', () => {
    expect(answerStops(TEMPLATES.vicuna, assistant.tokenizer)).toEqual({
      endId: 2,
      stopSequences: [[274], [263, 552]],
    });
    expect(answerStops(TEMPLATES.llama2, assistant.tokenizer)).toEqual({ endId: 2, stopSequences: [] });
  });
});

describe('decodeGenerated', () => {
  it('decodes the runs between special tokens on their own, as the slow tokenizer does', () => {
    const { tokenizer } = assistant;
    const [cat, dog] = [tokenizer.encode('a cat'), tokenizer.encode('a dog')];
    expect(decodeGenerated(cat, tokenizer)).toBe('a cat');
    expect(decodeGenerated([...cat, 2], tokenizer)).toBe(' a cat</s>');
    expect(decodeGenerated([1, ...cat, 2, 2, ...dog], tokenizer)).toBe('<s> a cat</s></s>a dog');
  });
});
