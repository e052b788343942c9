/** The feature cache never changes a run: cold, warm, off, full, shared by two runs at once, killed. The built command, tiny random models. */
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, truncateSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { tableFromIPC } from 'apache-arrow';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tinyConfig, writeTinyModels, writeTinyShards } from '../helpers/tinyFolders.js';
import { FeatureStore } from '../../src/data/features/featureStore.js';
import { MINIGPT4, ROOT, run, sha256, start } from './commands.js';

const IMAGES = 40;
const STEPS = 30; // of 4 samples: each image three times
let root: string;
let expected: string;

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'minigpt4-cache-'));
  const folders = await writeTinyModels(root);
  await writeTinyShards(join(root, 'shards'), IMAGES);
  await writeFile(join(root, 'config.yaml'), tinyConfig('pretrain', folders, root));
  await run('node', command('off/run', 'data.featureCache=false'));
  expected = projection('off/run');
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** A run in `root/folder`; its cache is `features` beside it. */
function command(folder: string, ...set: string[]): string[] {
  const all = [`run.folder=${join(root, folder)}`, `train.steps=${STEPS}`, 'train.saveEvery=10', ...set];
  return [
    MINIGPT4,
    'pretrain',
    '--config',
    join(root, 'config.yaml'),
    ...all.flatMap((one) => ['--set', one]),
  ];
}

function projection(folder: string): string {
  return sha256(join(root, folder, 'checkpoints', `step-000000${STEPS}`, 'projection.safetensors'));
}

function cacheFiles(folder: string): string[] {
  const features = join(root, folder, 'features');
  return existsSync(features) ? readdirSync(features).map((name) => join(features, name)) : [];
}

describe('the feature cache', () => {
  it('cold and warm gives the projection of the run without it, and a warm run computes nothing', async () => {
    const cold = await run('node', command('shared/cold'));
    expect(projection('shared/cold')).toBe(expected);
    expect(cold.stderr).toMatch(/feature cache: on, 67 % of the 120 samples are images seen before/);
    expect(cold.stderr).toMatch(/feature cache: \d+ found, 4[0-9] computed/);
    const warm = await run('node', [...command('shared/warm'), '--verify-cache', '0.5']);
    expect(projection('shared/warm')).toBe(expected);
    expect(warm.stderr).toMatch(/40 images are there already/);
    expect(warm.stderr).toMatch(
      /feature cache: 1\d\d found, 0 computed; \d\d of those found were computed again and are the same/,
    );
    expect(cacheFiles('off')).toEqual([]);
    expect(cacheFiles('shared')).toHaveLength(1);
  }, 120_000);

  it('full, or cut by a crash, gives the same projection', async () => {
    const full = await run('node', command('full/run', 'data.featureCacheGB=1e-6'));
    expect(projection('full/run')).toBe(expected);
    expect(full.stderr).toMatch(/feature cache: nothing more is kept.*raise data\.featureCacheGB/);
    expect(cacheFiles('full')).toEqual([]);
    await run('node', command('cut/first'));
    const [file = ''] = cacheFiles('cut');
    truncateSync(file, statSync(file).size - 1000);
    await run('node', command('cut/second'));
    expect(projection('cut/second')).toBe(expected);
  }, 120_000);

  it('in a place that cannot be written to gives the same projection, and says so', async () => {
    const folder = join(root, 'blocked');
    await run('node', command('blocked/none', 'data.featureCache=false'));
    await writeFile(join(folder, 'features'), 'a file where the folder should be');
    const { stderr } = await run('node', command('blocked/run'));
    expect(projection('blocked/run')).toBe(expected);
    expect(stderr).toMatch(/feature cache: nothing more is kept/);
  }, 120_000);

  it('is filled by two runs at once, which end as they would alone', async () => {
    const runs = ['both/one', 'both/two'].map((folder) => start('node', command(folder)).finished);
    for (const { code, stderr } of await Promise.all(runs)) expect([code, stderr]).toEqual([0, stderr]);
    expect(projection('both/one')).toBe(expected);
    expect(projection('both/two')).toBe(expected);
    const files = cacheFiles('both').length;
    expect(files).toBeGreaterThanOrEqual(1);
    const third = await run('node', [...command('both/three'), '--verify-cache', '1']);
    expect(third.stderr).toMatch(/feature cache: 1\d\d found, 0 computed/);
    expect(projection('both/three')).toBe(expected);
    expect(cacheFiles('both')).toHaveLength(files);
  }, 120_000);

  it('keeps no training images that come once, unless always asked to or read for statistics before', async () => {
    const kept = (folder: string): number =>
      cacheFiles(folder).reduce((sum, file) => sum + tableFromIPC(readFileSync(file)).numRows, 0);
    const plain = ['train.steps=10', 'model.projection.standardise=false'];
    const { stderr } = await run('node', command('once/run', ...plain));
    expect(stderr).toMatch(
      /off for training images from the first step on, as only 0\.0 % of the 40 samples/,
    );
    expect(kept('once')).toBeLessThan(10); // those held out, if an evaluation was due
    const always = await run('node', command('once/always', ...plain, 'data.featureCache=always'));
    expect(always.stderr).toMatch(/feature cache: on, 0\.0 %/);
    expect(kept('once')).toBe(IMAGES);
    const statistics = await run('node', command('statistics/run', 'train.steps=10'));
    expect(statistics.stderr).toMatch(/off for training images/);
    expect(kept('statistics')).toBe(IMAGES);
  }, 120_000);
});

describe('FeatureStore', () => {
  const shape = [5, 3] as const;
  const hashOf = (i: number) => createHash('sha256').update(String(i)).digest();

  it('is filled by two processes at once; they are killed, and all that was flushed is there', async () => {
    const folder = join(root, 'processes');
    const writer = (from: number): string => `
      import { createHash } from 'node:crypto';
      import { FeatureStore } from ${JSON.stringify(pathToFileURL(join(ROOT, 'dist/data/features/featureStore.js')).href)};
      const store = await FeatureStore.open(${JSON.stringify(folder)}, { key: 'abc', shape: [5, 3] });
      for (let i = ${from}; i < ${from} + 2000; i++) {
        store.put(createHash('sha256').update(String(i)).digest(), new Float32Array(15).fill(i));
        if (i % 50 === 0) await store.flush();
      }
      await store.flush();
      store.put(createHash('sha256').update('lost').digest(), new Float32Array(15));
      process.kill(process.pid, 'SIGKILL');`;
    const ended = await Promise.all(
      [0, 1000].map((from) => start('node', ['--input-type=module', '-e', writer(from)]).finished),
    );
    expect(ended.map(({ signal, stderr }) => [signal, stderr])).toEqual([
      ['SIGKILL', ''],
      ['SIGKILL', ''],
    ]);
    expect(readdirSync(folder)).toHaveLength(2);
    const store = await FeatureStore.open(folder, { key: 'abc', shape });
    expect(store.warnings).toEqual([]);
    expect(store.size).toBe(3000);
    const wrong = Array.from({ length: 3000 }, (_, i) => i).filter(
      (i) => !store.get(hashOf(i))?.every((value) => value === i),
    );
    expect(wrong).toEqual([]);
    store.close();
  });
});
