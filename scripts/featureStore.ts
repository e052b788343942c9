/**
 * `npx tsx scripts/featureStore.ts [ENTRIES] [FILES]`: what opening a feature store of so many images costs, in seconds and
 * in memory, and what reading one image's features takes. Vectors are small; the work goes by images, not by bytes.
 */
import { createHash } from 'node:crypto';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FeatureBatch } from '../src/data/features/featureBatch.js';
import { FeatureFileWriter } from '../src/data/features/featureFile.js';
import { FeatureStore } from '../src/data/features/featureStore.js';

const [entries = 1_000_000, files = 10] = process.argv.slice(2).map(Number);
const kind = { key: 'measured', shape: [1, 16] } as const;
const GETS = 20_000;

const folder = await mkdtemp(join(tmpdir(), 'feature-store-'));
try {
  await fill();
  await measure();
} finally {
  await rm(folder, { recursive: true });
}

function hashOf(i: number): Buffer {
  return createHash('sha256').update(String(i)).digest();
}

async function fill(): Promise<void> {
  const perFile = Math.ceil(entries / files);
  for (let file = 0; file < files; file++) {
    const name = `features-${kind.key}-00000000-0000-0000-0000-${String(file).padStart(12, '0')}.arrow`;
    const handle = await open(join(folder, name), 'ax');
    const writer = new FeatureFileWriter(handle, kind);
    let batch = new FeatureBatch(16);
    for (let i = file * perFile; i < Math.min(entries, (file + 1) * perFile); i++) {
      batch.add(hashOf(i), new Float32Array(16).fill(i));
      if (!batch.isFull) continue;
      await writer.append(batch);
      batch = new FeatureBatch(16);
    }
    if (batch.rows > 0) await writer.append(batch);
    await handle.close();
  }
}

async function measure(): Promise<void> {
  globalThis.gc?.();
  const before = process.memoryUsage().rss;
  const start = performance.now();
  const store = await FeatureStore.open(folder, kind);
  const seconds = (performance.now() - start) / 1000;
  globalThis.gc?.();
  const rss = process.memoryUsage().rss - before;
  const read: number[] = [];
  for (let n = 0; n < GETS; n++) {
    const i = Math.floor(Math.random() * entries);
    const hash = hashOf(i);
    const begun = performance.now();
    const features = store.get(hash);
    read.push(performance.now() - begun);
    if (features?.[0] !== Math.fround(i)) throw new Error(`image ${i} must have its own features`);
  }
  read.sort((a, b) => a - b);
  const micros = (share: number): string => ((read[Math.floor(GETS * share)] ?? NaN) * 1000).toFixed(0);
  console.log(
    `${store.size} images in ${files} files: opened in ${seconds.toFixed(2)} s, index ${(store.indexBytes / store.size).toFixed(1)} bytes an image, ` +
      `resident ${(rss / store.size).toFixed(0)} more an image; get: median ${micros(0.5)} µs, 99 % within ${micros(0.99)} µs`,
  );
  store.close();
}
