/** Retrieval: every held-out caption scored under every held-out image by the frozen LLM that reads the projection. */
import pLimit from 'p-limit';
import type { LanguageModel, MicroBatch, PrefixCache } from '../model/language/languageModel.js';
import { prefixBatch } from '../model/language/generate.js';
import type { Projection } from '../model/projection.js';
import { layOut, type Segment } from '../model/language/sequence.js';

/**
 * How captions are compared. `none`: mean log-likelihood per token. `pmi`: log-likelihood minus that under the mean
 * training image (pointwise mutual information). `centred`: log-likelihood minus the caption's mean over the held-out
 * images, which uses the other images and so is transductive.
 */
export type Correction = 'none' | 'pmi' | 'centred';

/** Retrieval under one correction. */
export interface RetrievalResult {
  readonly correction: Correction;
  /** Share of images whose own caption is among the k best. */
  readonly recallAt: Readonly<Record<1 | 5 | 10, number>>;
  /** Share of images whose best caption is of the image's group; absent without groups. */
  readonly groupAccuracy?: number;
  /** Rank of each image's own caption, from 1. */
  readonly ranks: readonly number[];
  /** The best caption of each image. */
  readonly best: readonly number[];
}

/** What guessing gives. */
export interface RetrievalChance {
  readonly recallAt: Readonly<Record<1 | 5 | 10, number>>;
  /** A random caption of another or the same image. */
  readonly groupAccuracy?: number;
}

/** Images that are read together before the texts are read after each: one alone would take as long as eight. */
const IMAGES_AT_ONCE = 8;

/**
 * Log-likelihood of each text under each image.
 *
 * @param prefix what stands before the text; the same for all
 * @param images float32[Q, C] each
 * @param texts target tokens of each caption
 * @returns `[image][text]`, nats (≤ 0), summed over the text's tokens
 */
export async function likelihoods(
  model: LanguageModel,
  projection: Projection,
  prefix: readonly Segment[],
  images: readonly Float32Array[],
  texts: readonly (readonly number[])[],
  shape: readonly [number, number],
  onProgress?: (done: number) => void,
): Promise<Float32Array[]> {
  // The first token of every text follows the prefix itself; the others are one batch after its cache.
  const longer = texts.filter(({ length }) => length > 1);
  const batch = longer.length ? continuations(longer, shape) : undefined;
  const limit = pLimit(model.concurrency);
  const table: Float32Array[] = [];
  let done = 0;
  for (let from = 0; from < images.length; from += IMAGES_AT_ONCE) {
    const inputs = images.slice(from, from + IMAGES_AT_ONCE).map((features) => ({ features, prefix }));
    const { output, cache } = await model.prefill(projection, prefixBatch(inputs, shape), 'logits');
    const logits = output.data as Float32Array; // `logits` are float32
    const V = logits.length / inputs.length;
    try {
      const rows = limit.map(inputs.keys(), async (row) => {
        const losses = batch && (await lossesAfter(model, projection, batch, { cache, row }));
        onProgress?.(++done);
        const first = logSoftmax(logits.subarray(row * V, (row + 1) * V));
        return summed(texts, first, losses ?? new Float32Array());
      });
      table.push(...(await rows));
    } finally {
      limit.clearQueue(); // after an error: nothing more begins on the cache
      await model.release(cache);
    }
  }
  return table;
}

async function lossesAfter(
  model: LanguageModel,
  projection: Projection,
  batch: MicroBatch,
  { cache, row }: { readonly cache: PrefixCache; readonly row: number },
): Promise<Float32Array> {
  const past = await model.crop(cache, cache.length, row);
  try {
    return await model.losses(projection, batch, past);
  } finally {
    await model.release(past);
  }
}

/** Of each text the log-likelihood of its first token less the losses of the others, which lie text after text. */
function summed(
  texts: readonly (readonly number[])[],
  first: Float32Array,
  losses: Float32Array,
): Float32Array {
  let at = 0;
  return Float32Array.from(
    texts,
    ([id = 0, ...others]) => (first[id] ?? 0) - sum(losses.subarray(at, (at += others.length))),
  );
}

/** Texts after a cached prefix: each token but the first is a target. */
function continuations(texts: readonly (readonly number[])[], [Q, C]: readonly [number, number]): MicroBatch {
  const examples = texts.map(([first = 0, ...target]) => ({
    prefix: [{ kind: 'text' as const, ids: [first] }],
    target,
  }));
  return {
    features: { shape: [0, Q, C], data: new Float32Array() },
    sequence: layOut(examples, 0, []), // no stem: the cache holds all that comes before
  };
}

function sum(values: ArrayLike<number>): number {
  return Array.from(values).reduce((a, b) => a + b, 0);
}

/**
 * Ranks the captions of each image.
 *
 * @param table `[image][text]` log-likelihoods; text `i` belongs to image `i`
 * @param blank log-likelihoods of the texts under the mean training image, for `pmi`
 * @param lengths tokens of each text, for `none`
 * @param groups group of each item, where known
 */
export function rank(
  table: readonly Float32Array[],
  correction: Correction,
  blank: Float32Array,
  lengths: readonly number[],
  groups?: readonly string[],
): RetrievalResult {
  const count = table.length;
  const scoreOf = scoring(table, correction, blank, lengths);
  const ranks: number[] = [];
  const best: number[] = [];
  table.forEach((scores, image) => {
    const corrected = scores.map(scoreOf);
    const own = corrected[image] ?? -Infinity;
    // A tie counts against the image: a model that ignores it must not look good.
    ranks.push(1 + corrected.filter((score, text) => text !== image && score >= own).length);
    best.push(corrected.indexOf(Math.max(...corrected)));
  });
  const within = (k: number): number => ranks.filter((value) => value <= k).length / count;
  const result = { correction, recallAt: { 1: within(1), 5: within(5), 10: within(10) }, ranks, best };
  if (!groups) return result;
  return {
    ...result,
    groupAccuracy: best.filter((text, image) => groups[text] === groups[image]).length / count,
  };
}

/** What a random order of the captions gives. */
export function chance(count: number, groups?: readonly string[]): RetrievalChance {
  const at = (k: number): number => Math.min(k / count, 1);
  const recallAt = { 1: at(1), 5: at(5), 10: at(10) };
  if (!groups) return { recallAt };
  const sizes = groups.map((group) => groups.filter((other) => other === group).length);
  return { recallAt, groupAccuracy: sizes.reduce((sum, size) => sum + size / count, 0) / count };
}

function scoring(
  table: readonly Float32Array[],
  correction: Correction,
  blank: Float32Array,
  lengths: readonly number[],
): (score: number, text: number) => number {
  if (correction === 'none') return (score, text) => score / (lengths[text] ?? 1);
  if (correction === 'pmi') return (score, text) => score - (blank[text] ?? 0);
  const means = blank.map(
    (_, text) => table.reduce((sum, scores) => sum + (scores[text] ?? 0), 0) / table.length,
  );
  return (score, text) => score - (means[text] ?? 0);
}

function logSoftmax(logits: Float32Array): Float32Array {
  const highest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const total = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - highest), 0)) + highest;
  return logits.map((logit) => logit - total);
}
