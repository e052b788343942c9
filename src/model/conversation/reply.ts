/**
 * The assistant's answer to a conversation: the context made to fit, generation, and the text in the generated ids.
 * Source: Vision-CAIR/MiniGPT-4, minigpt4/conversation/conversation.py, `Chat`.
 */
import { beamSearch } from '../language/beamSearch.js';
import {
  answer,
  conversationPrefix,
  fitContext,
  imageCount,
  type Conversation,
  type ConversationTemplate,
} from './conversation.js';
import { generate, type Generated, type GenerationInput, type StopRule } from '../language/generate.js';
import type { LanguageModel } from '../language/languageModel.js';
import type { Projection } from '../projection.js';
import { stopSequences } from './prompt.js';
import type { SamplingOptions } from '../language/sampling.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';

/** Who answers. */
export interface Assistant {
  readonly model: LanguageModel;
  readonly projection: Projection;
  readonly tokenizer: Tokenizer;
}

/** How an answer is written; without a temperature the likeliest token is taken. */
export interface ReplyOptions extends SamplingOptions {
  /** Default 300, as the demo has it. */
  readonly maxNewTokens?: number;
  /** Positions of context and answer together, default 2000 (the demo's `max_length`), never more than the LLM has. */
  readonly maxLength?: number;
  /** Default 1: no beams. */
  readonly beams?: number;
  /** For beams: > 0 favours long answers; default 1. */
  readonly lengthPenalty?: number;
  /** Uniform [0, 1) deviates for drawing. */
  readonly random?: () => number;
}

/** An answer. */
export interface Reply {
  /** With the answer in it; shorter than before where the context had become too long. */
  readonly conversation: Conversation;
  readonly text: string;
  readonly generated: Generated;
}

/**
 * Answers the last question.
 *
 * @param images float32[Q, C] of each image shown, in order
 * @throws UserError if the last question and the images do not fit into the context
 */
export async function reply(
  { model, projection, tokenizer }: Assistant,
  conversation: Conversation,
  images: readonly Float32Array[],
  { maxNewTokens = 300, maxLength = 2000, beams = 1, ...options }: ReplyOptions = {},
): Promise<Reply> {
  const [first = new Float32Array(), ...others] = images;
  if (images.length !== imageCount(conversation) || others.some(({ length }) => length !== first.length))
    throw new Error(
      `reply: there must be features of one size for ${imageCount(conversation)} images, got ${images.length}`,
    );
  const { inputSize: C } = projection;
  const Q = first.length / C;
  const positions = Math.min(maxLength, model.spec.llama.maxPositions) - maxNewTokens;
  const fitting = fitContext(conversation, { tokenizer, queries: Q, maxLength: positions });
  const input: GenerationInput = { features: joined(images), prefix: conversationPrefix(fitting, tokenizer) };
  const rule = { ...options, maxNewTokens, ...answerStops(conversation.template, tokenizer) };
  const [generated] =
    beams > 1
      ? [await beamSearch(model, projection, input, [Q, C], { ...rule, beams })]
      : await generate(model, projection, [input], [Q, C], rule);
  if (!generated) throw new Error('reply: there must be one text for one question, got none');
  const text = answerText(generated.ids, tokenizer);
  return { conversation: answer(fitting, text), text, generated };
}

/** What ends an answer: the tokenizer's end token, and the template's separator however it is encoded. */
export function answerStops(
  { stop }: ConversationTemplate,
  tokenizer: Tokenizer,
): Pick<StopRule, 'endId' | 'stopSequences'> {
  return { endId: tokenizer.eosId, stopSequences: stop ? stopSequences(tokenizer, stop) : [] };
}

/** White space to Python's `str.strip`; JavaScript's `trim` also takes U+FEFF, and leaves U+001C–001F and U+0085. */
const BLANK = '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]';
const OUTER_BLANKS = new RegExp(`^${BLANK}+|${BLANK}+$`, 'g');

/**
 * The answer in generated ids: at most one leading id 0 and then one leading id 1 dropped, decoded, cut at the first `###`,
 * what follows the last `Assistant:`, trimmed.
 *
 * Source: MiniGPT-4, minigpt4/conversation/conversation.py, `Chat.answer`.
 */
export function answerText(ids: readonly number[], tokenizer: Tokenizer): string {
  const begun = ids[0] === 0 ? ids.slice(1) : ids;
  const text = decodeGenerated(begun[0] === 1 ? begun.slice(1) : begun, tokenizer);
  const [first = ''] = text.split('###');
  return (first.split('Assistant:').at(-1) ?? '').replace(OUTER_BLANKS, '');
}

/**
 * The text of generated ids, special tokens included.
 *
 * Reference quirk: ids between special tokens are decoded on their own, each run losing its dummy blank, and a run before a
 * special token gets a blank in front unless it is empty and another special token stands there.
 * Source: transformers 4.28, models/llama/tokenization_llama.py, `LlamaTokenizer.convert_tokens_to_string`.
 */
export function decodeGenerated(ids: readonly number[], tokenizer: Tokenizer): string {
  let text = '';
  let run: number[] = [];
  let afterSpecial = false;
  ids.forEach((id, i) => {
    const special = isSpecial(id, tokenizer);
    if (special) {
      text += (i > 0 && !afterSpecial ? ' ' : '') + tokenizer.decode(run) + tokenizer.decode([id]);
      run = [];
    } else run.push(id);
    afterSpecial = special;
  });
  return text + tokenizer.decode(run);
}

function isSpecial(id: number, tokenizer: Tokenizer): boolean {
  return tokenizer.decode([id]) !== '' && tokenizer.decode([id], { skipSpecial: true }) === '';
}

function joined(images: readonly Float32Array[]): Float32Array {
  const features = new Float32Array(images.reduce((sum, { length }) => sum + length, 0));
  let from = 0;
  for (const image of images) {
    features.set(image, from);
    from += image.length;
  }
  return features;
}
