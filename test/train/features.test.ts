import { createHash } from 'node:crypto';
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkOf } from '../../src/data/features/featureBatch.js';
import { FeatureStore } from '../../src/data/features/featureStore.js';
import type { ImageTextPair } from '../../src/data/pairs.js';
import { UserError } from '../../src/errors.js';
import {
  cacheLine,
  featureKey,
  featureReader,
  isVerified,
  noCounts,
  type FeatureKeyParts,
  type ImageEncoder,
} from '../../src/train/features.js';
import { TINY_VIT } from '../helpers/tinyModels.js';
import { tinyPicture } from '../helpers/tinyFolders.js';

const PARTS: FeatureKeyParts = {
  spec: { vit: TINY_VIT, depth: 2, tokens: { kind: 'grid', grid: 2, cls: true }, precision: 'float32' },
  weights: { encoder: 'a'.repeat(64), qformer: 'b'.repeat(64) },
  tensorflow: { version: '2.21.0', device: 'CPU', kernels: 'oneDNN', threads: 2 },
  cpu: 'A CPU',
  decoder: '8.17',
  code: 1,
};

describe('featureKey', () => {
  it('is another one whatever part is changed', () => {
    const { spec, weights, tensorflow } = PARTS;
    const vit = (change: Partial<typeof TINY_VIT>) => ({
      spec: { ...spec, vit: { ...TINY_VIT, ...change } },
    });
    const changes: Partial<FeatureKeyParts>[] = [
      {},
      vit({ imageSize: 28 }),
      vit({ imageMean: [0.5, 0.5, 0.4] }),
      vit({ imageStd: [0.5, 0.5, 0.5] }),
      vit({ heads: 1 }),
      vit({ layerNormEps: 1e-5 }),
      { spec: { ...spec, depth: 1 } },
      { spec: { ...spec, tokens: { kind: 'grid', grid: 2, cls: false } } },
      { spec: { ...spec, tokens: { kind: 'all' } } },
      { spec: { ...spec, lnVision: 'plain' } },
      { spec: { ...spec, precision: 'bfloat16' } },
      { spec: { ...spec, widen: true } },
      { weights: { ...weights, encoder: 'c'.repeat(64) } },
      { weights: { ...weights, qformer: 'c'.repeat(64) } },
      { weights: { encoder: weights.encoder } },
      { tensorflow: { ...tensorflow, version: '2.22.0' } },
      { tensorflow: { ...tensorflow, device: 'GPU' } },
      { tensorflow: { ...tensorflow, kernels: 'Eigen' } },
      { cpu: 'Another CPU' },
      { tensorflow: { ...tensorflow, threads: 3 } },
      { decoder: '8.18' },
      { code: 2 },
    ];
    const keys = changes.map((change) => featureKey({ ...PARTS, ...change }));
    expect(new Set(keys).size).toBe(changes.length);
    expect(keys[0]).toMatch(/^[0-9a-f]{24}$/);
  });

  it('does not depend on the LLM and the tokenizer', () => {
    const hashes = { ...PARTS.weights, llm: 'x', tokenizer: 'y' };
    expect(featureKey({ ...PARTS, weights: hashes })).toBe(featureKey(PARTS));
  });
});

