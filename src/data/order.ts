/**
 * The order of samples as pure functions of (seed, position): nothing to save, so resume is exact and instant, and any
 * worker can compute any position.
 */

/** What a position of a mixture draws: the source's number, and how many draws of that source came before. */
export interface MixtureDraw {
  readonly source: number;
  /** Position within the source, for `sampleAt`; counts 0, 1, 2, … but for the order within one block of the mixture. */
  readonly index: number;
}

const ROUNDS = 10; // Feistel rounds; few rows mean few bits a round, so more than the usual 4
const MIXTURE_BLOCK = 4096; // draws over which fractional weights are kept exactly, to 1/4096

/**
 * The row that sample `position` reads: a new keyed permutation of the rows each epoch.
 *
 * @param position samples drawn before this one, from 0; epoch = floor(position / rows)
 * @param rows rows of the data set, 1 to 2^52
 */
export function sampleAt(seed: number, position: number, rows: number): number {
  checkPosition('sampleAt', position);
  if (!Number.isInteger(rows) || rows < 1 || rows > 2 ** 52) {
    throw new RangeError(`sampleAt: rows must be a whole number from 1 to 2^52, got ${rows}`);
  }
  return permute(keyOf(seed, Math.floor(position / rows), 'order'), position % rows, rows);
}

/** The source that sample `position` of a mixture draws from; see `drawAt`. */
export function mixtureAt(seed: number, position: number, weights: readonly number[]): number {
  return drawAt(seed, position, weights).source;
}

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
 * A random number that depends on its arguments alone.
 *
 * @param purpose keeps the streams of different uses apart, such as `flip` and `view`
 * @returns uniform in [0, 1), 53 bits
 */
export function randomAt(seed: number, position: number, purpose: string): number {
  const key = keyOf(seed, position, purpose);
  const high = hash(key, 1) >>> 5; // 27 bits
  const low = hash(key, 2) >>> 6; // 26 bits
  return (high * 2 ** 26 + low) / 2 ** 53;
}

/** 64 bits of key. */
type Key = readonly [number, number];

/**
 * A keyed permutation of [0, size) at `index`: a Feistel network on the pairs (left < a, right < b) with a·b just above
 * `size`, applied again while the result falls outside (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002).
 */
function permute(key: Key, index: number, size: number): number {
  const a = Math.ceil(Math.sqrt(size));
  const b = Math.ceil(size / a);
  let value = index;
  do {
    let left = value % a;
    let right = Math.floor(value / a);
    for (let round = 0; round < ROUNDS; round += 2) {
      left = (left + hash(key, round * 2 ** 27 + right)) % a;
      right = (right + hash(key, (round + 1) * 2 ** 27 + left)) % b;
    }
    value = right * a + left;
  } while (value >= size);
  return value;
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

function keyOf(seed: number, position: number, purpose: string): Key {
  let key: Key = [0x9e3779b9, 0x7f4a7c15]; // golden ratio, only so that 0 is not special
  for (let i = 0; i < purpose.length; i++) key = absorb(key, purpose.charCodeAt(i));
  return absorb(absorb(key, seed), position);
}

function absorb(key: Key, value: number): Key {
  return [hash(key, value), hash([key[1] ^ 0x5bd1e995, key[0]], value)];
}

/** 32 well-mixed bits of a key and a number of up to 53 bits. */
function hash([k0, k1]: Key, value: number): number {
  const low = value >>> 0; // modulo 2^32
  const high = Math.floor(value / 2 ** 32) >>> 0;
  return mix(mix(mix(low ^ k0) + high + k1) ^ k0) >>> 0;
}

/** A bijection on 32 bits in which every input bit flips every output bit with probability near 1/2 (C. Wellons, lowbias32). */
function mix(bits: number): number {
  let x = bits | 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return x ^ (x >>> 16);
}

function checkPosition(where: string, position: number): void {
  if (Number.isSafeInteger(position) && position >= 0) return;
  throw new RangeError(`${where}: position must be a whole number from 0, got ${position}`);
}
