import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { layOut, prefixLength, type Example, type Segment } from '../../../src/model/language/sequence.js';

const image: Segment = { kind: 'image' };
const text = (...ids: number[]): Segment => ({ kind: 'text', ids });

describe('layOut', () => {
  it('lays out two samples of different lengths', () => {
    const batch = layOut(
      [
        { prefix: [text(1), image, text(5, 6)], target: [7, 8, 9] },
        { prefix: [text(2, 3), image], target: [4] },
      ],
      2,
    );
    // The pool: soft tokens 0, 1 of the first and 2, 3 of the second; text 4… = 1 5 6 7 8 | 2 3
    expect([...batch.tokens]).toEqual([1, 5, 6, 7, 8, 2, 3]);
    expect(batch.length).toBe(7);
    expect([...batch.layout]).toEqual([4, 0, 1, 5, 6, 7, 8, /* second */ 9, 10, 2, 3, 4, 4, 4]);
    expect([...batch.targetRows]).toEqual([4, 5, 6, /* second */ 7 + 3]);
    expect([...batch.targetIds]).toEqual([7, 8, 9, 4]);
    expect(batch.targetCounts).toEqual([3, 1]);
  });

  it.each<[string, Segment[][], number[]]>([
    [
      'all begin with',
      [
        [text(1, 2, 3), image],
        [text(1, 2, 4), image],
      ],
      [1, 2],
    ],
    ['of one alone, up to its image', [[text(1, 2), image, text(3)]], [1, 2]],
    ['less one token where text is all there is', [[text(1, 2)], [text(1, 2), image]], [1]],
    [
      'where one begins with its image: none',
      [
        [image, text(1)],
        [text(1), image],
      ],
      [],
    ],
  ])('the stem is the text that %s', (_, prefixes, stem) => {
    const examples = prefixes.map((prefix) => ({ prefix, target: [9] }));
    expect(layOut(examples, 2).stem).toEqual(stem);
    expect(layOut(examples, 2, []).length).toBe(layOut(examples, 2).length + stem.length);
  });

  it('each image of a sample, and each sample, has soft tokens of its own', () => {
    const batch = layOut(
      [
        { prefix: [text(1), image, text(2), image], target: [9] },
        { prefix: [text(3, 4)], target: [9] }, // no image
        { prefix: [image], target: [9] },
      ],
      2,
      [],
    );
    expect(batch.images).toBe(3);
    // The pool: soft tokens 0, 1 | 2, 3 of the first sample's images and 4, 5 of the third's; text 6… = 1 2 | 3 4
    expect([...batch.layout]).toEqual([
      6, 0, 1, 7, 2, 3, /* second */ 8, 9, 6, 6, 6, 6, /* third */ 4, 5, 6, 6, 6, 6,
    ]);
  });

  it('a bare image has no text but still a token to point to', () => {
    const batch = layOut([{ prefix: [image], target: [3] }], 2);
    expect([...batch.tokens]).toEqual([0]);
    expect([...batch.layout]).toEqual([0, 1]);
    expect([...batch.targetRows]).toEqual([1]);
  });

  it.each<[string, Example[], string]>([
    [
      'an empty prefix',
      [{ prefix: [], target: [1] }],
      'sequence: a prefix must have at least one position (BOS, prompt or image)',
    ],
    [
      'a prefix of empty text',
      [{ prefix: [text()], target: [1] }],
      'sequence: a prefix must have at least one position (BOS, prompt or image)',
    ],
    [
      'an example without target',
      [{ prefix: [text(1)], target: [] }],
      'sequence: an example must have at least one target token',
    ],
    ['no example', [], 'sequence: a micro-batch must have at least one example'],
  ])('refuses %s', (_, examples, message) => {
    expect(() => layOut(examples, 2)).toThrow(message);
  });

  const ids = fc.array(fc.integer({ min: 0, max: 99 }), { minLength: 1, maxLength: 5 });
  const segment = fc.oneof(
    fc.constant(image),
    ids.map((some) => text(...some)),
  );
  const example = fc.record({ prefix: fc.array(segment, { minLength: 1, maxLength: 4 }), target: ids });

  it('every sample reads its own prefix, images and target, and every target follows its row', () => {
    fc.assert(
      fc.property(
        fc.array(example, { minLength: 1, maxLength: 5 }),
        fc.integer({ min: 1, max: 4 }),
        (examples, Q) => {
          const { stem, images, tokens, layout, targetRows, targetIds, length: S } = layOut(examples, Q);
          const softTokens = (number: number): string[] =>
            Array.from({ length: Q }, (_, q) => `image ${number}.${q}`);
          let number = 0; // images of all samples are counted through, in the order of their places
          const pool = [
            ...Array.from({ length: images }, (_, i) => softTokens(i)).flat(),
            ...Array.from(tokens, (id) => `token ${id}`),
          ];
          let row = 0;
          examples.forEach(({ prefix, target }, b) => {
            const read = Array.from(layout.subarray(b * S, (b + 1) * S), (at) => pool[at]);
            const before = prefix.flatMap((part) =>
              part.kind === 'image' ? softTokens(number++) : part.ids.map((id) => `token ${id}`),
            );
            expect(prefixLength(prefix, Q)).toBe(before.length);
            expect(before.slice(0, stem.length)).toEqual(stem.map((id) => `token ${id}`));
            const whole = [...before.slice(stem.length), ...target.map((id) => `token ${id}`)];
            expect(whole.length).toBeGreaterThan(target.length); // something is left to predict the first target
            expect(read.slice(0, whole.length - 1)).toEqual(whole.slice(0, -1));
            for (const id of target) {
              const position = (targetRows[row] ?? NaN) - b * S;
              expect(targetIds[row]).toBe(id);
              expect(whole[position + 1]).toBe(`token ${id}`);
              row++;
            }
          });
          expect(number).toBe(images);
          expect(row).toBe(targetIds.length);
          const longest = examples.map(({ prefix, target }) => prefixLength(prefix, Q) + target.length - 1);
          expect(S).toBe(Math.max(...longest) - stem.length);
        },
      ),
    );
  });
});
