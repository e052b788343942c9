/** The encoder's features as training and evaluation share them: the cache beside the runs, and the mean image. */
import { createHash } from 'node:crypto';
import { dirname, join } from 'node:path';
import pLimit from 'p-limit';
import sharp from 'sharp';
import type { Config } from '../config/schema.js';
import { shownPlace } from '../data/bytes/remoteFile.js';
import type { Crop } from '../data/images/crop.js';
import { FeatureStore } from '../data/features/featureStore.js';
import { BadImage, preprocess, type ImageTransform } from '../data/images/images.js';
import { sampleAt } from '../data/order/order.js';
import type { ImageTextPair } from '../data/pairs.js';
import { ShardSet } from '../data/shards/shards.js';
import { UserError } from '../errors.js';
import type { MiniGpt4, PartHashes } from '../model/miniGpt4.js';
import type { Encoder, EncoderSpec } from '../model/vision/encoder.js';
import type { RuntimeFacts } from '../tensorflow/protocol.js';
import { cpuKind } from './checkpointState.js';
import { prefetch } from './prefetch.js';

/** Raised whenever our own code, from an image's bytes to its features, gives other bits than before: old features are then left alone. */
export const ENCODING_VERSION = 2;
/** Images under way at once where many are wanted: some are decoded while others are encoded. */
export const IMAGES_AHEAD = 8;
/** Training images that the mean image is taken over. */
const BLANK_SAMPLES = 256;

/** Gives the features of an image, or of a part of it: of all of it from the cache if they are there, else from the encoder. */
export type FeatureReader = (pair: ImageTextPair, crop?: Crop) => Promise<Float32Array>;

/** What of an encoder a reader needs. */
export type ImageEncoder = Pick<Encoder, 'encode'> & { readonly spec: Pick<EncoderSpec, 'vit'> };

/** How features are read. */
export interface FeatureReaderOptions {
  /** Images decoded at the same time. */
  readonly workers: number;
  /** Whether features that were computed are put in the store; asked each time. Always, if left out. */
  readonly keep?: () => boolean;
  /** Share of what the store gives that is computed again and compared, 0…1; 0 if left out. */
  readonly verify?: number;
  /** Counted on, if given: readers may share it. */
  readonly counts?: CacheCounts;
}

/** What readers with a store have given, counted by image read. */
export interface CacheCounts {
  /** From the store. */
  found: number;
  /** Of these, computed again and the same. */
  verified: number;
  /** From the encoder, crops left out. */
  computed: number;
}

/** All that decides the bits of an image's features besides its bytes. */
export interface FeatureKeyParts {
  /** Transformer, layer, tokens, Q-Former and precision, with the image's size, mean and standard deviation. */
  readonly spec: EncoderSpec;
  /** SHA-256 of the weights. */
  readonly weights: Pick<PartHashes, 'encoder' | 'qformer'>;
  /** TensorFlow's version, device, kernels and threads. */
  readonly tensorflow: RuntimeFacts;
  /** CPU model: TensorFlow and oneDNN choose their kernels and their blocks by it. */
  readonly cpu: string;
  /** Version of what decodes images. */
  readonly decoder: string;
  /** `ENCODING_VERSION` */
  readonly code: number;
}

/**
 * The cache stands beside the run's folder, so that the runs of a project share it.
 *
 * @param note told what is wrong with the folder or its files; none of it ends a run
 * @returns undefined if it is off
 */
export async function openStore(
  { data, run }: Config,
  model: MiniGpt4,
  note?: (text: string) => void,
): Promise<FeatureStore | undefined> {
  if (data.featureCache === false) return undefined;
  return FeatureStore.open(join(dirname(run.folder), 'features'), {
    key: featureKey({
      spec: model.encoder.spec,
      weights: model.hashes,
      tensorflow: model.tensorflow.facts,
      cpu: cpuKind(),
      decoder: sharp.versions.vips,
      code: ENCODING_VERSION,
    }),
    shape: model.encoder.featureShape,
    maxBytes: data.featureCacheGB * 1e9,
    ...(note && { note }),
  });
}

/** Hash of all that decides a feature besides the image's bytes; names the cache's files. @returns 24 hex digits */
export function featureKey({ spec, weights, tensorflow, cpu, decoder, code }: FeatureKeyParts): string {
  const { encoder, qformer } = weights; // the hashes of other parts of the model decide nothing here
  const { version, device, kernels, threads } = tensorflow;
  const facts = { tensorflow: { version, device, kernels }, cpu, threads, decoder, code };
  const parts = { spec, weights: { encoder, qformer }, ...facts };
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 24);
}

