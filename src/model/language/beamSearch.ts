/**
 * Beam search over one prefix, and the drawing of beams that the demo's slider offers.
 * Source: transformers 4.57, generation/utils.py, `GenerationMixin._beam_search`.
 */
import {
  asGenerated,
  isComplete,
  prefixBatch,
  type Generated,
  type GenerationInput,
  type StopRule,
} from './generate.js';
import type { LanguageModel, Reading } from './languageModel.js';
import type { Projection } from '../projection.js';
import { draw, filterTokens, penalise, type SamplingOptions } from './sampling.js';
import type { Values } from '../../tensorflow/session.js';

/** How beams are scored. With a `temperature` continuations are drawn, as the demo does; without, the likeliest are taken. */
export interface BeamOptions extends SamplingOptions, StopRule {
  /** 1 … 10 in the demo. */
  readonly beams: number;
  /** A text's score is its log-probability over its length to this power; > 0 favours long texts. Default 1. */
  readonly lengthPenalty?: number;
  /** Stop as soon as `beams` texts are complete; default false: until no open beam can become better. */
  readonly earlyStopping?: boolean;
  /** Uniform [0, 1) deviates for drawing. */
  readonly random?: () => number;
  /** Ends the search between two tokens, with the best text so far. */
  readonly signal?: AbortSignal;
}

/** The best text, and its score. */
export interface BeamResult extends Generated {
  /** Log-probability in nats over length^lengthPenalty; the length counts the end. */
  readonly score: number;
}

/** A text in the making; `row` is its place in the cache. */
interface Beam {
  readonly ids: readonly number[];
  readonly row: number;
  /** Sum of log-probabilities. */
  readonly score: number;
}

/**
 * Writes the best continuation of one input.
 *
 * @param shape [Q, C] of the features
 * @throws if there is less than one beam
 */
export async function beamSearch(
  model: LanguageModel,
  projection: Projection,
  input: GenerationInput,
  shape: readonly [number, number],
  options: BeamOptions,
): Promise<BeamResult> {
  return searchOn(model, await model.prefill(projection, prefixBatch([input], shape), 'logits'), options);
}

/**
 * Writes the best continuation of what the LLM has read.
 *
 * @param start logits, and a cache of one row; it is released
 * @throws if there is less than one beam
 */
export async function searchOn(
  model: LanguageModel,
  start: Reading,
  options: BeamOptions,
): Promise<BeamResult> {
  let open: readonly Beam[] = [{ ids: [], row: 0, score: 0 }];
  let complete: readonly Beam[] = [];
  let run = start;
  try {
    if (!(options.beams >= 1))
      throw new Error(`beamSearch: there must be at least 1 beam, got ${options.beams}`);
    for (;;) {
      const next = continuations(run.output, open, options);
      const ends = next.map(({ ids }) => isComplete(ids, options));
      complete = best(
        [...complete, ...next.filter((_, rank) => ends[rank] && rank < options.beams).map(scored(options))],
        options.beams,
      );
      open = best(
        next.filter((_, rank) => !ends[rank]),
        options.beams,
      );
      if (open.length === 0 || !canImprove(open, complete, options) || options.signal?.aborted) break;
      run = await model.decode(
        run.cache,
        Int32Array.from(open, ({ row }) => row),
        Int32Array.from(open, ({ ids }) => ids.at(-1) ?? 0),
        'logits',
      );
    }
  } finally {
    await model.release(run.cache);
  }
  const whole = complete.length ? complete : best(open.map(scored(options)), 1);
  const [{ ids, score } = { ids: [], score: -Infinity }] = whole;
  return { ...asGenerated(ids, options), score };
}

/**
 * Twice as many continuations of the open beams as there are beams, so that enough stay open when some end: the likeliest
 * first, or in the order drawn.
 */
function continuations({ data }: Values, open: readonly Beam[], options: BeamOptions): Beam[] {
  const { temperature, beams } = options;
  const V = data.length / open.length;
  const all = open.flatMap(({ ids, score }, row) => {
    const logits = Float32Array.from(data.subarray(row * V, (row + 1) * V));
    // The reference's processors see log-probabilities, not logits: a repetition penalty acts on them.
    const logProbabilities = penalise(logSoftmax(logits), ids, options.repetitionPenalty ?? 1);
    return choices(logProbabilities, options).map((choice) => ({
      ids: [...ids, choice.id],
      row,
      score: score + choice.score,
    }));
  });
  return temperature === undefined
    ? best(all, 2 * beams)
    : drawBeams(all, 2 * beams, options.random ?? Math.random);
}

/** The tokens that may continue a beam, with their scores. */
function choices(scores: Float32Array, options: BeamOptions): { id: number; score: number }[] {
  const { temperature, topK = 0, topP = 1, beams } = options;
  if (temperature !== undefined) {
    const cooled = scores.map((score) => score / temperature);
    return filterTokens(cooled, topK, topP, 2).map(({ id }) => ({ id, score: cooled[id] ?? 0 }));
  }
  const ids = Array.from(scores.keys()).sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b);
  return ids.slice(0, 2 * beams).map((id) => ({ id, score: scores[id] ?? 0 })); // more than this cannot be among the best
}

/** Draws without putting back, each with a probability proportional to exp(score). */
function drawBeams(from: readonly Beam[], count: number, random: () => number): Beam[] {
  const left = best(from, from.length);
  const drawn: Beam[] = [];
  while (drawn.length < count && left.length) {
    const highest = left[0]?.score ?? 0;
    const weights = left.map(({ score }) => Math.exp(score - highest));
    const sum = weights.reduce((a, b) => a + b, 0);
    const at = draw(
      weights.map((weight, id) => ({ id, probability: weight / sum })),
      random,
    );
    drawn.push(...left.splice(at, 1));
  }
  return drawn;
}

/** The `count` of the highest score; the earlier first among equals. */
function best(beams: readonly Beam[], count: number): Beam[] {
  return [...beams].sort((a, b) => b.score - a.score).slice(0, count);
}

function scored({ lengthPenalty = 1 }: BeamOptions): (beam: Beam) => Beam {
  return (beam) => ({ ...beam, score: beam.score / beam.ids.length ** lengthPenalty });
}

/** Whether an open beam, if it ended now, would be better than the worst of the complete texts. */
function canImprove(open: readonly Beam[], complete: readonly Beam[], options: BeamOptions): boolean {
  const worst = complete[options.beams - 1];
  if (!worst) return true;
  if (options.earlyStopping) return false;
  return open
    .slice(0, 1)
    .map(scored(options))
    .some(({ score }) => score > worst.score);
}

function logSoftmax(logits: Float32Array): Float32Array {
  const highest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - highest), 0);
  return logits.map((logit) => logit - highest - Math.log(sum));
}
