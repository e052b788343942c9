import { describe, expect, it } from 'vitest';

import { editDistance, nearestName } from '../../src/config/nearest.js';

describe('edit distance', () => {
  it.each([
    ['kitten', 'sitting', 3],
    ['', 'abc', 3],
    ['abc', '', 3],
    ['same', 'same', 0],
    ['flaw', 'lawn', 2],
  ])('of %s and %s is %i', (a, b, distance) => {
    expect(editDistance(a, b)).toBe(distance);
  });
});

describe('the nearest name', () => {
  it('ignores case, dashes and underscores', () => {
    expect(nearestName('max_grad_norm', ['maxGradNorm', 'beta1'])).toBe('maxGradNorm');
  });

  it('is none when nothing is near', () => {
    expect(nearestName('colour', ['steps', 'seed'])).toBeUndefined();
    expect(nearestName('x', ['y', 'cls'])).toBeUndefined();
  });
});
