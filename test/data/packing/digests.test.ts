import { createHash } from 'node:crypto';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DigestSet, DIGEST_BYTES, digestOf } from '../../../src/data/packing/digests.js';

const digest = (text: string) => createHash('sha256').update(text).digest().subarray(0, DIGEST_BYTES);
const pair = (image: string, caption: string) => ({ id: '', image: Buffer.from(image), caption, extra: {} });

describe('DigestSet', () => {
  it('says of each digest whether it is new, as a Set of texts does', () => {
    const cases = fc.property(fc.array(fc.nat(3000), { maxLength: 6000 }), (numbers) => {
      const [set, reference] = [new DigestSet(), new Set<number>()];
      const isNew = numbers.map((number) => !reference.has(number) && Boolean(reference.add(number)));
      expect(numbers.map((number) => set.add(digest(String(number))))).toEqual(isNew);
      expect(set.size).toBe(reference.size);
    });
    fc.assert(cases, { numRuns: 20 });
  });

  it('keeps digests apart that share a slot or a half, and knows the one that is all zeros', () => {
    const set = new DigestSet();
    const made = [[0, 0], [0, 5], [5, 0], [5, 5], [1024, 5]].map(([low = 0, high = 0]) => {
      const bytes = Buffer.alloc(DIGEST_BYTES);
      bytes.writeUInt32LE(low, 0);
      bytes.writeUInt32LE(high, 8);
      return bytes;
    }); // prettier-ignore
    expect(made.map((bytes) => set.add(bytes))).toEqual([true, true, true, true, true]);
    expect(made.map((bytes) => set.add(bytes))).toEqual([false, false, false, false, false]);
  });

  it('takes at most 43 bytes a digest', () => {
    const set = new DigestSet();
    let most = 0;
    for (let i = 0; i < 100_000; i++) {
      set.add(digest(String(i)));
      if (set.size > 800) most = Math.max(most, set.bytes / set.size);
    }
    expect(most).toBeLessThanOrEqual(43);
    expect(set.bytes).toBe(16 * 2 ** 18); // the least power of two of which 100,000 are at most three quarters
  });
});

describe('digestOf', () => {
  it('is of the image, or of image and caption with nothing moved between them', () => {
    expect(digestOf(pair('a', 'x'), 'image')).toEqual(digestOf(pair('a', 'y'), 'image'));
    expect(digestOf(pair('a', 'x'), 'image')).toEqual(digest('a'));
    const made = [pair('a', 'x'), pair('a', 'y'), pair('b', 'x'), pair('ax', ''), pair('', 'ax')];
    expect(new Set(made.map((one) => digestOf(one, 'pair').join())).size).toBe(made.length);
  });
});
