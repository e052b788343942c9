/** What the image is worth: the loss of the true captions with exchanged images minus the loss with their own. */
import type { HeldOutItem } from './heldOut.js';

/** Rotations by which images are exchanged, as shares of the set; the mean over them steadies the figure. */
const ROTATIONS = [0.25, 0.5, 0.75];
const BOOTSTRAP_DRAWS = 2000;

/** A mean with its 95 % bootstrap interval over the items. */
export interface Interval {
  readonly mean: number;
  readonly low: number;
  readonly high: number;
}

/** Losses are means per target token over the whole set, nats. */
export interface ImageGap {
  readonly loss: number;
  readonly lossExchanged: number;
  /** lossExchanged − loss, per token over the set. */
  readonly gap: number;
  /** The same gap on the words that only the image can tell (label, colours, tags), mean of the items' means; absent without such columns. */
  readonly contentGap?: Interval;
}

/** Item whose image item `i` is shown under each rotation: never its own. */
export function rotations(count: number): ((item: number) => number)[] {
  const shifts = new Set(ROTATIONS.map((share) => Math.max(1, Math.round(share * count)) % count || 1));
  return [...shifts].map((shift) => (item: number) => (item + shift) % count);
}

/**
 * Joins the token losses of the true pairing and of the rotations.
 *
 * @param own nats per token of each item with its own image
 * @param exchanged the same for each rotation
 * @param content which target tokens of each item are content; undefined = not marked
 */
export function imageGap(
  own: readonly Float32Array[],
  exchanged: readonly (readonly Float32Array[])[],
  content?: readonly (readonly boolean[])[],
): ImageGap {
  const loss = meanPerToken(own);
  const lossExchanged = mean(exchanged.map(meanPerToken));
  const summary = { loss, lossExchanged, gap: lossExchanged - loss };
  if (!content) return summary;
  const perItem = own.flatMap((losses, item) => {
    const marks = content[item] ?? [];
    const tokens = [...losses.keys()].filter((token) => marks[token]);
    if (!tokens.length) return [];
    const gaps = exchanged.flatMap((rotation) =>
      tokens.map((token) => (rotation[item]?.[token] ?? 0) - (losses[token] ?? 0)),
    );
    return [mean(gaps)];
  });
  return perItem.length ? { ...summary, contentGap: bootstrap(perItem) } : summary;
}

/**
 * Marks the target tokens that spell the item's `content` words (a comma-separated column; else `label`, `colors` and `tags`).
 *
 * @param pieces text of each target token
 * @returns undefined if the item has no such column
 */
export function contentTokens(
  { pair, caption }: Pick<HeldOutItem, 'pair' | 'caption'>,
  pieces: readonly string[],
): boolean[] | undefined {
  const { content, label, colors = '', tags = '' } = pair.extra;
  const listed = content ?? (label === undefined ? undefined : [label, colors, tags].join(','));
  if (listed === undefined) return undefined;
  const words = listed
    .split(',')
    .map((word) => word.trim().toLowerCase())
    .filter((word) => word.length > 1);
  const text = pieces.join('');
  const start = text.indexOf(caption.slice(0, 8));
  const spans = words.flatMap((word) => occurrences(text.toLowerCase(), word, Math.max(start, 0)));
  let at = 0;
  return pieces.map((piece) => {
    const from = at + (piece.length - piece.trimStart().length);
    at += piece.length;
    return from < at && spans.some(([low, high]) => from >= low && from < high);
  });
}

/** Mean with a 95 % percentile bootstrap interval; the draws are seeded, so that a figure can be repeated. */
export function bootstrap(values: readonly number[]): Interval {
  let state = 12345;
  const random = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
  const means = Array.from({ length: BOOTSTRAP_DRAWS }, () =>
    mean(values.map(() => values[Math.floor(random() * values.length)] ?? 0)),
  ).sort((a, b) => a - b);
  return {
    mean: mean(values),
    low: means[Math.floor(0.025 * BOOTSTRAP_DRAWS)] ?? 0,
    high: means[Math.floor(0.975 * BOOTSTRAP_DRAWS)] ?? 0,
  };
}

/** Arithmetic mean; NaN of nothing. */
export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function meanPerToken(losses: readonly Float32Array[]): number {
  const tokens = losses.reduce((sum, { length }) => sum + length, 0);
  return losses.reduce((sum, item) => sum + item.reduce((a, b) => a + b, 0), 0) / tokens;
}

function occurrences(text: string, word: string, from: number): [number, number][] {
  const found: [number, number][] = [];
  for (let at = text.indexOf(word, from); at >= 0; at = text.indexOf(word, at + 1)) {
    const whole = !/\w/.test(text[at - 1] ?? ' ') && !/\w/.test(text[at + word.length] ?? ' ');
    if (whole) found.push([at, at + word.length]);
  }
  return found;
}
