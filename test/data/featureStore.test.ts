import { createHash } from 'node:crypto';
import { mkdtemp, readFile, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { tableFromIPC } from 'apache-arrow';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FeatureStore } from '../../src/data/featureStore.js';

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'features-'));
});
afterEach(() => rm(folder, { recursive: true }));

const sha = (i: number) => createHash('sha256').update(String(i)).digest('hex');
/** Any bits, so also NaN with payloads, infinities, -0 and subnormals. */
const features = (i: number) =>
  new Float32Array(
    Uint32Array.from({ length: 15 }, (_, j) => Math.imul(i * 15 + j + 1, 0x9e3779b1) >>> 0).buffer,
  );
const bits = (values: Float32Array | undefined) =>
  values && new Uint32Array(values.buffer, values.byteOffset, values.length);
const open = (key = 'abc123') => FeatureStore.open(folder, { key, shape: [5, 3] });

async function filled(): Promise<void> {
  const store = await open();
  for (let i = 0; i < 300; i++) {
    store.put(sha(i), features(i));
    if (i === 199) await store.flush();
  }
  await store.flush();
  store.close();
}

describe('FeatureStore', () => {
  it('returns what was put, bit for bit: before flush, after it, and from another store', async () => {
    const store = await open();
    const own = features(7);
    store.put(sha(7), own);
    own.fill(0);
    expect(bits(store.get(sha(7)))).toEqual(bits(features(7)));
    await store.flush();
    expect(bits(store.get(sha(7)))).toEqual(bits(features(7)));
    store.close();
    await rm(join(folder, 'features-abc123-000.arrow'));
    await filled();
    const again = await open();
    expect(again.size).toBe(300);
    for (const i of [0, 299, 199, 200, 255, 256]) expect(bits(again.get(sha(i)))).toEqual(bits(features(i)));
    expect(again.get(sha(300))).toBeUndefined();
    expect(again.has(sha(300))).toBe(false);
    expect(again.warnings).toEqual([]);
    again.close();
  });

  it('writes ordinary Arrow files, one a flush', async () => {
    await filled();
    expect(await readdir(folder)).toEqual(['features-abc123-000.arrow', 'features-abc123-001.arrow']);
    const table = tableFromIPC(await readFile(join(folder, 'features-abc123-001.arrow')));
    expect(table.schema.names).toEqual(['image', 'check', 'features']);
    expect(table.numRows).toBe(100);
    expect(table.schema.metadata.get('shape')).toBe('5,3');
    expect(table.get(3)?.['image']).toBe(sha(203));
  });

  it('another key or shape finds nothing', async () => {
    await filled();
    expect((await open('abc')).size).toBe(0);
    expect((await open('abc123-000')).size).toBe(0);
    const other = await FeatureStore.open(folder, { key: 'abc123', shape: [3, 5] });
    expect(other.size).toBe(0);
    expect(other.warnings).toHaveLength(2);
  });

  it('a file that is cut short is left out with a warning; the others stay, and the next flush takes a new name', async () => {
    await filled();
    await truncate(join(folder, 'features-abc123-000.arrow'), 5000);
    const store = await open();
    expect(store.size).toBe(100);
    expect(store.warnings.join()).toMatch(/a file is damaged .*features-abc123-000\.arrow/);
    store.put(sha(0), features(0));
    await store.flush();
    expect(bits(store.get(sha(0)))).toEqual(bits(features(0)));
    expect(await readdir(folder)).toContain('features-abc123-002.arrow');
    store.close();
  });

  it('a flipped bit in a value is noticed: that value is gone with a warning, the next one is right', async () => {
    await filled();
    const path = join(folder, 'features-abc123-000.arrow');
    const bytes = await readFile(path);
    const at = bytes.indexOf(new Uint8Array(features(42).buffer));
    bytes[at + 3] = (bytes[at + 3] ?? 0) ^ 16;
    await writeFile(path, bytes);
    const store = await open();
    expect(store.warnings).toEqual([]);
    expect(store.get(sha(42))).toBeUndefined();
    expect(store.has(sha(42))).toBe(false);
    expect(store.warnings.join()).toMatch(new RegExp(`a value is damaged .* image ${sha(42)}`));
    expect(bits(store.get(sha(43)))).toEqual(bits(features(43)));
    store.close();
  });

  it('refuses features of another shape', async () => {
    const store = await open();
    expect(() => store.put(sha(0), new Float32Array(14))).toThrow(/features must be \[5, 3\], got 14 values/);
  });
});
