import { describe, expect, it } from 'vitest';
import { parseConfig } from '../../src/config/load.js';
import { mixtureReport } from '../../src/train/mixtureReport.js';

function configOf(weights: readonly number[], draw: 'sample' | 'batch') {
  return parseConfig(
    JSON.stringify({
      data: { train: weights.map((weight, i) => ({ shards: `set${i}`, weight })), draw },
      train: { stage: 'pretrain', steps: 500, batchSize: 8, microBatchSize: 4, schedule: { peak: 1e-3 } },
      run: { folder: 'run' },
    }),
    'test.yaml',
  );
}

describe('mixtureReport', () => {
  it('counts the samples of each set and what was asked for', () => {
    // 129 draws of 115 : 14 are a block with exactly these counts
    expect(mixtureReport(configOf([115, 14], 'batch'), [460, 1000], 129)).toEqual([
      'set0: 920 samples, 89.15 % of all where 89.15 % were asked for, read 2.00 times over',
      'set1: 112 samples, 10.85 % of all where 10.85 % were asked for, read 0.11 times over',
    ]);
  });

  it('says so where a part of a block shifts the shares', () => {
    // The set of 1 in 1001 comes once in the first 1001 draws, and not within the first 80
    expect(mixtureReport(configOf([1, 1000], 'sample'), [10, 4000], 10)).toEqual([
      'set0: 0 samples, 0.00 % of all where 0.10 % were asked for, read 0.00 times over',
      'set1: 80 samples, 100.00 % of all where 99.90 % were asked for, read 0.02 times over',
    ]);
  });

  it('shows no secret of a signed address', () => {
    const config = configOf([1], 'sample');
    const place = 'https://me:hidden@shards.example/set?sig=s3cret';
    const signed = {
      ...config,
      data: { ...config.data, train: config.data.train.map((set) => ({ ...set, shards: place })) },
    };
    expect(mixtureReport(signed, [10], 1)).toEqual([
      'https://shards.example/set?…: 8 samples, read 0.80 times over',
    ]);
  });

  it('of one set says how often it was read', () => {
    expect(mixtureReport(configOf([1], 'sample'), [641], 360)).toEqual([
      'set0: 2,880 samples, read 4.49 times over',
    ]);
  });
});
