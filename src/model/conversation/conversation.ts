/**
 * Conversations about images as MiniGPT-4's demo holds them: from messages to what the LLM reads before its answer.
 * A conversation is a value; each step gives a new one.
 * Source: Vision-CAIR/MiniGPT-4, minigpt4/conversation/conversation.py (`Conversation`, `Chat`).
 */
import { UserError } from '../../errors.js';
import { bosIds, IMAGE_PLACE } from './prompt.js';
import type { ConversationTemplate } from './template.js';
import { prefixLength, type Segment } from '../language/sequence.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';

/** One message. */
export interface Message {
  readonly role: 'human' | 'assistant';
  /** Whether it has an image, which the template puts before or after its text. */
  readonly image: boolean;
  readonly text: string;
}

/** What was said so far. */
export interface Conversation {
  readonly template: ConversationTemplate;
  readonly messages: readonly Message[];
}

/** A conversation with nothing said. */
export function startConversation(template: ConversationTemplate): Conversation {
  return { template, messages: [] };
}

/** Shows an image. */
export function showImage(conversation: Conversation): Conversation {
  return append(conversation, { role: 'human', image: true, text: '' });
}

/**
 * Asks a question: about the image just shown in its own message, else in a new one.
 *
 * @throws UserError if it is empty
 */
export function ask(conversation: Conversation, question: string): Conversation {
  if (question.trim() === '')
    throw new UserError('conversation: a question must not be empty, got nothing but blanks');
  const last = conversation.messages.at(-1);
  if (last?.role !== 'human' || !last.image || last.text !== '')
    return append(conversation, { role: 'human', image: false, text: question });
  return {
    ...conversation,
    messages: [...conversation.messages.slice(0, -1), { ...last, text: question }],
  };
}

/** Adds the assistant's answer. */
export function answer(conversation: Conversation, text: string): Conversation {
  return append(conversation, { role: 'assistant', image: false, text });
}

/** Images shown so far; as many are given to the model, in order. */
export function imageCount({ messages }: Conversation): number {
  return messages.filter(({ image }) => image).length;
}

/**
 * The text with an answer to come, cut where the images stand: one piece more than there are images.
 *
 * Reference quirk: an empty answer in the history has no separator after it.
 */
export function conversationPieces({ template, messages }: Conversation): string[] {
  const pieces: string[] = [];
  let piece = template.system + template.separator;
  for (const { role, image, text } of messages) {
    if (role === 'assistant' && text === '') {
      piece += template.pending;
      continue;
    }
    piece += template[role];
    if (image) {
      const [before, after] = aroundImage(template.image, text);
      pieces.push(piece + before);
      piece = after;
    } else piece += text;
    piece += role === 'human' ? template.separator : template.answerEnd;
  }
  return [...pieces, piece + template.pending];
}

/** What a message with an image says before and after it. */
function aroundImage(
  { before, after, gap, place }: ConversationTemplate['image'],
  text: string,
): readonly [string, string] {
  if (!text) return [before, after];
  return place === 'after question' ? [text + gap + before, after] : [before, after + gap + text];
}

/** The whole text, with `<ImageHere>` for each image. */
export function conversationText(conversation: Conversation): string {
  return conversationPieces(conversation).join(IMAGE_PLACE);
}

/** What the LLM reads before the answer: each piece tokenized on its own, BOS before the first alone. */
export function conversationPrefix(conversation: Conversation, tokenizer: Tokenizer): Segment[] {
  const { bos } = conversation.template;
  const opening = bos === undefined ? [tokenizer.bosId ?? []].flat() : bosIds(tokenizer, bos);
  return conversationPieces(conversation).flatMap((piece, i): Segment[] => {
    const ids = tokenizer.encode(piece);
    if (i > 0) return [{ kind: 'image' }, ...(ids.length > 0 ? [{ kind: 'text' as const, ids }] : [])];
    return [{ kind: 'text', ids: [...opening, ...ids] }];
  });
}

/**
 * Shortens a conversation until its prefix fits: the oldest answered questions go first, their images stay, and so do the
 * system text, BOS and the last question. The reference cuts positions off the left, images and BOS with them.
 *
 * @param options.queries Q: soft tokens of an image
 * @param options.maxLength most positions of the prefix
 * @throws UserError if images and last question alone are longer
 */
export function fitContext(
  conversation: Conversation,
  options: { readonly tokenizer: Tokenizer; readonly queries: number; readonly maxLength: number },
): Conversation {
  const length = prefixLength(conversationPrefix(conversation, options.tokenizer), options.queries);
  if (length <= options.maxLength) return conversation;
  const shorter = withoutOldest(conversation);
  if (shorter) return fitContext(shorter, options);
  throw new UserError(
    `conversation: images and question must fit into ${options.maxLength} positions, got ${length} (ask less, show fewer images, or ask for fewer new tokens)`,
  );
}

function append(conversation: Conversation, message: Message): Conversation {
  return { ...conversation, messages: [...conversation.messages, message] };
}

/** The conversation less its oldest text that may go; undefined if the last question alone is left. */
function withoutOldest(conversation: Conversation): Conversation | undefined {
  const { messages } = conversation;
  const question = messages.findLastIndex(({ role }) => role === 'human');
  const oldest = messages.findIndex(({ image, text }, i) => i < question && !(image && text === ''));
  if (oldest < 0) return undefined;
  const after = messages[oldest + 1]?.role === 'assistant' ? oldest + 2 : oldest + 1;
  const kept = messages[oldest]?.image ? [{ ...messages[oldest], text: '' }] : [];
  return { ...conversation, messages: [...messages.slice(0, oldest), ...kept, ...messages.slice(after)] };
}
