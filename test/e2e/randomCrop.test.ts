/** `data.transform: random-crop` in training: which boxes, what is cached, and that a run that died ends as one that did not. */
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { parseConfig } from '../../src/config/load.js';
import type { Config } from '../../src/config/schema.js';
import { cropAt, type Crop, type CropBox } from '../../src/data/images/crop.js';
import { FeatureStore } from '../../src/data/features/featureStore.js';
import { BadImage, preprocess } from '../../src/data/images/images.js';
import { BadSampleLedger } from '../../src/data/ledger.js';
import type { ImageTextPair } from '../../src/data/pairs.js';
import { writeShards } from '../../src/data/shards/shardWriter.js';
import { Prompter } from '../../src/model/conversation/prompt.js';
import { openMiniGpt4, type MiniGpt4 } from '../../src/model/miniGpt4.js';
import { featureReader } from '../../src/train/features.js';
import { openSources, Samples } from '../../src/train/samples.js';
import { train } from '../../src/train/train.js';
import type { TrainOptions } from '../../src/train/options.js';
import { largestDifference } from '../helpers/compare.js';
import { tinyConfig, writeTinyModels } from '../helpers/tinyFolders.js';

const [WIDTH, HEIGHT] = [30, 24];
const STEPS = 6;

let root: string;
let folders: { readonly encoder: string; readonly llm: string };
let model: MiniGpt4;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'random-crop-'));
  folders = await writeTinyModels(root);
  for (const [name, rows] of Object.entries({ shards: 12, more: 9 }))
    await writeShards(join(root, name), await pairs(name, rows));
  model = await openMiniGpt4(configOf('model').model, folders);
});
afterAll(async () => {
  await model.close();
  await rm(root, { recursive: true });
});

/** Pictures with something to crop; the fourth of each set is cut short. */
async function pairs(set: string, count: number): Promise<ImageTextPair[]> {
  const all: ImageTextPair[] = [];
  for (let i = 0; i < count; i++) {
    const data = Uint8Array.from({ length: WIDTH * HEIGHT * 3 }, (_, at) => (at * at * (i + 3)) >> 4);
    const raw = { width: WIDTH, height: HEIGHT, channels: 3 as const };
    const image = await sharp(data, { raw }).png().toBuffer();
    const cut = i === 3 ? image.subarray(0, 60) : image;
    all.push({ id: `${set}-${i}`, image: cut, caption: `a picture of ${i}`, extra: {} });
  }
  return all;
}

/** A run over both sets in the folder `name`. */
function configOf(name: string, ...set: string[]): Config {
  const mixture = `data.train=[{shards: ${join(root, 'shards')}, weight: 2},{shards: ${join(root, 'more')}}]`;
  return parseConfig(tinyConfig('pretrain', folders, root), 'tiny.yaml', {
    set: [
      mixture,
      `data.heldOut.shards=${join(root, 'more')}`,
      'data.transform=random-crop',
      'data.maxBadFraction=1',
      'train.preflight=false', // it would only cost time here
      `train.steps=${STEPS}`,
      'train.saveEvery=2',
      `run.folder=${join(root, 'runs', name)}`,
      ...set,
    ],
  });
}

async function samplePair(): Promise<ImageTextPair> {
  const [pair] = await pairs('one', 1);
  if (!pair) throw new Error('test: a pair must be made, got none');
  return pair;
}

describe('featureReader', () => {
  it('encodes the pixels of the box, and keeps whole images only', async () => {
    const pair = await samplePair();
    const { imageSize: size, imageMean: mean, imageStd: std } = model.encoder.spec.vit;
    const store = await FeatureStore.open(join(root, 'features'), {
      key: 'test',
      shape: model.encoder.featureShape,
    });
    const read = featureReader(model.encoder, store, { workers: 1 });
    const encode = vi.spyOn(model.encoder, 'encode');
    const whole = await read(pair);
    const part = await read(pair, cropAt(1, 0));
    const again = await read(pair, cropAt(1, 0));
    expect(await read(pair)).toEqual(whole);
    expect(encode).toHaveBeenCalledTimes(3);
    encode.mockRestore();
    expect(store.size).toBe(1);
    store.close();
    const wanted = await preprocess(pair.image, { size, mean, std }, cropAt(1, 0));
    expect(part).toEqual(await model.encoder.encode(wanted));
    expect(again).toEqual(part);
    expect(largestDifference(part, whole)).toBeGreaterThan(1e-3);
  });
});

