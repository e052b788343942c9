import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { Distribution, SeenTexts } from '../../src/data/counts.js';

describe('a distribution', () => {
  it('has the percentiles of the sorted values, exact below 1000 and within 0.5 % above', () => {
    const values = fc.array(fc.nat(5_000_000), { minLength: 1, maxLength: 200 });
    fc.assert(
      fc.property(values, fc.double({ min: 0, max: 1, noNaN: true }), (given, part) => {
        const distribution = new Distribution();
        given.forEach((value) => distribution.add(value));
        const exact = given.sort((a, b) => a - b)[Math.floor(part * (given.length - 1))] ?? NaN;
        const [found = NaN] = distribution.percentiles([part]);
        expect(Math.abs(found - exact)).toBeLessThanOrEqual(exact < 1000 ? 0 : exact * 0.005);
      }),
    );
  });

  it('of nothing has none', () => {
    expect(new Distribution().percentiles([0, 1])).toEqual([]);
  });
});

describe('texts that were seen', () => {
  it('are exactly those that came before, in a table that is as full as it gets', () => {
    const seen = new SeenTexts(20_000);
    const texts = Array.from({ length: 20_000 }, (_, i) => `text ${i % 19_000}`);
    expect(texts.filter((text) => seen.add(text))).toEqual(texts.slice(19_000));
  });
});
