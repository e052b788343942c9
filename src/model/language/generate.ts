/** KV-cached generation: prefixes with images in, token ids out. */
import type { LanguageModel, MicroBatch, PrefixCache } from './languageModel.js';
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
export interface GenerationOptions extends SamplingOptions, StopRule {
  /** Uniform [0, 1) deviates for sampling. */
  readonly random?: () => number;
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
  for (const members of batchesOfEqualLength(inputs, shape[0], batchSize)) {
    const texts = await generateBatch(
      model,
      projection,
      members.map(({ input }) => input),
      shape,
      options,
    );
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
  options: GenerationOptions,
): Promise<Generated[]> {
  const { temperature, repetitionPenalty = 1 } = options;
  const want = temperature === undefined && repetitionPenalty === 1 ? 'next' : 'logits';
  const texts: number[][] = inputs.map(() => []);
  let going = texts; // the text of each row of the cache
  let cache: PrefixCache | undefined;
  try {
    let run = await model.prefill(projection, prefixBatch(inputs, shape), want);
    for (;;) {
      cache = run.cache;
      const chosen = choose(run.output, going, options);
      going.forEach((text, row) => text.push(chosen[row] ?? 0));
      // Complete texts leave the batch: the others do not wait on their rows.
      const rows = [...going.keys()].filter((row) => !isComplete(going[row] ?? [], options));
      if (rows.length === 0) return texts.map((ids) => asGenerated(ids, options));
      going = rows.map((row) => going[row] ?? []);
      run = await model.decode(
        cache,
        Int32Array.from(rows),
        Int32Array.from(rows, (row) => chosen[row] ?? 0),
        want,
      );
    }
  } finally {
    if (cache) await model.release(cache);
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
function endOf(ids: readonly number[], { endId, stopSequences = [] }: StopRule): readonly number[] {
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

/** A micro-batch whose only target row is the last position of each prefix, which may hold any number of images. */
export function prefixBatch(
  inputs: readonly GenerationInput[],
  [Q, C]: readonly [number, number],
): MicroBatch {
  const counts = inputs.map(({ features }) => features.length / (Q * C));
  checkImages(inputs, counts);
  const images = counts.reduce((sum, count) => sum + count, 0);
  const I = Math.max(images, 1); // never empty, also where no input has an image
  const data = new Float32Array(I * Q * C);
  let from = 0;
  for (const { features } of inputs) {
    data.set(features, from);
    from += features.length;
  }
  const sequence = layOut(
    inputs.map(({ prefix }) => ({ prefix, target: [0] })),
    Q,
  );
  const layout = numberImages(sequence.layout, counts, [I, Q]);
  return { features: { shape: [I, Q, C], data }, sequence: { ...sequence, layout } };
}

/** A layout of one image a sample, made to point to the images [I, Q] of samples with any number of them. */
function numberImages(
  layout: Int32Array,
  counts: readonly number[],
  [I, Q]: readonly [number, number],
): Int32Array {
  const B = counts.length;
  const S = layout.length / B;
  let first = 0; // soft token of the sample's first image
  return Int32Array.from(
    counts.flatMap((count, b) => {
      let next = first;
      first += count * Q;
      return Array.from(layout.subarray(b * S, (b + 1) * S), (row) =>
        row < B * Q ? next++ : row + (I - B) * Q,
      );
    }),
  );
}

function checkImages(inputs: readonly GenerationInput[], counts: readonly number[]): void {
  inputs.forEach(({ prefix }, i) => {
    const places = prefix.filter(({ kind }) => kind === 'image').length;
    if (places !== counts[i])
      throw new Error(`generate: a prefix must have a place for each image, got ${places} for ${counts[i]}`);
  });
}

function batchesOfEqualLength(
  inputs: readonly GenerationInput[],
  Q: number,
  batchSize: number,
): { input: GenerationInput; index: number }[][] {
  const byLength = new Map<number, { input: GenerationInput; index: number }[]>();
  inputs.forEach((input, index) => {
    const length = prefixLength(input.prefix, Q);
    byLength.set(length, [...(byLength.get(length) ?? []), { input, index }]);
  });
  return [...byLength.values()].flatMap((group) =>
    Array.from({ length: Math.ceil(group.length / batchSize) }, (_, i) =>
      group.slice(i * batchSize, (i + 1) * batchSize),
    ),
  );
}
