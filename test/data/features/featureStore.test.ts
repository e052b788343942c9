import { createHash } from 'node:crypto';
import {
  mkdtemp,
  open as openFile,
  readFile,
  readdir,
  rm,
  stat,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { tableFromIPC } from 'apache-arrow';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { FeatureBatch } from '../../../src/data/features/featureBatch.js';
import { FeatureFileWriter } from '../../../src/data/features/featureFile.js';
import { FeatureStore, type FeatureStoreOptions } from '../../../src/data/features/featureStore.js';

let folder = '';
const stores: FeatureStore[] = [];
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'features-'));
});
afterEach(async () => {
  vi.restoreAllMocks();
  for (const store of stores.splice(0)) store.close();
  await rm(folder, { recursive: true });
});

const sha = (i: number) => createHash('sha256').update(String(i)).digest();
/** Any bits, so also NaN with payloads, infinities, -0 and subnormals. */
const features = (i: number) =>
  new Float32Array(
    Uint32Array.from({ length: 15 }, (_, j) => Math.imul(i * 15 + j + 1, 0x9e3779b1) >>> 0).buffer,
  );
const bits = (values: Float32Array | undefined) =>
  values && new Uint32Array(values.buffer, values.byteOffset, values.length);

async function open(options: Partial<FeatureStoreOptions> = {}): Promise<FeatureStore> {
  const store = await FeatureStore.open(folder, { key: 'abc123', shape: [5, 3], ...options });
  stores.push(store);
  return store;
}

function put(store: FeatureStore, from: number, to: number): void {
  for (let i = from; i < to; i++) store.put(sha(i), features(i));
}

/** Images 0…299 in two batches. */
async function filled(): Promise<string> {
  const store = await open();
  put(store, 0, 200);
  await store.flush();
  put(store, 200, 300);
  await store.flush();
  return ownFile();
}

async function ownFile(): Promise<string> {
  const [name = '', ...others] = await readdir(folder);
  expect(others).toEqual([]);
  return join(folder, name);
}

/** Compared as bytes: vitest's own comparison takes a millisecond an image. */
function expectAll(store: FeatureStore, from: number, to: number): void {
  const wrong: number[] = [];
  for (let i = from; i < to; i++) if (!isRight(store.get(sha(i)), i)) wrong.push(i);
  expect(wrong).toEqual([]);
}

function isRight(got: Float32Array | undefined, i: number): boolean {
  if (got?.length !== 15) return false;
  return Buffer.compare(new Uint8Array(got.buffer), new Uint8Array(features(i).buffer)) === 0;
}

