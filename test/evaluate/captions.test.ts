import { describe, expect, it } from 'vitest';
import { failuresOf, sharesWord } from '../../src/evaluate/captions.js';

describe('failuresOf', () => {
  it('names each way in which a description fails', () => {
    expect(failuresOf('a tiger: the image shows a cat.', true)).toEqual([]);
    expect(failuresOf('icon', true)).toEqual(['empty']);
    expect(failuresOf('it is a red icon. it is a red icon. it is a red icon.', true)).toEqual(['repetitive']);
    expect(failuresOf('the image shows a', false)).toEqual(['unfinished']);
    expect(failuresOf('once upon a time there was', true)).toEqual(['off-prompt']);
  });
  it('lets a 3-gram come twice', () => {
    expect(failuresOf('a red icon and a red icon', true)).toEqual([]);
  });
});

describe('sharesWord', () => {
  const extra = { label: 'fire engine', tags: 'truck,red' };
  it('compares words of at least three letters with label and tags', () => {
    expect(sharesWord('A Truck.', extra)).toBe(true);
    expect(sharesWord('a bus', extra)).toBe(false);
    expect(sharesWord('engineer', extra)).toBe(false);
    expect(sharesWord('a truck', {})).toBeUndefined();
  });
});
