import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FeatureIndex } from '../../../src/data/features/featureIndex.js';

const sha = (i: number) => createHash('sha256').update(String(i)).digest();
const check = (i: number) => sha(i).subarray(20, 28);

describe('FeatureIndex', () => {
  it('does what a Map does, whatever is set, replaced and removed in whatever order', () => {
    const steps = fc.array(
      fc.record({
        image: fc.integer({ min: 0, max: 40 }),
        file: fc.option(fc.integer({ min: 0, max: 2 ** 32 - 2 }), { freq: 4 }),
        position: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
      }),
      { maxLength: 200 },
    );
    fc.assert(
      fc.property(steps, (all) => {
        const index = new FeatureIndex();
        const expected = new Map<number, { file: number; position: number }>();
        for (const { image, file, position } of all) {
          if (file === null) {
            index.remove(sha(image));
            expected.delete(image);
          } else {
            index.set(sha(image), check(position), { file, position });
            expected.set(image, { file, position });
          }
        }
        expect(index.size).toBe(expected.size);
        for (let image = 0; image <= 40; image++) {
          const place = expected.get(image);
          expect(index.get(sha(image))).toEqual(place);
          if (place) expect(index.check(sha(image))).toEqual(check(place.position));
        }
      }),
      { numRuns: 100 },
    );
  });

  it('finds each of 200,000 images in at most 56 bytes an image', () => {
    const index = new FeatureIndex();
    const hash = Buffer.alloc(32);
    // Four hashes with the same first bytes each time, so that they crowd in the table
    const hashOf = (i: number): Buffer => {
      hash.writeUInt32LE(Math.imul(i >>> 2, 0x9e3779b1) >>> 0, 0);
      hash.writeUInt32LE(i, 4);
      return hash;
    };
    for (let i = 0; i < 200_000; i++)
      index.set(hashOf(i), hash.subarray(8), { file: i % 7, position: i * 3 });
    let wrong = 0;
    for (let i = 0; i < 200_000; i++) {
      const place = index.get(hashOf(i));
      if (place?.file !== i % 7 || place.position !== i * 3) wrong++;
    }
    expect(wrong).toBe(0);
    expect(index.get(hashOf(200_000))).toBeUndefined();
    expect(index.size).toBe(200_000);
    expect(index.sizeBytes / index.size).toBeLessThan(56);
  });
});