describe('FeatureStore', () => {
  it('returns what was put, bit for bit: before it is written, after it, and from another store', async () => {
    const store = await open();
    const own = features(7);
    store.put(sha(7), own);
    own.fill(0);
    expect(bits(store.get(sha(7)))).toEqual(bits(features(7)));
    await store.flush();
    expect(bits(store.get(sha(7)))).toEqual(bits(features(7)));
    await rm(folder, { recursive: true });
    await filled();
    const again = await open();
    expect(again.size).toBe(300);
    expectAll(again, 0, 300);
    expect(again.get(sha(300))).toBeUndefined();
    expect(again.has(sha(300))).toBe(false);
    expect(again.warnings).toEqual([]);
  });

  it('gives each caller values of its own', async () => {
    const store = await open();
    put(store, 0, 1);
    for (const flush of [false, true]) {
      if (flush) await store.flush();
      store.get(sha(0))?.fill(1);
      expect(bits(store.get(sha(0)))).toEqual(bits(features(0)));
    }
  });

  it('writes batches of 256 by itself, into one ordinary Arrow stream', async () => {
    const store = await open();
    put(store, 0, 600);
    // Another store reads what is whole, also while it is written
    while ((await open()).size < 512) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(store.size).toBe(600);
    await store.flush();
    const path = await ownFile();
    expect(path).toMatch(/features-abc123-[0-9a-f-]{36}\.arrow$/);
    const table = tableFromIPC(await readFile(path));
    expect(table.schema.names).toEqual(['image', 'check', 'features']);
    expect(table.batches.map(({ numRows }) => numRows)).toEqual([256, 256, 88]);
    expect(table.schema.metadata.get('shape')).toBe('5,3');
    expect(Buffer.from(table.get(503)?.['image'] as Uint8Array)).toEqual(sha(503));
  });

  it('keeps large features in batches of 16 MB', async () => {
    const shape = [1000, 1500] as const; // 6 MB each
    const values = (i: number) => new Float32Array(1.5e6).fill(i + 0.5);
    const store = await open({ shape });
    for (let i = 0; i < 3; i++) store.put(sha(i), values(i));
    await store.flush();
    expect(tableFromIPC(await readFile(await ownFile())).batches.map(({ numRows }) => numRows)).toEqual([
      2, 1,
    ]);
    const again = await open({ shape });
    for (let i = 0; i < 3; i++) {
      const got = again.get(sha(i)) ?? new Float32Array();
      expect(Buffer.compare(new Uint8Array(got.buffer), new Uint8Array(values(i).buffer))).toBe(0);
    }
  });

  it('another key or shape finds nothing', async () => {
    await filled();
    expect((await open({ key: 'abc' })).size).toBe(0);
    expect((await open({ key: 'abc123-000' })).size).toBe(0);
    expect((await open({ key: 'abc1234' })).size).toBe(0);
    const other = await open({ shape: [3, 5] });
    expect(other.size).toBe(0);
    expect(other.warnings.join()).toMatch(/damaged from byte 0 .*must hold \[3, 5\] of abc123/);
  });

  it('a file cut anywhere, as by SIGKILL, gives the batches that are whole, without a word', async () => {
    const path = await filled();
    const { size: all } = await stat(path);
    const found = new Set<number>();
    for (let size = all; size >= 0; size -= 997) {
      await truncate(path, size);
      const store = await open();
      expect(store.warnings).toEqual([]);
      expectAll(store, 0, store.size);
      found.add(store.size);
      store.close();
    }
    expect([...found]).toEqual([300, 200, 0]);
    const store = await open();
    put(store, 0, 5);
    await store.flush();
    expectAll(await open(), 0, 5);
  });

  it('a flipped bit in a value is noticed: that value is gone with a warning, the next one is right', async () => {
    const path = await filled();
    const bytes = await readFile(path);
    const at = bytes.indexOf(new Uint8Array(features(42).buffer));
    bytes[at + 3] = (bytes[at + 3] ?? 0) ^ 16;
    await writeFile(path, bytes);
    const notes: string[] = [];
    const store = await open({ note: (text) => notes.push(text) });
    expect(store.warnings).toEqual([]);
    expect(store.get(sha(42))).toBeUndefined();
    expect(store.has(sha(42))).toBe(false);
    expect(notes.join()).toMatch(
      new RegExp(`value of image ${sha(42).toString('hex')} is computed again, as it is damaged in .*arrow`),
    );
    expect(bits(store.get(sha(43)))).toEqual(bits(features(43)));
    store.put(sha(42), features(42));
    await store.flush();
    expect(bits((await open()).get(sha(42)))).toEqual(bits(features(42)));
  });

  it('features under the hash of another image are not given out', async () => {
    const path = await filled();
    const bytes = await readFile(path);
    const [a, b] = [bytes.indexOf(sha(3)), bytes.indexOf(sha(4))];
    sha(4).copy(bytes, a);
    sha(3).copy(bytes, b);
    await writeFile(path, bytes);
    const store = await open();
    expect(store.get(sha(3))).toBeUndefined();
    expect(store.get(sha(4))).toBeUndefined();
    expect(bits(store.get(sha(5)))).toEqual(bits(features(5)));
  });

  it('any byte changed anywhere costs features at most, never a wrong one', async () => {
    const path = await filled();
    const whole = await readFile(path);
    for (let at = 0; at < whole.length; at += at < 1200 ? 31 : 601) {
      const bytes = Buffer.from(whole);
      bytes[at] = (bytes[at] ?? 0) ^ 0x41;
      await writeFile(path, bytes);
      const store = await open();
      for (const i of [0, 100, 199, 200, 299]) {
        const got = store.get(sha(i));
        if (got && !isRight(got, i)) throw new Error(`byte ${at} changed gave wrong features for ${i}`);
      }
      store.close();
    }
  });

  it('learns at each flush what another store has written meanwhile', async () => {
    const [one, two] = [await open(), await open()];
    put(one, 0, 100);
    await one.flush();
    expect(two.size).toBe(0);
    put(two, 100, 150);
    await two.flush();
    expectAll(two, 0, 150);
    put(one, 150, 160); // the same file, longer
    await one.flush();
    put(two, 160, 161);
    await two.flush();
    expectAll(two, 0, 161);
    expect(await readdir(folder)).toHaveLength(2);
  });

  it('opens 200 files with 128 open at a time', async () => {
    for (let i = 0; i < 200; i++) {
      const handle = await openFile(
        join(folder, `features-abc123-00000000-0000-0000-0000-${String(i).padStart(12, '0')}.arrow`),
        'ax',
      );
      const batch = new FeatureBatch(15);
      batch.add(sha(i), features(i));
      await new FeatureFileWriter(handle, { key: 'abc123', shape: [5, 3] }).append(batch);
      await handle.close();
    }
    const before = (await readdir('/proc/self/fd')).length;
    const store = await open();
    expect(store.size).toBe(200);
    expectAll(store, 0, 200);
    expect((await readdir('/proc/self/fd')).length - before).toBeLessThanOrEqual(130);
  });

  it('writes nothing beyond its bound, counts files of other keys, and says so once', async () => {
    const other = await open({ key: 'other' });
    put(other, 0, 256);
    await other.flush();
    const { size } = await stat(await ownFile());
    const notes: string[] = [];
    const store = await open({ maxBytes: size + 40_000, note: (text) => notes.push(text) });
    put(store, 0, 256); // 26 kB
    await store.flush();
    put(store, 256, 512);
    await store.flush();
    put(store, 512, 513);
    await store.flush();
    expect(store.size).toBe(256);
    expectAll(store, 0, 256);
    expect(store.get(sha(256))).toBeUndefined();
    const sizes = await Promise.all(
      (await readdir(folder)).map(async (name) => (await stat(join(folder, name))).size),
    );
    expect(sizes.reduce((sum, one) => sum + one, 0)).toBeLessThanOrEqual(size + 40_000);
    expect(notes).toHaveLength(1);
    expect(notes[0]).toMatch(
      /has its .* GB \(raise data\.featureCacheGB, or delete files .* features-abc123-: .* GB of other/,
    );
    expectAll(await open(), 0, 256);
  });

  it('goes on in a new file where somebody has deleted its own', async () => {
    const store = await open();
    put(store, 0, 10);
    await store.flush();
    await rm(await ownFile());
    put(store, 10, 20);
    await store.flush();
    expect(store.warnings).toEqual([]);
    expectAll(await open(), 10, 20);
  });

  it('a disk that fails while writing ends the keeping, not the run: said once, what is there stays', async () => {
    await filled();
    const store = await open();
    put(store, 300, 310);
    await store.flush();
    const append = vi.spyOn(FeatureFileWriter.prototype, 'append').mockImplementation(async function (
      this: FeatureFileWriter,
    ) {
      await (this as unknown as { handle: { write(text: string): Promise<void> } }).handle.write(
        'half a batch',
      );
      throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
    });
    put(store, 310, 320);
    await store.flush();
    put(store, 320, 330);
    await store.flush();
    expect(append).toHaveBeenCalledTimes(1);
    expect(store.warnings).toEqual([
      expect.stringMatching(/nothing more is kept.*no space left on the device/),
    ]);
    expect(store.get(sha(310))).toBeUndefined();
    expectAll(store, 0, 310);
    const again = await open();
    expect(again.warnings).toEqual([]); // the half batch was cut off
    expectAll(again, 0, 310);
  });

  it('a folder that cannot be made, or is deleted meanwhile, is said once and costs the cache only', async () => {
    await writeFile(join(folder, 'file'), '');
    const notes: string[] = [];
    const none = await FeatureStore.open(join(folder, 'file', 'features'), {
      key: 'abc123',
      shape: [5, 3],
      note: (text) => notes.push(text),
    });
    put(none, 0, 300);
    await none.flush();
    expect(none.size).toBe(0);
    expect(notes).toEqual([expect.stringMatching(/nothing more is kept.*a part of the path is a file/)]);
    const store = await open();
    await rm(folder, { recursive: true });
    put(store, 0, 300);
    await store.flush();
    expect(store.warnings).toEqual([expect.stringMatching(/nothing more is kept.*no such file or folder/)]);
    await writeFile(folder, '');
  });

  it('does not wait for a slow disk: what does not fit in four batches is not kept', async () => {
    const store = await open();
    let go: () => void = () => undefined;
    const stuck = new Promise<void>((resolve) => (go = resolve));
    // eslint-disable-next-line @typescript-eslint/unbound-method -- called with its own object below
    const { append } = FeatureFileWriter.prototype;
    vi.spyOn(FeatureFileWriter.prototype, 'append').mockImplementation(async function (
      this: FeatureFileWriter,
      batch,
    ) {
      await stuck;
      await append.call(this, batch);
    });
    put(store, 0, 10 * 256);
    expect(store.size).toBe(5 * 256);
    expectAll(store, 0, 5 * 256);
    expect(store.get(sha(5 * 256))).toBeUndefined();
    go();
    await store.flush();
    put(store, 2000, 2100);
    await store.flush();
    const again = await open();
    expect(again.size).toBe(5 * 256 + 100);
    expectAll(again, 0, 5 * 256);
  });

  it('refuses features of another shape', async () => {
    const store = await open();
    expect(() => store.put(sha(0), new Float32Array(14))).toThrow(/features must be \[5, 3\], got 14 values/);
  });
});