describe('Samples', () => {
  /** Pair and box of the samples at positions. */
  async function draw(
    config: Config,
    positions: readonly number[],
  ): Promise<Map<number, { readonly id: string; readonly box: CropBox | undefined }>> {
    const ledger = await BadSampleLedger.open(join(root, 'ledger.jsonl'), { maxBadFraction: 1 });
    const prompter = new Prompter(model.tokenizer, config.prompt);
    const sources = await openSources(config);
    let box: CropBox | undefined;
    const features = (pair: ImageTextPair, crop?: Crop): Promise<Float32Array> => {
      box = crop?.(WIDTH, HEIGHT);
      return pair.id.endsWith('-3')
        ? Promise.reject(new BadImage('cut'))
        : Promise.resolve(new Float32Array());
    };
    const samples = new Samples(sources, features, prompter, config, ledger);
    const drawn = new Map<number, { readonly id: string; readonly box: CropBox | undefined }>();
    for (const position of positions) {
      const { pair } = await samples.at(position, 0);
      drawn.set(position, { id: pair.id, box });
    }
    for (const { shards } of sources) shards.close();
    return drawn;
  }

  it('the box is that of the position, also of a bad sample’s replacement and where a run begins anew', async () => {
    const config = configOf('samples');
    const positions = Array.from({ length: 60 }, (_, position) => position);
    const drawn = await draw(config, positions);
    for (const [position, { box }] of drawn)
      expect(box).toEqual(cropAt(config.run.seed, position)(WIDTH, HEIGHT));
    expect(new Set([...drawn.values()].map(({ id }) => id)).size).toBe(19); // 21 pictures, 2 of them cut
    const later = positions.slice(30);
    expect(await draw(config, later)).toEqual(
      new Map(later.map((position) => [position, drawn.get(position)])),
    );
    expect(new Set([...drawn.values()].map(({ box }) => JSON.stringify(box))).size).toBeGreaterThan(40);
  });

  it('nothing is cropped unless the configuration says so', async () => {
    const drawn = await draw(configOf('samples', 'data.transform=resize'), [0, 1, 2]);
    expect([...drawn.values()].map(({ box }) => box)).toEqual([undefined, undefined, undefined]);
  });
});

describe('a run with random crops', () => {
  const weights = (name: string): Buffer =>
    readFileSync(join(root, 'runs', name, 'checkpoints', 'step-00000006', 'projection.safetensors'));
  const run = (config: Config, options: Omit<TrainOptions, 'folders'> = {}) =>
    train(config, { folders, ...options });
  const dieAt = (last: number) => ({
    step: ({ step }: { readonly step: number }) => {
      if (step === last) throw new Error('died');
    },
  });

  it('that died ends as the one that did not, bit for bit, with other workers and without a cache', async () => {
    const notes: string[] = [];
    await run(configOf('unbroken'), { events: { note: (text) => notes.push(text) } });
    expect(notes.join('\n')).toMatch(/feature cache: off for training images/);
    const other = ['data.workers=3', 'data.prefetch=1', 'data.featureCache=false'];
    const quiet: string[] = [];
    await expect(run(configOf('broken', ...other), { events: dieAt(3) })).rejects.toThrow('died');
    await expect(run(configOf('broken', ...other), { events: dieAt(5) })).rejects.toThrow('died');
    await run(configOf('broken', ...other), { events: { note: (text) => quiet.push(text) } });
    expect(quiet.join('\n')).toMatch(/resumes after step 4/);
    expect(quiet.join('\n')).not.toMatch(/feature cache/);
    expect(weights('broken').equals(weights('unbroken'))).toBe(true);
    await run(configOf('plain', 'data.transform=resize'));
    expect(weights('plain').equals(weights('unbroken'))).toBe(false);
  });

  it('evaluates on whole pictures', async () => {
    const pair = await samplePair();
    const { imageSize: size, imageMean: mean, imageStd: std } = model.encoder.spec.vit;
    const wanted = await model.encoder.encode(await preprocess(pair.image, { size, mean, std }));
    let got: Float32Array | undefined;
    await run(configOf('evaluated', 'train.evalEvery=6'), {
      evaluate: async ({ features }) => {
        got = await features(pair);
        return {};
      },
    });
    expect(got).toEqual(wanted);
  });

  it('is not resumed with another transform', async () => {
    const config = configOf('unbroken', 'data.transform=resize');
    await expect(run(config)).rejects.toThrow(/data\.transform: "random-crop" in the run, "resize" now/);
  });
});
