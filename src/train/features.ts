/** The encoder's features as training and evaluation share them: the cache beside the runs, and the mean image. */
import { createHash } from 'node:crypto';
import { dirname, join } from 'node:path';
import pLimit from 'p-limit';
import type { Config } from '../config/schema.js';
import type { Crop } from '../data/crop.js';
import { FeatureStore } from '../data/featureStore.js';
import { preprocess, type ImageTransform } from '../data/images.js';
import { sampleAt } from '../data/order.js';
import type { ImageTextPair } from '../data/pairs.js';
import { ShardSet } from '../data/shards.js';
import type { MiniGpt4 } from '../model/miniGpt4.js';
import type { Encoder } from '../model/vision/encoder.js';

/** Training images that the mean image is taken over. */
const BLANK_SAMPLES = 256;

/** Gives the features of an image, or of a part of it: of all of it from the cache if they are there, else from the encoder. */
export type FeatureReader = (pair: ImageTextPair, crop?: Crop) => Promise<Float32Array>;

/** The cache stands beside the run's folder, so that the runs of a project share it. @returns undefined if it is off */
export async function openStore({ data, run }: Config, model: MiniGpt4): Promise<FeatureStore | undefined> {
  if (!data.featureCache) return undefined;
  return FeatureStore.open(join(dirname(run.folder), 'features'), {
    key: featureKey(model.encoder, model.hashes.encoder + (model.hashes.qformer ?? '')),
    shape: model.encoder.featureShape,
  });
}

/**
 * Features through the encoder, kept in the store under the hash of the image's bytes. Those of a crop are not kept: the
 * same part hardly comes twice.
 *
 * @param store undefined = the encoder runs each time
 * @param options.workers images decoded at the same time
 * @param options.flushEvery newly encoded images after which the store is written to disk
 */
export function featureReader(
  encoder: Encoder,
  store: FeatureStore | undefined,
  { workers, flushEvery = Infinity }: { readonly workers: number; readonly flushEvery?: number },
): FeatureReader {
  const decoding = pLimit(workers);
  let unsaved = 0;
  const { imageSize: size, imageMean: mean, imageStd: std } = encoder.spec.vit;
  const transform: ImageTransform = { size, mean, std };
  return async ({ image }, crop) => {
    const decode = (): Promise<Float32Array> => decoding(() => preprocess(image, transform, crop));
    if (!store || crop) return encoder.encode(await decode());
    const key = createHash('sha256').update(image).digest('hex');
    const known = store.get(key);
    if (known) return known;
    const features = await encoder.encode(await decode());
    store.put(key, features);
    unsaved += 1;
    if (unsaved >= flushEvery) {
      unsaved = 0;
      await store.flush();
    }
    return features;
  };
}

/** Hash of all that decides a feature besides the image's bytes; names the cache's files. */
export function featureKey(encoder: Encoder, encoderSha256: string): string {
  const { vit, ...rest } = encoder.spec;
  const { tensorflow } = encoder.session;
  return createHash('sha256')
    .update(JSON.stringify({ encoderSha256, ...rest, vit, ...tensorflow.facts }))
    .digest('hex')
    .slice(0, 24);
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
