/**
 * Randomness without state: numbers and permutations that are functions of a key and a position. So there is nothing to
 * save, resume is exact and instant, and any worker can compute any position.
 */

const ROUNDS = 10; // Feistel rounds; few rows mean few bits a round, so more than the usual 4

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
export type Key = readonly [number, number];

/**
 * A keyed permutation of [0, size) at `index`: a Feistel network on the pairs (left < a, right < b) with a·b just above
 * `size`, applied again while the result falls outside (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002).
 */
export function permute(key: Key, index: number, size: number): number {
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

/** The key of a use: of a seed, a position (or epoch, block, …) and a purpose that keeps the streams of uses apart. */
export function keyOf(seed: number, position: number, purpose: string): Key {
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

/** @throws RangeError unless a position is a whole number from 0 */
export function checkPosition(where: string, position: number): void {
  if (Number.isSafeInteger(position) && position >= 0) return;
  throw new RangeError(`${where}: position must be a whole number from 0, got ${position}`);
}
