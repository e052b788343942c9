import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  addDims,
  formatShape,
  isName,
  multiplyDims,
  sameShape,
  sizeOf,
  subtractDims,
  terms,
  type Dim,
} from '../../src/tensorflow/dims.js';

const SIZES: Readonly<Record<string, number>> = { B: 7, P: 11, S: 13, decode_T: 17 };

/** Sums and products of numbers and names, up to three deep. */
const { dim: dims } = fc.letrec<{ dim: Dim }>((tie) => ({
  dim: fc.oneof(
    { maxDepth: 3 },
    fc.integer({ min: 0, max: 9 }),
    fc.constantFrom(...Object.keys(SIZES)),
    fc.tuple(tie('dim'), tie('dim')).map(([a, b]) => addDims(a, b)),
    fc.tuple(tie('dim'), tie('dim')).map(([a, b]) => multiplyDims(a, b)),
  ),
}));

/** Size of a dim, computed from its text by JavaScript's own grammar of + and *. */
function valueOf(dim: Dim): number {
  return String(dim)
    .split('+')
    .map((term) =>
      term.split('*').reduce((product, factor) => product * (SIZES[factor] ?? Number(factor)), 1),
    )
    .reduce((sum, term) => sum + term, 0);
}

describe('dims', () => {
  it('adding, subtracting and multiplying dims does so with their sizes', () => {
    fc.assert(
      fc.property(dims, dims, (a, b) => {
        expect(valueOf(addDims(a, b))).toBe(valueOf(a) + valueOf(b));
        expect(valueOf(subtractDims(a, b))).toBe(valueOf(a) - valueOf(b));
        expect(valueOf(multiplyDims(a, b))).toBe(valueOf(a) * valueOf(b));
      }),
    );
  });

  it('equal polynomials are written alike, whatever the order of the work', () => {
    fc.assert(
      fc.property(dims, dims, dims, (a, b, c) => {
        expect(addDims(a, b)).toBe(addDims(b, a));
        expect(multiplyDims(a, b)).toBe(multiplyDims(b, a));
        expect(addDims(addDims(a, b), c)).toBe(addDims(a, addDims(b, c)));
        expect(multiplyDims(multiplyDims(a, b), c)).toBe(multiplyDims(a, multiplyDims(b, c)));
        expect(multiplyDims(a, addDims(b, c))).toBe(addDims(multiplyDims(a, b), multiplyDims(a, c)));
        expect(subtractDims(addDims(a, b), b)).toBe(addDims(a, 0));
      }),
    );
  });

  it('are read back term by term', () => {
    expect(terms('5*B+B*S')).toEqual(
      new Map([
        ['B', 5],
        ['B*S', 1],
      ]),
    );
    expect(terms(0)).toEqual(new Map());
    fc.assert(
      fc.property(dims, (dim) => {
        const again = [...terms(dim)].map(([name, count]) => multiplyDims(name || 1, count));
        expect(again.reduce(addDims, 0)).toBe(dim);
      }),
    );
  });

  it.each<[Dim, Dim]>([
    [addDims('P', 'P'), '2*P'],
    [addDims(5, 'B'), '5+B'],
    [subtractDims('P', 'P'), 0],
    [subtractDims(3, 'B'), '3+-1*B'],
    [multiplyDims('S', 'B'), 'B*S'],
    [multiplyDims('B', 'B'), 'B*B'],
    [multiplyDims(0, 'B'), 0],
    [sizeOf([]), 1],
    [sizeOf(['B', 5, 'S', 2]), '10*B*S'],
  ])('%s is written %s', (got, expected) => expect(got).toBe(expected));

  it('shapes are the same name by name', () => {
    expect(sameShape(['B', 3], ['B', 3])).toBe(true);
    expect(sameShape(['B', 3], ['S', 3])).toBe(false);
    expect(sameShape(['B'], ['B', 1])).toBe(false);
    expect(formatShape(['B', addDims('P', 5), 3])).toBe('[B, 5+P, 3]');
  });

  it('only a bare name is a name', () => {
    expect(['B', 'decode_B'].map(isName)).toEqual([true, true]);
    expect([3, '2*B', 'B+S', 'B*S'].map(isName)).toEqual([false, false, false, false]);
  });
});
