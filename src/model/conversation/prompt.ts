/** From a caption and a question to the tokens that the LLM reads: prefix around the image, and the target. */
import { UserError } from '../../errors.js';
import type { Example, Segment } from '../language/sequence.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';

/** Where the image goes in a question. */
export const IMAGE_PLACE = '<ImageHere>';

/** The text around the image, as in the configuration's `prompt` section. */
export interface PromptFormat {
  /** `tokenizer`, `none`, or the literal text of a token. */
  readonly bos: string;
  /** Conversation around a question, which replaces `{}`. */
  readonly template: string;
  readonly captionPrefix: string;
  readonly endSymbol: string;
  readonly maxTargetTokens: number;
}

/** A prompt format bound to a tokenizer. Text of ours may use special tokens; captions never become control tokens. */
export class Prompter {
  readonly #bos: readonly number[];
  readonly #end: number | undefined;

  /** @throws UserError if the BOS token is not in the vocabulary */
  constructor(
    readonly tokenizer: Tokenizer,
    readonly format: PromptFormat,
  ) {
    this.#bos = bosIds(tokenizer, format.bos);
    this.#end = specialId(tokenizer, format.endSymbol);
  }

  /** The id that ends a generated text, where the end symbol is one token. */
  get endId(): number | undefined {
    const ids = this.tokenizer.encode(this.format.endSymbol);
    return this.#end ?? (ids.length === 1 ? ids[0] : undefined);
  }

  /** What ends a generated text: every tail of ids that spells the end symbol. */
  get stopSequences(): number[][] {
    return stopSequences(this.tokenizer, this.format.endSymbol);
  }

  /**
   * What stands before the target: BOS and image, or BOS and the question around the image.
   * Each text segment is tokenized on its own, as the reference does.
   *
   * @param question contains `<ImageHere>` once; undefined = the bare image
   */
  prefix(question?: string): Segment[] {
    if (question === undefined) return [...this.#text(''), { kind: 'image' }];
    const [before = '', after, ...rest] = this.format.template
      .replace('{}', () => question)
      .split(IMAGE_PLACE);
    if (after === undefined || rest.length)
      throw new UserError(
        `prompt: a question must hold ${IMAGE_PLACE} once, got ${JSON.stringify(question)}`,
      );
    const tail = this.tokenizer.encode(after);
    return [
      ...this.#text(before),
      { kind: 'image' },
      ...(tail.length ? [{ kind: 'text' as const, ids: tail }] : []),
    ];
  }

  /**
   * Target tokens of a caption with its end symbol, cut to the limit (a cut target loses its end symbol, as in the
   * reference).
   */
  target(caption: string): number[] {
    const { captionPrefix, endSymbol, maxTargetTokens } = this.format;
    const text = captionPrefix + caption;
    const ids =
      this.#end === undefined
        ? this.tokenizer.encodeLiteral(text + endSymbol)
        : [...this.tokenizer.encodeLiteral(text), this.#end];
    return ids.slice(0, maxTargetTokens);
  }

  /** A training sample. */
  example(caption: string, question?: string): Example {
    return { prefix: this.prefix(question), target: this.target(caption) };
  }

  #text(text: string): Segment[] {
    const ids = [...this.#bos, ...(text ? this.tokenizer.encode(text) : [])];
    return ids.length ? [{ kind: 'text', ids }] : [];
  }
}

/**
 * Every way in which `text` can stand at the end of generated ids: on its own, after a word, after punctuation and after a
 * blank. `###` is one token after a blank and two after a letter, in LLaMA's vocabulary [835] and [2277, 29937].
 *
 * @returns the shortest tails; none ends with another one
 * Source: MiniGPT-4, minigpt4/conversation/conversation.py, `Chat` (stop_words_ids), which writes the two of `###` down.
 */
export function stopSequences(tokenizer: Tokenizer, text: string): number[][] {
  const tails = ['', 'a', '.', 'a '].map((before) => tailIds(tokenizer, before, text));
  const endsWith = (ids: readonly number[], tail: readonly number[]): boolean =>
    tail.length < ids.length && ids.slice(-tail.length).join() === tail.join();
  const shortest = tails.filter(
    (ids) => ids.length && !tails.some((other) => other.length && endsWith(ids, other)),
  );
  return [...new Map(shortest.map((ids) => [ids.join(), ids])).values()];
}

/** The ids that `text` adds to those of `before`; none where it changes their last one. */
function tailIds(tokenizer: Tokenizer, before: string, text: string): number[] {
  const [start, whole] = [before ? tokenizer.encode(before) : [], tokenizer.encode(before + text)];
  return start.every((id, i) => whole[i] === id) ? whole.slice(start.length) : [];
}

/**
 * What opens a sequence, as `prompt.bos` says: one id or none.
 *
 * @throws UserError if the token is not in the vocabulary
 */
export function bosIds(tokenizer: Tokenizer, bos: string): number[] {
  if (bos === 'none') return [];
  const id = bos === 'tokenizer' ? tokenizer.bosId : tokenizer.tokenId(bos);
  if (id === undefined) throw new UserError(`prompt.bos: must name a token of this tokenizer, got "${bos}"`);
  return [id];
}

/** The id of a text that is one special token: one id when read as control text, several when read literally. */
function specialId(tokenizer: Tokenizer, text: string): number | undefined {
  const ids = tokenizer.encode(text);
  return ids.length === 1 && tokenizer.encodeLiteral(text).join() !== ids.join() ? ids[0] : undefined;
}
