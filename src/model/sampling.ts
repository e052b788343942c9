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

/**
 * Picks the next token.
 *
 * @param logits float32[V]; not changed
 * @param generated the tokens generated so far, for the repetition penalty
 * @param random uniform [0, 1)
 * Source: transformers, generation/logits_process.py, in the order that `generate` applies them: repetition penalty,
 * temperature, top-k, top-p.
 */
export function nextToken(
  logits: Float32Array,
  generated: readonly number[],
  { temperature, topK = 0, topP = 1, repetitionPenalty = 1 }: SamplingOptions,
  random: () => number,
): number {
  const scores = penalise(logits, generated, repetitionPenalty);
  if (temperature === undefined) return argMax(scores);
  const survivors = filterTokens(
    scores.map((score) => score / temperature),
    topK,
    topP,
  );
  let left = random();
  for (const { id, probability } of survivors) {
    left -= probability;
    if (left < 0) return id;
  }
  return survivors.at(-1)?.id ?? argMax(scores);
}

/**
 * The tokens that top-k and then top-p leave, likeliest first, with probabilities that sum to 1. Ties at the k-th place
 * all stay, as in transformers; the likeliest token always stays.
 */
export function filterTokens(
  scores: Float32Array,
  topK: number,
  topP: number,
): { id: number; probability: number }[] {
  const ids = Array.from(scores.keys()).sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b);
  const limit = topK > 0 && topK < ids.length ? (scores[ids[topK - 1] ?? 0] ?? 0) : -Infinity;
  const kept = normalise(
    ids.filter((id) => (scores[id] ?? 0) >= limit),
    scores,
  );
  // transformers drops, from the unlikeliest on, every token whose cumulative mass is ≤ 1 - topP
  let mass = 1;
  const top = kept.filter(({ probability }, rank) => {
    const upToHere = mass;
    mass -= probability;
    return rank === 0 || upToHere > 1 - topP;
  });
  return normalise(
    top.map(({ id }) => id),
    scores,
  );
}

function normalise(ids: readonly number[], scores: Float32Array): { id: number; probability: number }[] {
  const highest = Math.max(...ids.slice(0, 1).map((id) => scores[id] ?? 0));
  const weights = ids.map((id) => Math.exp((scores[id] ?? 0) - highest));
  const sum = weights.reduce((a, b) => a + b, 0);
  return ids.map((id, i) => ({ id, probability: (weights[i] ?? 0) / sum }));
}

function penalise(logits: Float32Array, generated: readonly number[], penalty: number): Float32Array {
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
