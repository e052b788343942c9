/**
 * The assistant's answer to a conversation: the context made to fit, read, and continued.
 * Source: Vision-CAIR/MiniGPT-4, minigpt4/conversation/conversation.py, `Chat`.
 */
import { answerStops, readAnswer, steadyText } from './answerText.js';
import { answer, conversationPrefix, fitContext, imageCount, type Conversation } from './conversation.js';
import { searchOn } from '../language/beamSearch.js';
import { ContextMemory, joined } from '../language/contextMemory.js';
import {
  wanted,
  writeOn,
  type Generated,
  type GenerationInput,
  type WritingOptions,
} from '../language/generate.js';
import type { LanguageModel } from '../language/languageModel.js';
import type { Projection } from '../projection.js';
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
  /** Ends the answer where it is. */
  readonly signal?: AbortSignal;
  /** Told the answer so far each time it becomes longer; not with beams, of which the best is known at the end. */
  readonly onText?: (text: string) => void;
}

/** An answer. */
export interface Reply {
  /** With the answer in it; shorter than before where the context had become too long. */
  readonly conversation: Conversation;
  readonly text: string;
  readonly generated: Generated;
  /** `end`: it was complete; `length`: it has as many tokens as it may have; `stopped`: by the signal. */
  readonly finish: 'end' | 'length' | 'stopped';
  /** Positions of the context that was answered, and how many of them were read in an earlier turn. */
  readonly context: { readonly length: number; readonly reused: number };
  /** Whether the oldest questions and answers were left out of the context, which would have been too long. */
  readonly shortened: boolean;
}

/**
 * Answers the last question.
 *
 * @param images float32[Q, C] of each image shown, in order
 * @throws UserError if the last question and the images do not fit into the context
 */
export async function reply(
  assistant: Assistant,
  conversation: Conversation,
  images: readonly Float32Array[],
  options: ReplyOptions = {},
): Promise<Reply> {
  const memory = new ContextMemory(assistant.model, assistant.projection);
  try {
    return await replyWith(memory, assistant, conversation, images, options);
  } finally {
    await memory.forget();
  }
}

/** As `reply`, computing only what `memory` does not hold of the context; it then holds context and answer. */
export async function replyWith(
  memory: ContextMemory,
  assistant: Assistant,
  conversation: Conversation,
  images: readonly Float32Array[],
  { maxNewTokens = 300, maxLength = 2000, ...options }: ReplyOptions = {},
): Promise<Reply> {
  const { model, projection, tokenizer } = assistant;
  const { template } = conversation;
  const shape = [queries(conversation, images, projection.inputSize), projection.inputSize] as const;
  const positions = Math.min(maxLength, model.spec.llama.maxPositions) - maxNewTokens;
  const fitting = fitContext(conversation, { tokenizer, queries: shape[0], maxLength: positions });
  const input = { features: joined(images), prefix: conversationPrefix(fitting, tokenizer) };
  const { onText } = options;
  const { generated, context } = await write(memory, model, input, shape, {
    ...options,
    maxNewTokens,
    ...answerStops(template, tokenizer),
    ...(onText && {
      onToken: (ids) => onText(steadyText(readAnswer(template, ids, tokenizer), template.stop)),
    }),
  });
  const text = readAnswer(template, generated.ids, tokenizer);
  return {
    conversation: answer(fitting, text),
    text,
    generated,
    finish: generated.ended ? 'end' : generated.ids.length < maxNewTokens ? 'stopped' : 'length',
    context,
    shortened: fitting !== conversation,
  };
}

/** Reads the context and continues it; the memory then holds what can be read on from. */
async function write(
  memory: ContextMemory,
  model: LanguageModel,
  input: GenerationInput,
  shape: readonly [number, number],
  { beams = 1, ...options }: WritingOptions & Pick<ReplyOptions, 'beams' | 'lengthPenalty'>,
): Promise<Pick<Reply, 'generated' | 'context'>> {
  const { start, ...context } = await memory.read(input, shape, beams > 1 ? 'logits' : wanted(options));
  if (beams > 1) {
    // The search gives up its caches one by one: the memory takes a copy of what they all begin with.
    await memory.keep(input, shape, [], await model.crop(start.cache, context.length));
    return { generated: await searchOn(model, start, { ...options, beams }), context };
  }
  const { texts, cache } = await writeOn(model, start, 1, options);
  const [generated = { ids: [], end: [], ended: false }] = texts; // one row, one text
  await memory.keep(input, shape, [...generated.ids, ...generated.end], cache);
  return { generated, context };
}

/** Q of the images, which must be as many as the conversation shows. */
function queries(conversation: Conversation, images: readonly Float32Array[], C: number): number {
  const [first = new Float32Array(), ...others] = images;
  if (images.length === imageCount(conversation) && others.every(({ length }) => length === first.length))
    return first.length / C;
  throw new Error(
    `reply: there must be features of one size for ${imageCount(conversation)} images, got ${images.length}`,
  );
}
