/** Choosing the next token from logits: greedy, or the reference's order of filters and a draw. */

/** How text is generated. Without `temperature` the likeliest token is taken. */
export interface SamplingOptions {
  /** Divides the logits; undefined = greedy. */
  readonly temperature?: number;
  /** Only the k likeliest tokens; 0 = all. */
  readonly topK?: number;
  /** The smallest set of tokens with at least this mass; 1 = all. */
  readonly topP?: number;
  /** > 1 makes tokens that were already generated less likely; 1 = off. */
  readonly repetitionPenalty?: number;
}

/** A token that the filters leave, and its probability among those left. */
export interface Candidate {
  readonly id: number;
  readonly probability: number;
}

/** The demo's settings: it draws, and its top-k is the 50 that transformers adds unasked. */
export const DEMO_SAMPLING = { temperature: 1, topK: 50, topP: 0.9, repetitionPenalty: 1 } as const;

/**
 * Picks the next token.
 *
 * @param logits float32[V]; not changed
 * @param generated the tokens generated so far, for the repetition penalty
 * @param random uniform [0, 1)
 */
export function nextToken(
  logits: Float32Array,
  generated: readonly number[],
  options: SamplingOptions,
  random: () => number,
): number {
  const { temperature, repetitionPenalty = 1 } = options;
  if (temperature === undefined) return argMax(penalise(logits, generated, repetitionPenalty));
  return draw(candidates(logits, generated, options), random);
}

/**
 * The tokens that may come next, likeliest first.
 *
 * @param logits float32[V]; not changed
 * @param generated the tokens generated so far, for the repetition penalty
 * @throws if the temperature is not above 0
 * Source: transformers, generation/logits_process.py, in the order that `generate` applies them: repetition penalty,
 * temperature, top-k, top-p.
 */
export function candidates(
  logits: Float32Array,
  generated: readonly number[],
  { temperature = 1, topK = 0, topP = 1, repetitionPenalty = 1 }: SamplingOptions,
): Candidate[] {
  if (!(temperature > 0)) throw new Error(`sampling: temperature must be above 0, got ${temperature}`);
  const scores = penalise(logits, generated, repetitionPenalty).map((score) => score / temperature);
  return filterTokens(scores, topK, topP);
}

/** Draws one candidate. */
export function draw(from: readonly Candidate[], random: () => number): number {
  let left = random();
  for (const { id, probability } of from) {
    left -= probability;
    if (left < 0) return id;
  }
  const last = from.at(-1); // rounding may leave a little
  if (!last) throw new Error('sampling: there must be a candidate to draw, got none');
  return last.id;
}

/**
 * The tokens that top-k and then top-p leave, likeliest first, with probabilities that sum to 1. Ties at the k-th place
 * all stay, as in transformers; the likeliest `minKeep` always stay.
 *
 * @param minKeep 1, or 2 where beams are drawn
 */
export function filterTokens(scores: Float32Array, topK: number, topP: number, minKeep = 1): Candidate[] {
  const ids = Array.from(scores.keys()).sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b);
  const k = Math.max(topK, minKeep);
  const limit = topK > 0 && k < ids.length ? (scores[ids[k - 1] ?? 0] ?? 0) : -Infinity;
  const kept = normalise(
    ids.filter((id) => (scores[id] ?? 0) >= limit),
    scores,
  );
  // transformers drops, from the unlikeliest on, every token whose cumulative mass is ≤ 1 - topP
  let mass = 1;
  const top = kept.filter(({ probability }, rank) => {
    const upToHere = mass;
    mass -= probability;
    return rank < minKeep || upToHere > 1 - topP;
  });
  return normalise(
    top.map(({ id }) => id),
    scores,
  );
}

function normalise(ids: readonly number[], scores: Float32Array): Candidate[] {
  const highest = Math.max(...ids.slice(0, 1).map((id) => scores[id] ?? 0));
  const weights = ids.map((id) => Math.exp((scores[id] ?? 0) - highest));
  const sum = weights.reduce((a, b) => a + b, 0);
  return ids.map((id, i) => ({ id, probability: (weights[i] ?? 0) / sum }));
}

/** Makes tokens that were generated already less likely. @param scores float32[V]; not changed */
export function penalise(logits: Float32Array, generated: readonly number[], penalty: number): Float32Array {
  const scores = logits.slice();
  if (penalty === 1) return scores;
  for (const id of new Set(generated)) {
    const score = scores[id] ?? 0;
    scores[id] = score < 0 ? score * penalty : score / penalty;
  }
  return scores;
}

function argMax(scores: Float32Array): number {
  let best = 0;
  for (let id = 1; id < scores.length; id++) if ((scores[id] ?? 0) > (scores[best] ?? 0)) best = id;
  return best;
}
