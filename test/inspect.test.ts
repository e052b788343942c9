import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { writeShards } from '../src/data/shards/shardWriter.js';
import { UserError } from '../src/errors.js';
import { inspectPath } from '../src/inspect.js';
import { FileServer } from './helpers/fileServer.js';

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'inspect-'));
  const pairs = Array.from({ length: 5 }, (_, i) => ({
    id: `p${i}`,
    image: Uint8Array.from([0xff, 0xd8, ...Array<number>(i).fill(0)]),
    caption: `caption  ${i}`,
    extra: { url: 'u' },
  }));
  await writeShards(join(folder, 'set'), pairs, { rowsPerShard: 3, about: 'made for a test' });
});
afterAll(() => rm(folder, { recursive: true }));

const description = (place: string) => [
  `${place}: 5 pairs in 2 Arrow file shards`,
  'about: made for a test',
  'columns:',
  '  id: Utf8',
  '  image: Binary',
  '  caption: Utf8',
  '  url: Utf8',
  'samples:',
  '  p0: 2 bytes of JPEG, "caption 0"',
  '  p1: 3 bytes of JPEG, "caption 1"',
  'checksums agree with manifest.json',
];

describe('inspect', () => {
  it('a folder of shards: columns, samples, checksums, with progress', async () => {
    const seen: [number, number][] = [];
    const place = join(folder, 'set');
    const lines = await inspectPath(place, { samples: 2, onProgress: (...state) => seen.push(state) });
    expect(lines).toEqual(description(place));
    expect(seen).toHaveLength(2);
    expect(seen[1]?.[0]).toBe(seen[1]?.[1]);
  });

  it('the same folder behind http, its secret not shown', async () => {
    const names = await readdir(join(folder, 'set'));
    const files = names.map(
      async (name) => [`/set/${name}`, new Uint8Array(await readFile(join(folder, 'set', name)))] as const,
    );
    const server = await FileServer.start(Object.fromEntries(await Promise.all(files)));
    try {
      const lines = await inspectPath(server.at('/set?token=s3cret'), { samples: 2 });
      expect(lines).toEqual(description(server.at('/set?…')));
    } finally {
      await server.stop();
    }
  });

  it('one shard without a manifest: every batch is read', async () => {
    const place = join(folder, 'set', 'part-00001.arrow');
    const lines = await inspectPath(place, { samples: 0 });
    expect(lines[0]).toBe(`${place}: 2 pairs in 1 Arrow file shard`);
    expect(lines.at(-1)).toBe('every batch reads');
    expect(await inspectPath(place, { samples: 0, verify: false })).not.toContain('every batch reads');
  });

  it('a folder as datasets.save_to_disk leaves it is a set of shards, not a checkpoint', async () => {
    const place = join(folder, 'saved');
    await mkdir(place);
    await copyFile(join(folder, 'set', 'part-00001.arrow'), join(place, 'data-00000-of-00001.arrow'));
    const state = { _data_files: [{ filename: 'data-00000-of-00001.arrow' }], _split: 'train' };
    await writeFile(join(place, 'state.json'), JSON.stringify(state));
    await writeFile(join(place, 'dataset_info.json'), '{}');
    expect((await inspectPath(place))[0]).toBe(`${place}: 2 pairs in 1 Arrow file shard`);
  });

  it('a flipped bit is found by verifying alone', async () => {
    const path = join(folder, 'set', 'part-00000.arrow');
    const whole = await readFile(path);
    const damaged = Buffer.from(whole);
    const at = damaged.indexOf('caption  1');
    damaged[at] = (damaged[at] ?? 0) ^ 1;
    await writeFile(path, damaged);
    await expect(inspectPath(join(folder, 'set'))).rejects.toThrow(/SHA-256 must be .*part-00000\.arrow/);
    await expect(inspectPath(join(folder, 'set'))).rejects.toThrow(UserError);
    expect(await inspectPath(join(folder, 'set'), { verify: false })).toContainEqual(
      expect.stringContaining('baption  1'.replace(/\s+/g, ' ')),
    );
    await writeFile(path, whole);
  });

  it('what it cannot read is refused with what it can', async () => {
    await writeFile(join(folder, 'notes.txt'), 'x');
    await expect(inspectPath(join(folder, 'notes.txt'))).rejects.toThrow(/inspect: reads \.arrow, /);
  });
});
