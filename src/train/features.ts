/** The encoder's features as training and evaluation share them: the cache beside the runs, and the mean image. */
import { dirname, join } from 'node:path';
import type { Config } from '../config/schema.js';
import { FeatureStore } from '../data/featureStore.js';
import { sampleAt } from '../data/order.js';
import { ShardSet } from '../data/shards.js';
import type { MiniGpt4 } from '../model/miniGpt4.js';
import { featureKey, type FeatureReader } from './samples.js';

/** Training images that the mean image is taken over. */
const BLANK_SAMPLES = 256;

/** The cache stands beside the run's folder, so that the runs of a project share it. @returns undefined if it is off */
export async function openStore({ data, run }: Config, model: MiniGpt4): Promise<FeatureStore | undefined> {
  if (!data.featureCache) return undefined;
  return FeatureStore.open(join(dirname(run.folder), 'features'), {
    key: featureKey(model.encoder, model.hashes.encoder + (model.hashes.qformer ?? '')),
    shape: model.encoder.featureShape,
  });
}

/**
 * The mean features of training images: an image that says nothing.
 *
 * @returns float32[Q, C]
 */
export async function blankImage({ data, run }: Config, features: FeatureReader): Promise<Float32Array> {
  const [first] = data.train;
  if (!first) throw new Error('features: a configuration has at least one training set');
  const shards = await ShardSet.open(first.shards);
  const count = Math.min(shards.rows, BLANK_SAMPLES);
  let sum: Float64Array | undefined;
  for (let position = 0; position < count; position++) {
    const one = await features(await shards.read(sampleAt(run.seed, position, shards.rows)));
    sum ??= new Float64Array(one.length);
    for (const [i, value] of one.entries()) sum[i] = (sum[i] ?? 0) + value;
  }
  shards.close();
  return Float32Array.from(sum ?? [], (total) => total / count);
}
