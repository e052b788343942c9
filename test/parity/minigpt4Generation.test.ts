/**
 * The reference's chat on the tiny MiniGPT-4, with stage-2 weights: prompts, every greedy answer token for token, what stops
 * them, answers cut out of generated ids, and the filters before a draw.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  answer,
  ask,
  conversationPrefix,
  conversationText,
  showImage,
  startConversation,
  type Conversation,
} from '../../src/model/conversation/conversation.js';
import { TEMPLATES } from '../../src/model/conversation/template.js';
import { ChatSession } from '../../src/model/conversation/chat.js';
import type { Reply } from '../../src/model/conversation/reply.js';
import { answerStops, answerText, decodeGenerated } from '../../src/model/conversation/answerText.js';
import { generate, type Generated } from '../../src/model/language/generate.js';
import type { LanguageModel } from '../../src/model/language/languageModel.js';
import type { Projection } from '../../src/model/projection.js';
import { candidates } from '../../src/model/language/sampling.js';
import { prefixLength } from '../../src/model/language/sequence.js';
import { loadTokenizer, type Tokenizer } from '../../src/model/tokenizer/tokenizer.js';
import { TensorFlow } from '../../src/tensorflow/session.js';
import {
  expected,
  FEATURE_SHAPE,
  fixture,
  floats,
  imageFeatures,
  openTinyModel,
  readProjection,
  tiny,
} from './minigpt4.js';
import type { RecordedConversation, RecordedTurn } from './minigpt4Recorded.js';

const template = TEMPLATES['vicuna-v0-first'];
const { runs, max_new_tokens: maxNewTokens } = expected.generation;
const [Q] = FEATURE_SHAPE;

let tensorflow: TensorFlow;
let model: LanguageModel;
let projection: Projection;
let tokenizer: Tokenizer;
beforeAll(async () => {
  tensorflow = await TensorFlow.open();
  model = await openTinyModel(tensorflow, 'float32');
  projection = await readProjection('stage2');
  tokenizer = await loadTokenizer(fixture(tiny.files.llm));
});
afterAll(() => tensorflow.close());

/** A conversation as it stands before each recorded answer. */
function states({
  turns,
  ...run
}: RecordedConversation): { turn: RecordedTurn; conversation: Conversation }[] {
  let conversation = imagesOf(run).reduce(showImage, startConversation(template));
  return turns.map((turn) => {
    const asked = ask(conversation, turn.question);
    conversation = answer(asked, turn.text);
    return { turn, conversation: asked };
  });
}

function imagesOf({ image, images }: Pick<RecordedConversation, 'image' | 'images'>): readonly number[] {
  return images ?? (image === undefined ? [] : [image]);
}

async function write(run: RecordedConversation, conversation: Conversation): Promise<Generated> {
  const images = await Promise.all(imagesOf(run).map(imageFeatures));
  const features = Float32Array.from(images.flatMap((values) => Array.from(values)));
  const input = { features, prefix: conversationPrefix(conversation, tokenizer) };
  const options = { maxNewTokens, ...answerStops(template, tokenizer) };
  const [text] = await generate(model, projection, [input], FEATURE_SHAPE, options);
  return text ?? { ids: [], end: [], ended: false };
}

/** The reference's word for how a text ended. */
function finishOf({ end, ended }: Generated): string {
  if (!ended) return 'max_new_tokens';
  return end[0] === expected.special_ids.eos ? 'eos' : `stop_sequence_${end.length}`;
}

it('the fixture holds 18 answers, of two turns and of two images among them', () => {
  expect(runs.flatMap(({ turns }) => turns)).toHaveLength(18);
  expect(runs.filter(({ turns }) => turns.length > 1)).toHaveLength(1);
  expect(runs.filter((run) => imagesOf(run).length > 1)).toHaveLength(1);
});

describe.each(runs.map((run, number) => ({ run, number })))('conversation $number', ({ run }) => {
  it.each(states(run))(
    '“$turn.question” is the reference’s prompt, token for token',
    ({ turn, conversation }) => {
      expect(conversationText(conversation)).toBe(turn.prompt_text);
      const prefix = conversationPrefix(conversation, tokenizer);
      expect(prefix.flatMap((segment) => (segment.kind === 'text' ? [segment.ids] : []))).toEqual(
        turn.segment_ids,
      );
      expect(prefixLength(prefix, Q)).toBe(turn.prefix_length);
    },
  );

  it('held by a session that reads on has the reference’s answers too, token for token', async () => {
    const chat = new ChatSession({ model, projection, tokenizer }, template);
    for (const image of imagesOf(run)) chat.show(await imageFeatures(image));
    const contexts: Reply['context'][] = [];
    for (const { question, new_token_ids: ids, text } of run.turns) {
      const reply = await chat.ask(question, { maxNewTokens });
      expect([...reply.generated.ids, ...reply.generated.end]).toEqual(ids);
      expect(reply.text).toBe(text.replace(/<\/s>$/, '')); // the demo leaves it standing
      contexts.push(reply.context);
    }
    await chat.close();
    contexts.forEach(({ length, reused }, turn) => {
      if (turn === 0) expect(reused).toBe(0);
      else expect(length - reused).toBeLessThan(length / 2);
    });
  });

  it.each(states(run))(
    '“$turn.question” has the reference’s answer, token for token',
    async ({ turn, conversation }) => {
      const text = await write(run, conversation);
      expect([...text.ids, ...text.end]).toEqual(turn.new_token_ids);
      expect(finishOf(text)).toBe(turn.finish);
      expect(decodeGenerated(turn.new_token_ids, tokenizer)).toBe(turn.raw_decoded);
      expect(answerText(turn.new_token_ids, tokenizer)).toBe(turn.text);
    },
  );
});

it.each(expected.answer_postprocess)(
  'the answer in $generated_ids is “$text”',
  ({ generated_ids: ids, text }) => {
    expect(answerText(ids, tokenizer)).toBe(text);
  },
);

it.each(expected.sampling_filter.cases)(
  'penalty $repetition_penalty, temperature $temperature, top-k $top_k and top-p $top_p leave the reference’s tokens',
  async ({ ids, probs, ...options }) => {
    const { vocab_rows: V } = tiny.llm;
    const S = expected.stage1_batch.sequence_length;
    const logits = (await floats('stage1_batch.logits')).slice((S - 1) * V, S * V);
    const left = candidates(logits, expected.sampling_filter.previous_ids, {
      repetitionPenalty: options.repetition_penalty,
      temperature: options.temperature,
      topK: options.top_k,
      topP: options.top_p,
    }).sort((a, b) => a.id - b.id);
    expect(left.map(({ id }) => id)).toEqual(ids);
    // float32 there, float64 here
    left.forEach(({ probability }, i) =>
      expect(Math.abs(probability / (probs[i] ?? NaN) - 1)).toBeLessThan(1e-5),
    );
  },
);
