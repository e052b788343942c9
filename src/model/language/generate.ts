/** KV-cached generation: prefixes with images in, token ids out. */
import { batchesOfOneKey, joined } from './batches.js';
import type { LanguageModel, MicroBatch, PrefixCache, Reading, Wanted } from './languageModel.js';
import type { Projection } from '../projection.js';
import { nextToken, type SamplingOptions } from './sampling.js';
import { layOut, prefixLength, type Segment } from './sequence.js';
import type { Values } from '../../tensorflow/session.js';

/** Pictures with what is said before the answer. */
export interface GenerationInput {
  /** float32[I·Q, C]: the images in the order of their places in `prefix`; mostly one */
  readonly features: Float32Array;
  readonly prefix: readonly Segment[];
}

/** When a text is complete. */
export interface StopRule {
  readonly maxNewTokens: number;
  /** The token that ends a text; undefined = none does. */
  readonly endId: number | undefined;
  /** Tails of ids that end a text too, as both encodings of `###` do. */
  readonly stopSequences?: readonly (readonly number[])[];
}

/** When to stop and how to choose. */
export interface WritingOptions extends SamplingOptions, StopRule {
  /** Uniform [0, 1) deviates for sampling. */
  readonly random?: () => number;
  /** Ends all texts where they are, between two tokens. */
  readonly signal?: AbortSignal;
  /** Told the tokens of a text each time one is added that does not end it. */
  readonly onToken?: (ids: readonly number[], row: number) => void;
}

/** As `WritingOptions`, for many inputs. */
export interface GenerationOptions extends Omit<WritingOptions, 'onToken' | 'signal'> {
  /** Rows computed together. */
  readonly batchSize?: number;
  /** Told how many texts are complete. */
  readonly onProgress?: (done: number) => void;
}

/** A generated text in tokens. */
export interface Generated {
  /** Without the end. */
  readonly ids: readonly number[];
  /** The end: `endId` or a stop sequence; empty where the limit came first. */
  readonly end: readonly number[];
  /** Whether the end came before the limit. */
  readonly ended: boolean;
}

/**
 * Generates a continuation of each input. Inputs of equal prefix length are computed together.
 *
 * @param shape [Q, C] of the features
 * @returns one text per input, in order
 */
export async function generate(
  model: LanguageModel,
  projection: Projection,
  inputs: readonly GenerationInput[],
  shape: readonly [number, number],
  options: GenerationOptions,
): Promise<Generated[]> {
  const { batchSize = 16 } = options;
  const results: Generated[] = [];
  let done = 0;
  const lengthOf = ({ prefix }: GenerationInput): number => prefixLength(prefix, shape[0]);
  for (const members of batchesOfOneKey(inputs, lengthOf, batchSize)) {
    const batch = members.map(({ item }) => item);
    const texts = await generateBatch(model, projection, batch, shape, options);
    members.forEach(({ index }, row) => (results[index] = texts[row] ?? asGenerated([], options)));
    done += members.length;
    options.onProgress?.(done);
  }
  return results;
}

async function generateBatch(
  model: LanguageModel,
  projection: Projection,
  inputs: readonly GenerationInput[],
  shape: readonly [number, number],
  options: WritingOptions,
): Promise<Generated[]> {
  const start = await model.prefill(projection, prefixBatch(inputs, shape), wanted(options));
  const { texts, cache } = await writeOn(model, start, inputs.length, options);
  await model.release(cache);
  return texts;
}

/** What has to be known of the next token to choose it. */
export function wanted({ temperature, repetitionPenalty = 1 }: SamplingOptions): Wanted {
  return temperature === undefined && repetitionPenalty === 1 ? 'next' : 'logits';
}

/**
 * Writes on after what the LLM has read, a text a row.
 *
 * @param start what `wanted(options)` says, and a cache of `rows` rows, which is taken over; on an error it is released
 * @returns the texts, and the cache of those that were written to the last: all their tokens but the last are in it. The
 * caller releases it
 */
export async function writeOn(
  model: LanguageModel,
  start: Reading,
  rows: number,
  options: WritingOptions,
): Promise<{ texts: Generated[]; cache: PrefixCache }> {
  const texts = Array.from({ length: rows }, (): number[] => []);
  let going = texts; // the text of each row of the cache
  let run = start;
  try {
    for (;;) {
      const chosen = choose(run.output, going, options);
      going.forEach((text, row) => text.push(chosen[row] ?? 0));
      // Complete texts leave the batch: the others do not wait on their rows.
      const left = [...going.keys()].filter((row) => !isComplete(going[row] ?? [], options));
      going = left.map((row) => going[row] ?? []);
      for (const text of going) options.onToken?.([...text], texts.indexOf(text));
      if (going.length === 0 || options.signal?.aborted)
        return { texts: texts.map((ids) => asGenerated(ids, options)), cache: run.cache };
      run = await model.decode(
        run.cache,
        Int32Array.from(left),
        Int32Array.from(left, (row) => chosen[row] ?? 0),
        wanted(options),
      );
    }
  } catch (error) {
    await model.release(run.cache);
    throw error;
  }
}

/** Whether generated ids are a whole text. */
export function isComplete(ids: readonly number[], rule: StopRule): boolean {
  return ids.length >= rule.maxNewTokens || endOf(ids, rule).length > 0;
}

/** Generated ids, with what ended them apart. */
export function asGenerated(ids: readonly number[], rule: StopRule): Generated {
  const end = endOf(ids, rule);
  return { ids: ids.slice(0, ids.length - end.length), end, ended: end.length > 0 };
}

/**
 * The tail that ends a text; empty if nothing does.
 *
 * Source: MiniGPT-4, minigpt4/conversation/conversation.py, `StoppingCriteriaSub`; here for each row, not the first alone.
 */
export function endOf(
  ids: readonly number[],
  { endId, stopSequences = [] }: Pick<StopRule, 'endId' | 'stopSequences'>,
): readonly number[] {
  const ends = endId === undefined ? stopSequences : [[endId], ...stopSequences];
  return (
    ends.find((end) => end.length > 0 && end.every((id, i) => ids[ids.length - end.length + i] === id)) ?? []
  );
}

function choose(output: Values, texts: readonly number[][], options: GenerationOptions): Int32Array {
  if (output.data instanceof Int32Array) return output.data.slice();
  const logits = output.data;
  const V = logits.length / texts.length;
  const random = options.random ?? Math.random;
  return Int32Array.from(texts, (ids, row) =>
    nextToken(logits.subarray(row * V, (row + 1) * V), ids, options, random),
  );
}

/**
 * A micro-batch whose only target row is the last position of each prefix, which may hold any number of images.
 *
 * @param stem as for `layOut`
 */
export function prefixBatch(
  inputs: readonly GenerationInput[],
  [Q, C]: readonly [number, number],
  stem?: readonly number[],
): MicroBatch {
  checkImages(inputs, Q * C);
  const examples = inputs.map(({ prefix }) => ({ prefix, target: [0] }));
  const sequence = layOut(examples, Q, stem);
  const data = joined(inputs.map(({ features }) => features));
  return { features: { shape: [sequence.images, Q, C], data }, sequence };
}

function checkImages(inputs: readonly GenerationInput[], size: number): void {
  for (const { prefix, features } of inputs) {
    const places = prefix.filter(({ kind }) => kind === 'image').length;
    if (places * size !== features.length)
      throw new Error(
        `generate: a prefix must have a place for each image, got ${places} for ${features.length / size}`,
      );
  }
}
