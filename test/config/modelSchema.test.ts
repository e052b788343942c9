import { describe, expect, it } from 'vitest';
import { parseConfig } from '../../src/config/load.js';

/** A configuration with this image size in its second line. */
const config = (imageSize: number) => `model:
  imageSize: ${imageSize}
data: { train: [{ shards: shards/x }] }
train: { stage: pretrain, steps: 1, batchSize: 1, microBatchSize: 1, schedule: { peak: 0.001, warmupSteps: 0 } }
run: { folder: runs/a, seed: 1 }
`;

describe('model.imageSize', () => {
  it('is at most what the addon resizes to, told by its place in the file', () => {
    expect(parseConfig(config(4096), 'c.yaml').model.imageSize).toBe(4096);
    expect(() => parseConfig(config(4097), 'c.yaml')).toThrow(
      'c.yaml:2:14: model.imageSize: must be <= 4096, got 4097',
    );
  });
});
