import { copyFile, mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { afterEach, describe, expect, it, vi } from 'vitest';

import { UserError } from '../src/errors.js';
import { mergeDelta } from '../src/mergeDelta.js';
import { loadTokenizer } from '../src/model/tokenizer/tokenizer.js';
import { openHuggingFaceFolder } from '../src/model/weights/huggingface.js';
import { openSafetensors, writeSafetensors } from '../src/model/weights/safetensors.js';
import { withLock } from '../src/setup/lock.js';
import { float32ToFloat16, toFloat32 } from '../src/tensorflow/halfFloats.js';
import { copyFixture, deltaPath } from './model/delta/deltaFixture.js';

/** Free blocks that the file system is made to report; undefined for its own answer. */
let freeBlocks: number | undefined;
vi.mock('node:fs/promises', async (original) => {
  const real = await original<typeof import('node:fs/promises')>();
  const statfs = async (path: string) => {
    const stats = await real.statfs(path);
    if (freeBlocks !== undefined) stats.bavail = freeBlocks;
    return stats;
  };
  return { ...real, statfs };
});
afterEach(() => {
  freeBlocks = undefined;
});

/** Everything in a folder, by name. */
async function contents(folder: string): Promise<Record<string, Buffer>> {
  const names = (await readdir(folder)).sort();
  return Object.fromEntries(
    await Promise.all(names.map(async (name) => [name, await readFile(join(folder, name))] as const)),
  );
}

/** Makes a folder's weights one safetensors file. */
async function toSafetensors(folder: string): Promise<void> {
  const source = await openHuggingFaceFolder(folder);
  const entries = source.names().map((name) => {
    return { ...source.info(name), read: async () => (await source.read(name)).data };
  });
  await writeSafetensors(join(folder, 'model.safetensors'), entries);
  await source.close();
}

describe('mergeDelta', () => {
  it('gives torch’s merge bit for bit, with the delta’s configuration and tokenizer', async () => {
    const { base, delta, out } = await copyFixture();
    const merged = await mergeDelta(base, delta, out, { shardBytes: 20_000 });
    expect(merged).toMatchObject({ folder: out, tensors: 21, baseRows: 600, rows: 601, sizeBytes: 47328 });
    const [ours, theirs] = [
      await openHuggingFaceFolder(out),
      await openSafetensors(deltaPath('merged.safetensors')),
    ];
    expect(ours.names().sort()).toEqual(theirs.names().sort());
    for (const name of theirs.names()) expect(await ours.read(name), name).toEqual(await theirs.read(name));
    expect(ours.config['vocab_size']).toBe(601);
    for (const source of [ours, theirs]) await source.close();
    const [made, given] = [await contents(out), await contents(delta)];
    for (const name of Object.keys(given).filter((name) => !name.startsWith('pytorch_model')))
      expect(made[name], name).toEqual(given[name]);
    expect(Object.keys(made).filter((name) => !(name in given))).toEqual([
      'merge-delta.json',
      'model-00001-of-00003.safetensors',
      'model-00002-of-00003.safetensors',
      'model-00003-of-00003.safetensors',
      'model.safetensors.index.json',
    ]);
    expect((await loadTokenizer(out)).encode('a dog').length).toBeGreaterThan(0);
  });

  it('gives the same bytes from safetensors, elsewhere and again; the record names hashes and no paths', async () => {
    const [one, two] = [await copyFixture(), await copyFixture()];
    await toSafetensors(two.base);
    await toSafetensors(two.delta);
    await mergeDelta(one.base, one.delta, one.out);
    await mergeDelta(two.base, two.delta, join(two.root, 'deeper', 'elsewhere'));
    const made = await contents(one.out);
    const again = await contents(join(two.root, 'deeper', 'elsewhere'));
    expect(again).toEqual(made);
    expect(Object.keys(made)).toContain('model-00001-of-00001.safetensors');
    const record = JSON.parse(made['merge-delta.json']?.toString() ?? '') as Record<string, unknown>;
    expect(record).toMatchObject({ version: 1, base: 'base', delta: 'delta', baseRows: 600, rows: 601 });
    expect(JSON.stringify(record)).not.toContain(one.root);
    expect(Object.keys(record['tensors'] as object)).toHaveLength(21);
  });

  it('reports bytes merged, then bytes read back, each to the end', async () => {
    const { base, delta, out } = await copyFixture();
    const reports: string[] = [];
    await mergeDelta(base, delta, out, {
      onProgress: ({ task, doneBytes, totalBytes }) => reports.push(`${task} ${doneBytes}/${totalBytes}`),
    });
    expect(reports).toHaveLength(2 * 22);
    expect([reports[0], reports[21], reports[22], reports[43]]).toEqual([
      'merging 0/47328',
      'merging 47328/47328',
      'reading back 0/47328',
      'reading back 47328/47328',
    ]);
  });

  it('tells notes before it writes', async () => {
    const { root, base, delta, out } = await copyFixture();
    await writeFile(join(delta, 'special_tokens_map.json'), '{"bos_token": "</s>", "eos_token": "</s>"}');
    const notes: string[] = [];
    await mergeDelta(base, delta, out, {
      onNote: (text) => notes.push(text),
      onProgress: () => expect(notes).toHaveLength(1),
    });
    expect(notes).toEqual([expect.stringContaining('says "</s>"')]);
    expect((await readdir(root)).sort()).toEqual(['base', 'delta', 'vicuna']);
  });

  it.each([
    ['merging', 'half-way'],
    ['reading back', 'while it is read back'],
  ])('leaves nothing if it is stopped: %s', async (when) => {
    const { root, base, delta, out } = await copyFixture();
    const stop = new AbortController();
    const merging = mergeDelta(base, delta, out, {
      signal: stop.signal,
      onProgress: ({ task, doneBytes = 0 }) =>
        task === when && doneBytes > 20_000 ? stop.abort() : undefined,
    });
    await expect(merging).rejects.toThrow(expect.objectContaining({ name: 'AbortError' }));
    expect((await readdir(root)).sort()).toEqual(['base', 'delta']);
  });

  it('refuses a sum that is not finite, naming the tensor, and leaves nothing', async () => {
    const { root, base, delta, out } = await copyFixture();
    const source = await openHuggingFaceFolder(base);
    const entries = source.names().map((name) => ({
      ...source.info(name),
      read: async () => {
        const { data } = await source.read(name);
        if (name === 'lm_head.weight') data.set(float32ToFloat16(Float32Array.of(NaN)), 2 * 16 * 7);
        return data;
      },
    }));
    await writeSafetensors(join(base, 'model.safetensors'), entries);
    await source.close();
    const merging = mergeDelta(base, delta, out);
    await expect(merging).rejects.toThrow(UserError);
    await expect(merging).rejects.toThrow('got NaN at element 112 of lm_head.weight');
    expect((await readdir(root)).sort()).toEqual(['base', 'delta']);
  });

  it('says how much space is missing and where, before it writes', async () => {
    const { root, base, delta, out } = await copyFixture();
    freeBlocks = 1;
    const merging = mergeDelta(base, delta, out);
    await expect(merging).rejects.toThrow(UserError);
    await expect(merging).rejects.toThrow(
      /^merge-delta: the merged model needs 17 MB in \S+vicuna, got 1 MB free \(free some space, or choose an --out on a larger disk\)$/,
    );
    expect((await readdir(root)).sort()).toEqual(['base', 'delta']);
  });

  it('keeps what is there, but for an earlier merge with force', async () => {
    const { root, base, delta, out } = await copyFixture();
    await mkdir(out);
    await mergeDelta(base, delta, out); // an empty folder may be there
    await expect(mergeDelta(base, delta, out)).rejects.toThrow(
      /must be a new folder, got one that holds .*--force/,
    );
    await writeFile(join(out, 'stale'), '');
    await mergeDelta(base, delta, out, { force: true });
    expect(await readdir(out)).not.toContain('stale');
    await expect(mergeDelta(base, delta, base, { force: true })).rejects.toThrow('without merge-delta.json');
    await copyFile(join(out, 'merge-delta.json'), join(root, 'merge-delta.json'));
    await expect(mergeDelta(base, delta, root, { force: true })).rejects.toThrow(
      'must not hold base or delta',
    );
    expect((await readdir(root)).sort()).toEqual(['base', 'delta', 'merge-delta.json', 'vicuna']);
  });

  it('keeps the earlier merge if the new one fails', async () => {
    const { base, delta, out } = await copyFixture();
    await mergeDelta(base, delta, out);
    const before = await contents(out);
    const stop = new AbortController();
    const onProgress = ({ task }: { task: string }) => (task === 'reading back' ? stop.abort() : undefined);
    await expect(
      mergeDelta(base, delta, out, { force: true, signal: stop.signal, onProgress }),
    ).rejects.toThrow();
    expect(await contents(out)).toEqual(before);
  });

  it('removes what a killed merge left beside its folder, and nothing else', async () => {
    const { root, base, delta, out } = await copyFixture();
    let left = '';
    await mergeDelta(base, delta, out, {
      onProgress: ({ doneBytes }) => {
        if (doneBytes === 0) return;
        void readdir(root).then((names) => (left ||= names.find((name) => name.endsWith('.tmp')) ?? ''));
      },
    });
    expect(left).toMatch(/^\.vicuna\.[0-9a-f]{8}\.tmp$/);
    await rename(out, join(root, left)); // as it is when the process dies just before the end
    const others = ['.vicuna-2.01234567.tmp', '.vicuna.notours.tmp', 'vicuna.01234567.tmp'];
    for (const name of others) await mkdir(join(root, name));
    await mergeDelta(base, delta, out);
    expect((await readdir(root)).sort()).toEqual([...others, 'base', 'delta', 'vicuna'].sort());
  });

  it('refuses to write where another merge does', async () => {
    const { root, base, delta, out } = await copyFixture();
    await withLock(join(root, '.vicuna.lock'), async () => {
      const merging = mergeDelta(base, delta, out);
      await expect(merging).rejects.toThrow(UserError);
      await expect(merging).rejects.toThrow(
        /^merge-delta: another process must be done, got \S+\.vicuna\.lock still held by \S+ \(delete that folder if no merge-delta is running\)$/,
      );
    });
    expect((await readdir(root)).sort()).toEqual(['base', 'delta']);
  });

  it('writes a merged model in the delta’s dtype', async () => {
    const { base, delta, out } = await copyFixture();
    const source = await openHuggingFaceFolder(base);
    const entries = source.names().map((name) => ({
      ...source.info(name),
      dtype: 'float32' as const,
      read: async () => new Uint8Array(toFloat32(await source.read(name)).slice().buffer),
    }));
    await writeSafetensors(join(base, 'model.safetensors'), entries);
    await source.close();
    const notes: string[] = [];
    await mergeDelta(base, delta, out, { onNote: (text) => notes.push(text) });
    expect(notes).toEqual([expect.stringContaining('float32 to float16')]);
    const [ours, theirs] = [
      await openHuggingFaceFolder(out),
      await openSafetensors(deltaPath('merged.safetensors')),
    ];
    for (const name of theirs.names()) expect(await ours.read(name), name).toEqual(await theirs.read(name));
    for (const opened of [ours, theirs]) await opened.close();
  });
});
