/** KV-cached generation: prefixes with images in, token ids out. */
import type { LanguageModel, MicroBatch, PrefixCache } from './languageModel.js';
import type { Projection } from './projection.js';
import { nextToken, type SamplingOptions } from './sampling.js';
import { layOut, prefixLength, type Segment } from './sequence.js';
import type { Values } from '../tensorflow/session.js';

/** One picture with what is said before the answer. */
export interface GenerationInput {
  /** float32[Q, C] */
  readonly features: Float32Array;
  readonly prefix: readonly Segment[];
}

/** When to stop and how to choose. */
export interface GenerationOptions extends SamplingOptions {
  readonly maxNewTokens: number;
  /** The token that ends a text; undefined = only the limit ends it. */
  readonly endId: number | undefined;
  /** Uniform [0, 1) deviates for sampling. */
  readonly random?: () => number;
  /** Rows computed together. */
  readonly batchSize?: number;
  /** Told how many texts are complete. */
  readonly onProgress?: (done: number) => void;
}

/** A generated text in tokens. */
export interface Generated {
  /** Without the end token. */
  readonly ids: readonly number[];
  /** Whether the end token came before the limit. */
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
    members.forEach(({ index }, row) => (results[index] = texts[row] ?? { ids: [], ended: false }));
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
  const { maxNewTokens, endId, temperature, repetitionPenalty = 1 } = options;
  const want = temperature === undefined && repetitionPenalty === 1 ? 'next' : 'logits';
  const texts = inputs.map(() => ({ ids: [] as number[], ended: false }));
  let going = texts; // the text of each row of the cache
  let cache: PrefixCache | undefined;
  try {
    let run = await model.prefill(projection, prefixBatch(inputs, shape), want);
    for (;;) {
      cache = run.cache;
      const chosen = choose(run.output, going, options);
      going.forEach((text, row) => {
        if (chosen[row] === endId) text.ended = true;
        else text.ids.push(chosen[row] ?? 0);
      });
      // Complete texts leave the batch: the others do not wait on their rows.
      const rows = [...going.keys()].filter((row) => isGoing(going[row], maxNewTokens));
      if (rows.length === 0) return texts;
      going = rows.flatMap((row) => going[row] ?? []);
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

function isGoing(text: Generated | undefined, maxNewTokens: number): boolean {
  return text !== undefined && !text.ended && text.ids.length < maxNewTokens;
}

function choose(output: Values, texts: readonly { ids: number[] }[], options: GenerationOptions): Int32Array {
  if (output.data instanceof Int32Array) return output.data.slice();
  const logits = output.data;
  const V = logits.length / texts.length;
  const random = options.random ?? Math.random;
  return Int32Array.from(texts, ({ ids }, row) =>
    nextToken(logits.subarray(row * V, (row + 1) * V), ids, options, random),
  );
}

/** A micro-batch whose only target row is the last position of each prefix. */
export function prefixBatch(
  inputs: readonly GenerationInput[],
  [Q, C]: readonly [number, number],
): MicroBatch {
  const data = new Float32Array(inputs.length * Q * C);
  inputs.forEach(({ features }, b) => data.set(features, b * Q * C));
  const sequence = layOut(
    inputs.map(({ prefix }) => ({ prefix, target: [0] })),
    Q,
  );
  return { features: { shape: [inputs.length, Q, C], data }, sequence };
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
