/** A set of content hashes that holds millions in little memory: what de-duplication has seen. */

import { createHash } from 'node:crypto';
import { readBytes, withHandle } from '../bytes/fileBytes.js';
import type { ImageTextPair } from '../pairs.js';

/** What must be equal for a pair to be a duplicate: the image's bytes, or these and the caption. */
export type DedupBy = 'image' | 'pair';

/** Bytes of a digest: half of a SHA-256. Two of 5 million different pairs share one with a chance of 4e-26. */
export const DIGEST_BYTES = 16;

const READ_BYTES = 2 ** 16 * DIGEST_BYTES;
const FIRST_SLOTS = 2 ** 10;
const MAX_FILLED = 0.75; // then the table doubles

/** The digest of a pair's content, `DIGEST_BYTES` bytes. */
export function digestOf({ image, caption }: ImageTextPair, by: DedupBy): Uint8Array {
  const hash = createHash('sha256').update(image);
  // The image's length comes between: what belongs to which of the two must not be open
  if (by === 'pair') hash.update(`\0${image.length}\0`).update(caption);
  return hash.digest().subarray(0, DIGEST_BYTES);
}

/**
 * A hash table with open addressing, 16 bytes a slot: 21 to 43 bytes a digest, half as much again while it grows. 5
 * million digests take 134 MB, 201 MB while the table doubles to that size.
 */
export class DigestSet {
  #slots = new BigUint64Array(2 * FIRST_SLOTS); // two words a slot; both 0: free
  #size = 0;

  /** The digests in the first `length` bytes of a file. @throws UserError if it cannot be read, or is shorter */
  static async read(path: string, length: number): Promise<DigestSet> {
    const seen = new DigestSet();
    if (length === 0) return seen; // the file is made with its first bytes
    await withHandle(path, async (handle) => {
      for (let offset = 0; offset < length; offset += READ_BYTES) {
        const bytes = await readBytes(handle, path, offset, Math.min(READ_BYTES, length - offset));
        for (let at = 0; at < bytes.length; at += DIGEST_BYTES)
          seen.add(bytes.subarray(at, at + DIGEST_BYTES));
      }
    });
    return seen;
  }

  /** Digests in it. */
  get size(): number {
    return this.#size;
  }

  /** Memory of the table. */
  get bytes(): number {
    return this.#slots.byteLength;
  }

  /** Adds a digest; false if it was there. */
  add(digest: Uint8Array): boolean {
    const view = new DataView(digest.buffer, digest.byteOffset, DIGEST_BYTES);
    const [low, high] = [view.getBigUint64(0, true), view.getBigUint64(8, true)];
    if (!insert(this.#slots, low, high === 0n ? 1n : high)) return false; // no digest looks like a free slot
    this.#size += 1;
    if (this.#size > (MAX_FILLED * this.#slots.length) / 2) this.#grow();
    return true;
  }

  #grow(): void {
    const larger = new BigUint64Array(2 * this.#slots.length);
    for (let at = 0; at < this.#slots.length; at += 2) {
      const [low = 0n, high = 0n] = [this.#slots[at], this.#slots[at + 1]];
      if (high !== 0n) insert(larger, low, high);
    }
    this.#slots = larger;
  }
}

/** Puts the two words into the first free slot from where they belong; false if they are there. */
function insert(slots: BigUint64Array, low: bigint, high: bigint): boolean {
  const count = slots.length / 2; // a power of two
  // A digest's bits are as good as random: any of them tell the slot
  for (let slot = Number(low & 0xffffffffn) & (count - 1); ; slot = (slot + 1) & (count - 1)) {
    const there = slots[2 * slot + 1];
    if (there === 0n) {
      slots[2 * slot] = low;
      slots[2 * slot + 1] = high;
      return true;
    }
    if (there === high && slots[2 * slot] === low) return false;
  }
}
