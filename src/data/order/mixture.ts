/** Which set of a training mixture each sample comes from, as a pure function of (seed, position). */
import { checkPosition, keyOf, permute } from './keyed.js';

/** What a position of a mixture draws: the source's number, and how many draws of that source came before. */
export interface MixtureDraw {
  readonly source: number;
  /** Position within the source, for `rowAt`; counts 0, 1, 2, … but for the order within one block of the mixture. */
  readonly index: number;
}

const MIXTURE_BLOCK = 4096; // draws; as many rows as order `local` mixes by default

/**
 * Which source sample `position` of a mixture draws from, and where in that source.
 *
 * Positions are dealt in blocks, in each block in a keyed order. Whole weights of small sum have blocks that hold exactly
 * these (115 : 14 has blocks of 129). Others have blocks of about 4096 draws, after each of which every source came as often
 * as its weight says, to half a draw: a small share comes in some blocks only.
 *
 * @param weights one a source, ≥ 0, not all 0; a source of weight 0 is never drawn
 */
export function drawAt(seed: number, position: number, weights: readonly number[]): MixtureDraw {
  checkPosition('drawAt', position);
  const shares = blockShares(weights);
  const block = blockAt(shares, position);
  const before = drawnBefore(shares, block);
  const counts = drawnBefore(shares, block + 1).map((count, source) => count - (before[source] ?? 0));
  const key = keyOf(seed, block, 'mixture');
  let place = permute(key, position - sumOf(before), sumOf(counts));
  for (const [source, count] of counts.entries()) {
    if (place < count) return { source, index: (before[source] ?? 0) + place };
    place -= count;
  }
  throw new Error(`drawAt: block ${block} must hold every place, got ${position}`);
}

/**
 * How many of the first draws of a mixture each source gives: what was realised, in the time of one block.
 *
 * @param draws positions 0 to below this
 * @param weights as `drawAt` takes them
 */
export function realisedMixture(seed: number, draws: number, weights: readonly number[]): number[] {
  checkPosition('realisedMixture', draws);
  const shares = blockShares(weights);
  const realised = drawnBefore(shares, blockAt(shares, draws));
  for (let position = sumOf(realised); position < draws; position++) {
    const { source } = drawAt(seed, position, weights);
    realised[source] = (realised[source] ?? 0) + 1;
  }
  return realised;
}

/** Draws of each source that a block should have; fractions where the weights do not divide it. */
function blockShares(weights: readonly number[]): number[] {
  const sum = sumOf(weights);
  if (!weights.every((weight) => weight >= 0) || !(sum > 0) || !Number.isFinite(sum)) {
    throw new RangeError(`drawAt: weights must be at least 0 and not all 0, got [${weights.join(', ')}]`);
  }
  if (weights.every(Number.isInteger)) {
    const divisor = weights.reduce(greatestCommonDivisor, 0);
    if (sum / divisor <= MIXTURE_BLOCK) return weights.map((weight) => weight / divisor);
  }
  return weights.map((weight) => (weight / sum) * MIXTURE_BLOCK);
}

/** Draws of each source in all blocks before this one. */
function drawnBefore(shares: readonly number[], block: number): number[] {
  return shares.map((share) => Math.round(share * block));
}

/** The block of a position: the first guess is right but for the fractions that rounding added or left out. */
function blockAt(shares: readonly number[], position: number): number {
  let block = Math.floor(position / sumOf(shares));
  while (sumOf(drawnBefore(shares, block)) > position) block -= 1;
  while (sumOf(drawnBefore(shares, block + 1)) <= position) block += 1;
  return block;
}

function sumOf(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0);
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
