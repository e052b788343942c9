/** Captions written beside the truth, and the ways in which they fail. */
import { generate, type GenerationOptions } from '../model/language/generate.js';
import type { MiniGpt4 } from '../model/miniGpt4.js';
import type { Projection } from '../model/projection.js';
import type { HeldOutItem } from './heldOut.js';

/** A generated caption and what is known about it. */
export interface WrittenCaption {
  readonly id: string;
  readonly truth: string;
  readonly written: string;
  readonly failures: readonly Failure[];
  /** Whether it shares a word (≥ 3 letters) with the pair's label or tags; absent without such columns. */
  readonly sharesWord?: boolean;
}

/** `empty`: < 3 words · `repetitive`: a word 3-gram at least 3 times · `unfinished`: no end token · `off-prompt`: never speaks of the picture. */
export type Failure = 'empty' | 'repetitive' | 'unfinished' | 'off-prompt';

/** Words that show a description answers the question; the prototype's rule. */
const PICTURE_WORDS = /\b(icon|image|picture|color|colour|colors|colours|shows?|depicts?|features?)\b/i;

/** A text as the model wrote it. */
export interface WrittenText {
  /** Without special tokens and outer blanks. */
  readonly text: string;
  /** Whether the end token came before the limit. */
  readonly ended: boolean;
}

/** Writes a text for each item, greedily, after the prefix that the item is trained with. */
export async function writeTexts(
  { language, encoder, tokenizer }: MiniGpt4,
  projection: Projection,
  items: readonly HeldOutItem[],
  options: Pick<GenerationOptions, 'maxNewTokens' | 'batchSize' | 'endId' | 'stopSequences' | 'onProgress'>,
): Promise<WrittenText[]> {
  const inputs = items.map(({ features, example: { prefix } }) => ({ features, prefix }));
  const texts = await generate(language, projection, inputs, encoder.featureShape, options);
  return texts.map(({ ids, ended }) => ({
    text: tokenizer.decode(ids, { skipSpecial: true }).trim(),
    ended,
  }));
}

/**
 * The failures of a detailed description.
 *
 * @param ended whether the end token came before the limit
 * Source: the rules of the project's PyTorch prototype, after MiniGPT-4's manual count of failures (paper, section 4.4).
 */
export function failuresOf(text: string, ended: boolean): Failure[] {
  const words = text.toLowerCase().match(/[\p{L}\p{N}'-]+/gu) ?? [];
  const failures: Failure[] = [];
  if (words.length < 3) failures.push('empty');
  if (isRepetitive(words)) failures.push('repetitive');
  if (!ended) failures.push('unfinished');
  if (!PICTURE_WORDS.test(text)) failures.push('off-prompt');
  return failures;
}

/** Joins an item with what was written for it. Failures are counted for descriptions only. */
export function writtenCaption(
  { pair, caption }: HeldOutItem,
  { text, ended }: WrittenText,
  describes: boolean,
): WrittenCaption {
  const shares = sharesWord(text, pair.extra);
  return {
    id: pair.id,
    truth: caption,
    written: text,
    failures: describes ? failuresOf(text, ended) : [],
    ...(shares === undefined ? {} : { sharesWord: shares }),
  };
}

/** Whether a text shares a word of at least three letters with the label or the tags; undefined without such columns. */
export function sharesWord(text: string, extra: Readonly<Record<string, string>>): boolean | undefined {
  const { label, tags = '' } = extra;
  if (label === undefined) return undefined;
  const wanted = new Set(contentWords(`${label} ${tags}`));
  return contentWords(text).some((word) => wanted.has(word));
}

function contentWords(text: string): string[] {
  return text.toLowerCase().match(/\p{L}{3,}/gu) ?? [];
}

function isRepetitive(words: readonly string[]): boolean {
  const counts = new Map<string, number>();
  for (let i = 0; i + 3 <= words.length; i++) {
    const gram = words.slice(i, i + 3).join(' ');
    counts.set(gram, (counts.get(gram) ?? 0) + 1);
  }
  return [...counts.values()].some((count) => count >= 3);
}