/**
 * Features through the encoder, kept in the store under the hash of the image's bytes. Those of a crop are not kept: the
 * same part hardly comes twice.
 *
 * @param store undefined = the encoder runs each time
 * @throws UserError (the reader) if features of the store are not those that the encoder gives
 */
export function featureReader(
  encoder: ImageEncoder,
  store: FeatureStore | undefined,
  { workers, keep = () => true, verify = 0, counts = noCounts() }: FeatureReaderOptions,
): FeatureReader {
  const decoding = pLimit(workers);
  const { imageSize: size, imageMean: mean, imageStd: std } = encoder.spec.vit;
  const transform: ImageTransform = { size, mean, std };
  const compute = async (image: Uint8Array, crop?: Crop): Promise<Float32Array> =>
    encoder.encode(await decoding(() => preprocess(image, transform, crop)));
  const encode = async (image: Uint8Array, sha: Buffer): Promise<Float32Array> => {
    const features = await compute(image);
    counts.computed += 1;
    if (keep()) store?.put(sha, features);
    return features;
  };
  /** An image that samples ahead of the step want at the same time is encoded once. */
  const underWay = new Map<string, Promise<Float32Array>>();
  return async ({ image }, crop) => {
    if (!store || crop) return compute(image, crop);
    const sha = createHash('sha256').update(image).digest();
    const known = store.get(sha);
    if (known) {
      counts.found += 1;
      if (!isVerified(sha, verify)) return known;
      const path = store.whereIs(sha);
      requireSame(sha, known, await compute(image), path);
      counts.verified += 1;
      return known;
    }
    const name = sha.toString('base64');
    const encoding = underWay.get(name) ?? encode(image, sha).finally(() => underWay.delete(name));
    underWay.set(name, encoding);
    return encoding;
  };
}

/** Counts before anything was read. */
export function noCounts(): CacheCounts {
  return { found: 0, verified: 0, computed: 0 };
}

/** One line for the end of a run. */
export function cacheLine({ found, verified, computed }: CacheCounts): string {
  const text = (count: number): string => count.toLocaleString('en');
  return `feature cache: ${text(found)} found, ${text(computed)} computed${verified > 0 ? `; ${text(verified)} of those found were computed again and are the same, bit for bit` : ''}`;
}

/** Whether an image is one of the share: always the same ones, whatever run and order. */
export function isVerified(imageSha256: Buffer, share: number): boolean {
  return imageSha256.readUIntBE(imageSha256.length - 6, 6) < share * 2 ** 48; // not the bytes by which the index sorts
}

/** @throws UserError naming the image, the file and the first value that differs */
function requireSame(sha: Buffer, stored: Float32Array, computed: Float32Array, path: string): void {
  const [a, b] = [stored, computed].map(bitsOf);
  const at = a?.findIndex((bits, i) => bits !== b?.[i]) ?? 0;
  if (at < 0 && stored.length === computed.length) return;
  throw new UserError(
    `feature cache: stored features must be those that the encoder gives, bit for bit, got another value ${at} for image ${sha.toString('hex')}: ` +
      `${stored[at]} in ${path}, ${computed[at]} computed now (delete that file, or its folder: was it written on another kind of machine? The runs that used it may be wrong in their last bits, or wholly)`,
  );
}

function bitsOf(values: Float32Array): Uint32Array {
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}

/**
 * The mean features of training images: an image that says nothing. Unreadable ones are passed over.
 *
 * @returns float32[Q, C]
 */
export async function blankImage({ data, run }: Config, features: FeatureReader): Promise<Float32Array> {
  const [first] = data.train;
  if (!first) throw new Error('features: a configuration has at least one training set');
  const shards = await ShardSet.open(first.shards);
  let read = 0;
  let sum: Float64Array | undefined;
  try {
    const count = Math.min(shards.rows, BLANK_SAMPLES);
    const images = prefetch(0, count, IMAGES_AHEAD, async (position) =>
      readableFeatures(features, await shards.read(sampleAt(run.seed, position, shards.rows))),
    );
    for await (const one of images) {
      if (!one) continue;
      read += 1;
      sum ??= new Float64Array(one.length);
      for (const [i, value] of one.entries()) sum[i] = (sum[i] ?? 0) + value;
    }
  } finally {
    shards.close();
  }
  if (!sum) throw new UserError(`evaluate: ${shownPlace(first.shards)} must hold readable images, got none`);
  return Float32Array.from(sum, (total) => total / read);
}

/** Features of a pair; undefined where its image cannot be read. */
export async function readableFeatures(
  features: FeatureReader,
  pair: ImageTextPair,
): Promise<Float32Array | undefined> {
  try {
    return await features(pair);
  } catch (error) {
    if (error instanceof BadImage) return undefined;
    throw error;
  }
}