describe('featureReader', () => {
  let folder = '';
  let store: FeatureStore;
  let pairs: ImageTextPair[] = [];
  let encoded = 0;
  /** Features that depend on all pixels. */
  const encoder: ImageEncoder = {
    spec: { vit: TINY_VIT },
    encode: (pixels) => {
      encoded += 1;
      const sum = pixels.reduce((all, value, i) => all + value * (1 + (i % 7)), 0);
      return Promise.resolve(Float32Array.of(sum, sum / 3));
    },
  };
  const open = () => FeatureStore.open(folder, { key: 'test', shape: [1, 2] });

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'features-'));
    store = await open();
    encoded = 0;
    pairs = await Promise.all(
      Array.from({ length: 20 }, async (_, i) => ({
        id: `${i}`,
        image: await tinyPicture(i),
        caption: '',
        extra: {},
      })),
    );
  });
  afterEach(async () => {
    store.close();
    await rm(folder, { recursive: true });
  });

  const readAll = async (
    options: Partial<Parameters<typeof featureReader>[2]> = {},
  ): Promise<Float32Array[]> => {
    const read = featureReader(encoder, store, { workers: 2, ...options });
    return Promise.all(pairs.map((pair) => read(pair)));
  };

  it('encodes each image once and counts', async () => {
    const counts = noCounts();
    const first = await readAll({ counts });
    expect(await readAll({ counts })).toEqual(first);
    expect(encoded).toBe(20);
    expect(counts).toEqual({ found: 20, verified: 0, computed: 20 });
    expect(cacheLine(counts)).toBe('feature cache: 20 found, 20 computed');
    expect(new Set(first.map(([value]) => value)).size).toBe(20);
  });

  it('encodes an image once that several samples want at the same time, and fails for all of them', async () => {
    const read = featureReader(encoder, store, { workers: 2 });
    const [one] = pairs as [ImageTextPair];
    const wanted = await Promise.all(Array.from({ length: 5 }, () => read(one)));
    expect(encoded).toBe(1);
    expect(new Set(wanted.map(([value]) => value)).size).toBe(1);
    const broken = { ...one, image: one.image.slice(0, 40) };
    const failed = await Promise.allSettled([read(broken), read(broken), read(one)]);
    expect(failed.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'fulfilled']);
    await expect(read(broken)).rejects.toThrow(); // not remembered
  });

  it('uses what is there and keeps nothing while it is not to keep', async () => {
    let keeps = true;
    const read = featureReader(encoder, store, { workers: 1, keep: () => keeps });
    const [one, two] = pairs as [ImageTextPair, ImageTextPair];
    await read(one);
    keeps = false;
    for (let pass = 0; pass < 2; pass++) for (const pair of [one, two]) await read(pair);
    expect(encoded).toBe(3); // the second image each time
    expect(store.size).toBe(1);
  });

  it('computes the share again, the same images each time', async () => {
    await readAll();
    const chosen = pairs.filter(({ image }) =>
      isVerified(createHash('sha256').update(image).digest(), 0.3),
    ).length;
    expect(chosen).toBeGreaterThan(0);
    expect(chosen).toBeLessThan(20);
    for (let pass = 0; pass < 2; pass++) {
      const counts = noCounts();
      await readAll({ verify: 0.3, counts });
      expect(counts).toEqual({ found: 20, verified: chosen, computed: 0 });
    }
    expect(encoded).toBe(20 + 2 * chosen);
    const all = noCounts();
    await readAll({ verify: 1, counts: all });
    expect(cacheLine(all)).toBe(
      'feature cache: 20 found, 0 computed; 20 of those found were computed again and are the same, bit for bit',
    );
  });

  it('finds a wrong value under a right check, and names image, file and value', async () => {
    const [first = new Float32Array()] = await readAll();
    await store.flush();
    store.close();
    const [name = ''] = await readdir(folder);
    const path = join(folder, name);
    const image = createHash('sha256')
      .update(pairs[0]?.image ?? new Uint8Array())
      .digest();
    const bytes = await readFile(path);
    const wrong = Float32Array.of(first[0] ?? 0, (first[1] ?? 0) + 1);
    replace(bytes, new Uint8Array(first.buffer), new Uint8Array(wrong.buffer));
    replace(bytes, checkOf(image, first), checkOf(image, wrong));
    await writeFile(path, bytes);
    store = await open();
    expect((await readAll())[0]).toEqual(wrong); // without verification nothing tells
    const failed = readAll({ verify: 1 });
    await expect(failed).rejects.toThrow(UserError);
    await expect(failed).rejects.toThrow(
      `got another value 1 for image ${image.toString('hex')}: ${wrong[1]} in ${path}, ${first[1]} computed now (delete that file`,
    );
  });
});

describe('isVerified', () => {
  it('chooses the share that is asked for, and a larger share holds a smaller one', () => {
    const hashes = Array.from({ length: 10_000 }, (_, i) => createHash('sha256').update(`${i}`).digest());
    const chosen = (share: number) => hashes.filter((hash) => isVerified(hash, share));
    expect(chosen(0)).toEqual([]);
    expect(chosen(1)).toHaveLength(10_000);
    expect(Math.abs(chosen(0.1).length - 1000)).toBeLessThan(120); // 4 standard deviations
    const larger = new Set(chosen(0.1));
    expect(chosen(0.01).every((hash) => larger.has(hash))).toBe(true);
    expect(chosen(0.01).length).toBeGreaterThan(60);
  });
});

/** Puts `to` where `from` stands for the first time. */
function replace(bytes: Buffer, from: Uint8Array, to: Uint8Array): void {
  const at = bytes.indexOf(from);
  expect(at).toBeGreaterThan(0);
  bytes.set(to, at);
}
