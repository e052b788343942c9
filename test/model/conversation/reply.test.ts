import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../../../src/errors.js';
import { beamSearch } from '../../../src/model/language/beamSearch.js';
import {
  ask,
  conversationPrefix,
  imageCount,
  showImage,
  startConversation,
} from '../../../src/model/conversation/conversation.js';
import { TEMPLATES } from '../../../src/model/conversation/template.js';
import { answerStops } from '../../../src/model/conversation/answerText.js';
import { reply, type Assistant } from '../../../src/model/conversation/reply.js';
import { prefixLength } from '../../../src/model/language/sequence.js';
import { tinyAssistant } from '../../helpers/tinyAssistant.js';
import { TensorFlow } from '../../../src/tensorflow/session.js';
import { mulberry32, randomNormal } from '../../helpers/random.js';
import { TINY_FEATURES, TINY_LLAMA } from '../../helpers/tinyModels.js';

const { channels: C, queries: Q } = TINY_FEATURES;
const OPTIONS = { kind: 'linear' as const, standardise: true, layerNorm: true };
/** Rows for the fixture's tokenizer, and positions for a system text in single letters. */
const LLAMA = { ...TINY_LLAMA, vocabSize: 601, maxPositions: 160 };

let tensorflow: TensorFlow;
let assistant: Assistant;
beforeAll(async () => {
  tensorflow = await TensorFlow.open();
  assistant = await tinyAssistant(tensorflow, LLAMA, OPTIONS);
});
afterAll(() => tensorflow.close());

const image = randomNormal(Q * C, 1);
const asked = ask(showImage(startConversation(TEMPLATES['vicuna-v0'])), 'What is in this picture?');

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
    expect(await draw(1)).toMatchObject({ conversation, text, generated });
    expect((await draw(2)).generated).not.toEqual(generated);
  });

  it('of several beams is the beam search’s text', async () => {
    const { model, projection, tokenizer } = assistant;
    const options = { maxNewTokens: 6, beams: 4, lengthPenalty: 0 };
    const input = { features: image, prefix: conversationPrefix(asked, tokenizer) };
    const rule = { ...options, ...answerStops(TEMPLATES['vicuna-v0'], tokenizer) };
    const { score, ...text } = await beamSearch(model, projection, input, [Q, C], rule);
    const { generated } = await reply(assistant, asked, [image], options);
    // float32 sums of another order: the search reads the prompt's beginning apart
    expect(generated).toEqual({ ...text, score: expect.closeTo(score, 5) as number });
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

  it('answers a question about no image from its text alone', async () => {
    const plain = ask(startConversation(TEMPLATES['vicuna-v0']), 'What is a picture?');
    const { generated, context } = await reply(assistant, plain, [], { maxNewTokens: 4 });
    expect(generated.ids).toHaveLength(4);
    expect(context.length).toBe(prefixLength(conversationPrefix(plain, assistant.tokenizer), NaN));
  });

  it('refuses more or fewer features than images', async () => {
    await expect(reply(assistant, asked, [image, image])).rejects.toThrow(
      'reply: there must be features of one size for 1 images, got 2',
    );
  });
});
