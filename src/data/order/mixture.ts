/** Which set of a training mixture each sample comes from, as a pure function of (seed, position). */
import { checkPosition, keyOf, permute } from './keyed.js';

/** What a position of a mixture draws: the source's number, and how many draws of that source came before. */
export interface MixtureDraw {
  readonly source: number;
  /** Position within the source, for `rowAt`; counts 0, 1, 2, … but for the order within one block of the mixture. */
  readonly index: number;
}

const MIXTURE_BLOCK = 4096; // draws over which fractional weights are kept exactly, to 1/4096

/**
 * Which source sample `position` of a mixture draws from, and where in that source.
 *
 * Positions are dealt in blocks: in each block every source comes exactly as often as its weight says, in a keyed order.
 * Whole weights of small sum keep their ratio exactly (115 : 14 has blocks of 129); others are rounded to 1/4096.
 *
 * @param weights one a source, ≥ 0, not all 0; a source of weight 0 is never drawn
 */
export function drawAt(seed: number, position: number, weights: readonly number[]): MixtureDraw {
  checkPosition('drawAt', position);
  const counts = blockCounts(weights);
  const size = counts.reduce((sum, count) => sum + count, 0);
  const block = Math.floor(position / size);
  let place = permute(keyOf(seed, block, 'mixture'), position % size, size);
  for (const [source, count] of counts.entries()) {
    if (place < count) return { source, index: block * count + place };
    place -= count;
  }
  throw new Error(`drawAt: the block must hold every place, got ${position} of ${size}`);
}

/**
 * How many of the first draws of a mixture each source gives: what was realised, in the time of one block.
 *
 * @param draws positions 0 to below this
 * @param weights as `drawAt` takes them
 */
export function realisedMixture(seed: number, draws: number, weights: readonly number[]): number[] {
  checkPosition('realisedMixture', draws);
  const counts = blockCounts(weights);
  const size = counts.reduce((sum, count) => sum + count, 0);
  const blocks = Math.floor(draws / size);
  const realised = counts.map((count) => count * blocks);
  for (let position = blocks * size; position < draws; position++) {
    const { source } = drawAt(seed, position, weights);
    realised[source] = (realised[source] ?? 0) + 1;
  }
  return realised;
}

/** Times each source comes in one block of the mixture. */
function blockCounts(weights: readonly number[]): number[] {
  const sum = weights.reduce((total, weight) => total + weight, 0);
  if (!weights.every((weight) => weight >= 0) || !(sum > 0) || !Number.isFinite(sum)) {
    throw new RangeError(`drawAt: weights must be at least 0 and not all 0, got [${weights.join(', ')}]`);
  }
  if (weights.every(Number.isInteger)) {
    const divisor = weights.reduce(greatestCommonDivisor, 0);
    if (sum / divisor <= MIXTURE_BLOCK) return weights.map((weight) => weight / divisor);
  }
  return largestRemainder(weights.map((weight) => (weight / sum) * MIXTURE_BLOCK));
}

/** Whole numbers near `shares` with their sum; a share above 0 stays above 0. */
function largestRemainder(shares: readonly number[]): number[] {
  const counts = shares.map((share) => (share > 0 ? Math.max(1, Math.floor(share)) : 0));
  const missing = MIXTURE_BLOCK - counts.reduce((sum, count) => sum + count, 0);
  const byRemainder = [...shares.keys()].sort(
    (i, j) => remainder(shares, counts, j) - remainder(shares, counts, i),
  );
  for (const source of byRemainder.slice(0, Math.max(missing, 0))) counts[source] = (counts[source] ?? 0) + 1;
  return counts; // many tiny weights may make the block a little longer, which is harmless
}

function remainder(shares: readonly number[], counts: readonly number[], i: number): number {
  return (shares[i] ?? 0) - (counts[i] ?? 0);
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
