import { describe, expect, it } from 'vitest';
import type { Config } from '../../src/config/schema.js';
import { rowAt } from '../../src/data/order/order.js';
import { cachePolicy, repeatedShare, type CachedSource } from '../../src/train/cachePolicy.js';

interface Given {
  readonly draws: number;
  readonly order?: Config['data']['order'];
  readonly featureCache?: boolean | 'always';
  readonly transform?: Config['data']['transform'];
}

/** The part of a configuration that the policy reads. */
function configOf({ draws, order = 'shuffle', featureCache = true, transform = 'resize' }: Given): Config {
  const config = { data: { order, featureCache, transform }, train: { steps: draws / 4, batchSize: 4 } };
  return config as unknown as Config; // a test's configuration: the rest is not read
}

const source = (rows: number, weight = 1, shards = `${rows}`): CachedSource => ({ rows, weight, shards });

describe('repeatedShare', () => {
  it('is what the order of samples really repeats', () => {
    const cases = [
      { order: 'shuffle', draws: 800, rows: 1000 },
      { order: 'shuffle', draws: 2500, rows: 1000 },
      { order: 'local', draws: 1500, rows: 1000 },
      { order: 'replacement', draws: 1000, rows: 1000 },
      { order: 'replacement', draws: 400, rows: 4000 },
    ] as const;
    for (const { order, draws, rows } of cases) {
      const seen = new Set<number>();
      for (let i = 0; i < draws; i++) seen.add(rowAt({ kind: order, window: 256 }, 5, i, rows));
      const share = repeatedShare(configOf({ draws, order }), [source(rows)]);
      expect(share).toBeCloseTo(1 - seen.size / draws, order === 'replacement' ? 1 : 12);
      if (order === 'replacement')
        expect(Math.abs(share * draws - (draws - seen.size))).toBeLessThan(0.02 * draws);
    }
  });

  it('goes by the weights of a mixture', () => {
    // 1200 draws: 900 of 1000 rows once each, 300 of 100 rows, so 200 of these again
    expect(repeatedShare(configOf({ draws: 1200 }), [source(1000, 3), source(100, 1)])).toBeCloseTo(
      200 / 1200,
      12,
    );
  });

  it('takes sets of the same shards for the same images', () => {
    // Each draws half of 100 rows on its own: 1 - 0.5² of them are seen
    const twice = [source(100, 1, 'a'), source(100, 1, 'a')];
    expect(repeatedShare(configOf({ draws: 100 }), twice)).toBeCloseTo(0.25, 12);
    expect(repeatedShare(configOf({ draws: 100 }), [source(100, 1, 'a'), source(100, 1, 'b')])).toBe(0);
    // The second draws all of the first 50 rows: half of what the first draws too is there
    const part = [source(100, 1, 'a'), source(50, 1, 'a')];
    expect(repeatedShare(configOf({ draws: 100 }), part)).toBeCloseTo(0.25, 12);
  });
});

describe('cachePolicy', () => {
  it('keeps training images where they come again, and not where hardly any does', () => {
    expect(cachePolicy(configOf({ draws: 2000 }), [source(1000)], 0)).toEqual({
      keepsTraining: true,
      line: 'feature cache: on, 50 % of the 2,000 samples are images seen before',
    });
    expect(cachePolicy(configOf({ draws: 1000 }), [source(1000)], 12)).toEqual({
      keepsTraining: false,
      line: 'feature cache: off for training images from the first step on, as only 0.0 % of the 1,000 samples are images seen before (data.featureCache=always keeps them for other runs); on for those of evaluations; 12 images are there already',
    });
    const keeps = (given: Given, rows: number) =>
      cachePolicy(configOf(given), [source(rows)], 0).keepsTraining;
    expect(keeps({ draws: 1040 }, 1000)).toBe(false); // 3.8 %
    expect(keeps({ draws: 1060 }, 1000)).toBe(true); // 5.7 %
    expect(keeps({ draws: 100, order: 'replacement' }, 5000)).toBe(false); // 1 %
    expect(keeps({ draws: 1000, order: 'replacement' }, 5000)).toBe(true); // 9 %
  });

  it('follows the configuration: always, never, and not for random crops', () => {
    expect(
      cachePolicy(configOf({ draws: 100, featureCache: 'always' }), [source(1000)], 0).keepsTraining,
    ).toBe(true);
    expect(cachePolicy(configOf({ draws: 4000, featureCache: false }), [source(1000)], 0)).toEqual({
      keepsTraining: false,
      line: undefined,
    });
    for (const featureCache of [true, 'always'] as const) {
      const policy = cachePolicy(
        configOf({ draws: 4000, featureCache, transform: 'random-crop' }),
        [source(10)],
        0,
      );
      expect(policy.keepsTraining).toBe(false);
      expect(policy.line).toMatch(/off for training images, as each is cropped at random/);
    }
  });
});
