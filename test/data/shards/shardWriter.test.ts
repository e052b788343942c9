import { createHash } from 'node:crypto';
import { mkdtemp, readFile, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { tableFromIPC } from 'apache-arrow';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { UserError } from '../../../src/errors.js';
import type { ImageTextPair } from '../../../src/data/pairs.js';
import { writeShards } from '../../../src/data/shards/shardWriter.js';
import { ShardSet } from '../../../src/data/shards/shards.js';

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'shard-writer-'));
});
afterEach(() => rm(folder, { recursive: true }));

/** 600 pairs with every kind of value: empty image, empty text, accents, nulls. */
export function* variedPairs(): Generator<ImageTextPair> {
  for (let i = 0; i < 600; i++) {
    yield {
      id: `id-${i}`,
      image: Uint8Array.from({ length: (i * 37) % 300 }, (_, j) => (i * 31 + j * 17) & 255),
      caption: i % 50 === 7 ? '' : `a caption – n° ${i}`,
      ...(i % 3 === 0 ? {} : { source: `source ${i % 5}` }),
      extra: i % 2 === 0 ? { label: `l${i}` } : { label: `l${i}`, tags: 'a, b' },
    };
  }
}

describe('writeShards', () => {
  it('writes batches of at most 256 rows, uncompressed, with a manifest of sizes and hashes', async () => {
    const out = join(folder, 'set');
    const manifest = await writeShards(out, variedPairs(), { rowsPerShard: 400, about: 'made up' });
    expect(await readdir(out)).toEqual(['manifest.json', 'part-00000.arrow', 'part-00001.arrow']);
    expect(JSON.parse(await readFile(join(out, 'manifest.json'), 'utf8'))).toEqual(manifest);
    expect(manifest).toMatchObject({
      version: 1,
      rows: 600,
      about: 'made up',
      columns: ['id', 'image', 'caption', 'source', 'label', 'tags'],
    });
    expect(manifest.shards.map(({ rows }) => rows)).toEqual([400, 200]);
    for (const shard of manifest.shards) {
      const bytes = await readFile(join(out, shard.file));
      expect(bytes.length).toBe(shard.bytes);
      expect(createHash('sha256').update(bytes).digest('hex')).toBe(shard.sha256);
    }
    const table = tableFromIPC(await readFile(join(out, 'part-00000.arrow')));
    expect(table.batches.map(({ numRows }) => numRows)).toEqual([256, 144]);
  });

  it('writes what pyarrow reads: the same hash over all values', async () => {
    await writeShards(join(folder, 'set'), variedPairs(), { rowsPerShard: 400 });
    const set = await ShardSet.open(join(folder, 'set'));
    const hash = createHash('sha256');
    for (let row = 0; row < set.rows; row++) {
      const { id, image, caption, source, extra } = await set.read(row);
      for (const value of [
        id,
        image,
        caption,
        source ?? '\0null',
        extra['label'] ?? '\0null',
        extra['tags'] ?? '\0null',
      ]) {
        hash.update(value).update('\n');
      }
    }
    // pyarrow 26.0.1, full validation: `python scripts/fixtures/shards.py check` of this very folder.
    expect(hash.digest('hex')).toBe('65c4e56dd6c287c1d2dcbce2fc3bceac16d095287b32d4ecf6303df1449053f2');
  });

  it('the same pairs make the same bytes, whatever the chunks they came in', async () => {
    async function* slowly() {
      for (const pair of variedPairs()) {
        await Promise.resolve();
        yield pair;
      }
    }
    const a = await writeShards(join(folder, 'a'), variedPairs());
    const b = await writeShards(join(folder, 'b'), slowly());
    expect(b).toEqual(a);
  });

  it('a source that fails leaves nothing behind, and is closed', async () => {
    let closed = false;
    function* failing() {
      try {
        yield* variedPairs();
        throw new Error('the disk of the source died');
      } finally {
        closed = true;
      }
    }
    await expect(writeShards(join(folder, 'set'), failing(), { rowsPerShard: 100 })).rejects.toThrow(
      'the disk of the source died',
    );
    expect(await readdir(folder)).toEqual([]);
    expect(closed).toBe(true);
  });

  it('refuses no pairs, a folder that is there, and a column that comes late', async () => {
    const write = (pairs: ImageTextPair[], options = {}) => writeShards(join(folder, 'set'), pairs, options);
    const one = { id: 'a', image: new Uint8Array(1), caption: 'b', extra: {} };
    await expect(write([])).rejects.toThrow(
      new UserError('writeShards: there must be at least one pair, got none (check the source)'),
    );
    await expect(write([one, { ...one, extra: { late: 'x' } }], { rowsPerBatch: 1 })).rejects.toThrow(
      /column "late" of pair a is not among/,
    );
    await expect(write([{ ...one, extra: { image: 'x' } }])).rejects.toThrow(/must not be named "image"/);
    await expect(write([one], { rowsPerBatch: 257 })).rejects.toThrow(/rowsPerBatch must be from 1 to 256/);
    await write([one]);
    await expect(write([one])).rejects.toThrow(/exists already and is not empty/);
    await write([{ ...one, id: 'new' }], { overwrite: true });
    expect((await (await ShardSet.open(join(folder, 'set'))).read(0)).id).toBe('new');
  });
});
