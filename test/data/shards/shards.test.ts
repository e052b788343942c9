import { createHash } from 'node:crypto';
import { copyFile, mkdtemp, readFile, rm, stat, truncate, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { UserError } from '../../../src/errors.js';
import { failure } from '../../helpers/failure.js';
import type { ImageTextPair } from '../../../src/data/pairs.js';
import { writeShards } from '../../../src/data/shards/shardWriter.js';
import { ShardSet } from '../../../src/data/shards/shards.js';
import { memoryFile } from '../../helpers/memoryFile.js';

const fixtures = fileURLToPath(new URL('../../fixtures/shards/', import.meta.url));
// Written by scripts/fixtures/shards.py in this very shape.
const expected = JSON.parse(await readFile(join(fixtures, 'expected.json'), 'utf8')) as {
  rows: { id: string; imageSha256: string; caption: string }[];
};
const sha = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'shards-'));
});
afterEach(() => rm(folder, { recursive: true }));

const pair = (i: number): ImageTextPair => ({
  id: `p${i}`,
  image: new Uint8Array(20 + i).fill(i),
  caption: `caption ${i}`,
  extra: { label: `label ${i}` },
});
const pairs = (n: number) => Array.from({ length: n }, (_, i) => pair(i));

async function readAll(set: ShardSet): Promise<ImageTextPair[]> {
  return Promise.all(Array.from({ length: set.rows }, (_, row) => set.read(row)));
}

/** Flips one bit of each `every`. byte in turn, and reads all rows; how often that was found. */
async function faultsOfFlips(whole: Uint8Array, every: number): Promise<number> {
  let faults = 0;
  for (let at = 0; at < whole.length; at += every) {
    const bytes = whole.slice();
    bytes[at] = (bytes[at] ?? 0) ^ (1 << (Math.imul(at + 1, 0x9e3779b1) >>> 29)); // any of the eight
    const result: unknown = await ShardSet.ofFiles([memoryFile(bytes)])
      .then(readAll)
      .catch((caught: unknown) => caught);
    expectPairsOrError(result);
    faults += Array.isArray(result) ? 0 : 1;
  }
  return faults;
}

/** A batch may be lost with its entry in the footer; none is made up. */
function expectPairsOrError(result: unknown): void {
  if (!Array.isArray(result)) {
    expect(result).toBeInstanceOf(UserError);
    return;
  }
  expect(result.length).toBeGreaterThan(0);
  expect(result.length).toBeLessThanOrEqual(10);
}

describe('files that pyarrow wrote', () => {
  it.each([
    ['plain', 'id'],
    ['lz4', 'id'],
    ['zstd', 'id'],
    ['large', 'id'],
    ['large_zstd', 'id'],
    ['dictionary', 'id'],
    ['dictionary_lz4', 'id'],
    ['dictionary_stream', 'id'],
    ['dictionary_replaced_stream', 'id'],
    ['dictionary_delta_stream', 'id'],
    ['view', 'id'],
    ['integer_id', (row: number) => String(100 + row)],
    ['huggingface_file', String],
    ['huggingface_stream', String],
  ])('%s.arrow reads as the rows that were written, in any order', async (name, id) => {
    const set = await ShardSet.open(join(fixtures, `${name}.arrow`));
    expect(set.rows).toBe(10);
    for (const row of [9, 0, 4, 3, 8, 1, 2, 5, 6, 7]) {
      const read = await set.read(row);
      const reference = expected.rows[row];
      expect(read.id).toBe(id === 'id' ? reference?.id : (id as (row: number) => string)(row));
      expect(sha(read.image)).toBe(reference?.imageSha256);
      expect(read.caption).toBe(reference?.caption);
    }
    await set.verify();
    set.close();
  });

  it('brings source and the other text columns; a null has no entry, a number column is left out', async () => {
    const set = await ShardSet.open(join(fixtures, 'plain.arrow'));
    expect(set.extraColumns).toEqual(['licence']);
    expect(await set.read(2)).toMatchObject({ source: 'web', extra: { licence: 'MIT' } });
    expect((await set.read(3)).extra).toEqual({});
  });

  it('a null image or caption comes as an empty one, for the caller to count as a bad sample', async () => {
    const set = await ShardSet.open(join(fixtures, 'nulls.arrow'));
    expect((await set.read(3)).image).toEqual(new Uint8Array(0));
    expect((await set.read(4)).caption).toBe('');
    expect((await set.read(4)).image.length).toBe(62);
  });

  it.each(['struct_nulls', 'struct_nulls_zstd'])(
    'of %s.arrow a null struct is no image, whatever bytes lie beneath it',
    async (name) => {
      const set = await ShardSet.open(join(fixtures, `${name}.arrow`));
      const images = (await readAll(set)).map(({ image }) => (image.length === 0 ? '' : sha(image)));
      expect(images).toEqual(expected.rows.map(({ imageSha256 }, row) => (row === 3 ? '' : imageSha256)));
    },
  );

  it.each([
    ['run_end_encoded', 'RunEndEncoded'],
    ['list_view_stream', 'ListView'],
  ])('%s.arrow is sound, and has a column of a type that is not read here', async (name, type) => {
    const path = join(fixtures, `${name}.arrow`);
    expect(await failure(ShardSet.open(path))).toBe(
      `shards: a column is of a type that is not read here, ${type}: ${path} (leave it out, or write it as a plain column)`,
    );
  });

  it.each([
    ['no_image', /column "image" is missing, got id, caption: .*no_image\.arrow \(/],
    ['image_is_text', /column "image" must be Binary or Struct<bytes: Binary>, got Utf8: /],
    ['no_caption', /column "caption" \(or "text"\) is missing, got id, image: /],
    ['caption_is_number', /column "caption" must be Utf8, got Int: /],
    ['no_rows', /the file has no rows: /],
  ])('%s.arrow is refused with the column and its type', async (name, message) => {
    expect(await failure(ShardSet.open(join(fixtures, `${name}.arrow`)))).toMatch(message);
  });
});

describe('a set of shards', () => {
  it('reads back every pair that was written, across shards and batches, in parallel', async () => {
    const out = join(folder, 'set');
    await writeShards(out, pairs(25), { rowsPerShard: 10, rowsPerBatch: 4 });
    const set = await ShardSet.open(out);
    expect(set.paths.map((path) => path.slice(out.length + 1))).toEqual([
      'part-00000.arrow',
      'part-00001.arrow',
      'part-00002.arrow',
    ]);
    expect(await readAll(set)).toEqual(pairs(25));
    await set.verify();
  });

  it('says where a row is', async () => {
    await writeShards(join(folder, 'set'), pairs(25), { rowsPerShard: 10 });
    const set = await ShardSet.open(join(folder, 'set'));
    expect([0, 9, 10, 24].map((row) => set.location(row))).toEqual([
      { shard: 'part-00000.arrow', row: 0 },
      { shard: 'part-00000.arrow', row: 9 },
      { shard: 'part-00001.arrow', row: 0 },
      { shard: 'part-00002.arrow', row: 4 },
    ]);
    for (const row of [-1, 25, 0.5, NaN])
      await expect(set.read(row)).rejects.toThrow(/row must be a whole number/);
  });

  it('the bytes of a row are the caller’s own: changing them changes no other read', async () => {
    await writeShards(join(folder, 'set'), pairs(3));
    const set = await ShardSet.open(join(folder, 'set'));
    const first = await set.read(1);
    first.image.fill(255);
    expect((await set.read(1)).image).toEqual(pair(1).image);
    expect(first.image.buffer.byteLength).toBe(21); // does not hold the batch's buffer
  });

  it('a folder of .arrow files without a manifest is read in the order of names', async () => {
    await copyFile(join(fixtures, 'plain.arrow'), join(folder, 'b.arrow'));
    await copyFile(join(fixtures, 'lz4.arrow'), join(folder, 'a.arrow'));
    const set = await ShardSet.open(folder);
    expect(set.rows).toBe(20);
    expect(set.location(10)).toEqual({ shard: 'b.arrow', row: 0 });
    expect((await set.read(12)).caption).toBe(expected.rows[2]?.caption);
  });

  it('the fingerprint is the same for the same data and another for other data', async () => {
    await writeShards(join(folder, 'a'), pairs(5));
    await writeShards(join(folder, 'b'), pairs(5));
    await writeShards(join(folder, 'c'), [...pairs(4), { ...pair(4), caption: 'caption 5' }]);
    const [a, b, c] = await Promise.all(
      ['a', 'b', 'c'].map(async (name) => (await ShardSet.open(join(folder, name))).fingerprint),
    );
    expect(a).toMatch(/^[0-9a-f]{64}$/);
    expect(b).toBe(a);
    expect(c).not.toBe(a);
  });
});

describe('damage', () => {
  it.each([
    ['nothing there', (path: string) => unlink(path), /no such shard or folder.*x\.arrow \(check the path/],
    [
      'an empty file',
      (path: string) => writeFile(path, ''),
      /the file is empty: .*x\.arrow \(write or copy it again\)/,
    ],
    ['8 bytes', (path: string) => truncate(path, 8), /the file is cut short/],
    ['half a file', (path: string) => truncate(path, 1500), /the file is cut short/],
    [
      'a file without its last byte',
      async (path: string) => truncate(path, (await stat(path)).size - 1),
      /the file is cut short/,
    ],
    [
      'a web page',
      (path: string) => writeFile(path, '<!DOCTYPE html><html></html>'),
      /not an Arrow file, it begins with "<!DOCT"/,
    ],
    [
      'a footer length of 2 GB',
      (path: string) => patch(path, -10, [255, 255, 255, 127]),
      /the footer length is out of bounds/,
    ],
    [
      'a footer length of 0',
      (path: string) => patch(path, -10, [0, 0, 0, 0]),
      /the footer length is out of bounds/,
    ],
    ['a footer of zeros', (path: string) => patch(path, -300, Array<number>(280).fill(0)), /shards: /],
    ['a footer of ones', (path: string) => patch(path, -300, Array<number>(280).fill(255)), /shards: /],
  ])('%s is a user error that names the file', async (_, damage, message) => {
    const path = join(folder, 'x.arrow');
    await copyFile(join(fixtures, 'plain.arrow'), path);
    await damage(path);
    expect(await failure(ShardSet.open(path))).toMatch(message);
    expect(await failure(ShardSet.open(path))).toContain(path);
  });

  it('one flipped bit anywhere in a small shard: a user error, or pairs, and never a hang', async () => {
    await writeShards(join(folder, 'set'), pairs(4));
    const whole = new Uint8Array(await readFile(join(folder, 'set', 'part-00000.arrow')));
    expect(await faultsOfFlips(whole, 1)).toBeGreaterThan(whole.length / 10);
  });

  it.each(['large', 'lz4', 'zstd', 'view', 'dictionary', 'dictionary_stream', 'huggingface_stream'])(
    'one flipped bit in %s.arrow, at one byte in seventeen: the same',
    async (name) => {
      const whole = new Uint8Array(await readFile(join(fixtures, `${name}.arrow`)));
      expect(await faultsOfFlips(whole, 17)).toBeGreaterThan(whole.length / 100);
    },
  );

  it('a flipped bit that makes an offset of the footer negative is damage', async () => {
    const bytes = new Uint8Array(await readFile(join(fixtures, 'lz4.arrow')));
    bytes[2618] = (bytes[2618] ?? 0) ^ 16; // once kept the decoder busy until memory was full
    expect(await failure(ShardSet.ofFiles([memoryFile(bytes)]))).toMatch(/the file is damaged/);
  });

  it('several changed bytes: the same', async () => {
    const whole = new Uint8Array(await readFile(join(fixtures, 'plain.arrow')));
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(whole.length - 1), fc.integer({ min: 0, max: 255 })), {
          minLength: 1,
          maxLength: 6,
        }),
        async (changes) => {
          const bytes = whole.slice();
          for (const [at, value] of changes) bytes[at] = value;
          const result: unknown = await ShardSet.ofFiles([memoryFile(bytes)])
            .then(readAll)
            .catch((caught: unknown) => caught);
          expectPairsOrError(result);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('a stream-format file that is cut short is a user error', async () => {
    const path = join(folder, 'x.arrow');
    const whole = await readFile(join(fixtures, 'huggingface_stream.arrow'));
    for (const size of [9, 100, 700, whole.length - 100]) {
      await writeFile(path, whole.subarray(0, size));
      expect(await failure(ShardSet.open(path))).toMatch(/cut short or damaged|is damaged/);
    }
  });

  it('an empty folder says that nothing was packed', async () => {
    expect(await failure(ShardSet.open(folder))).toMatch(/no \.arrow file in the folder/);
  });

  it('a shard that the manifest lists must be there, and of its size', async () => {
    const out = join(folder, 'set');
    await writeShards(out, pairs(25), { rowsPerShard: 10 });
    const path = join(out, 'part-00001.arrow');
    const { size } = await stat(path);
    await truncate(path, size - 64);
    expect(await failure(ShardSet.open(out))).toMatch(
      new RegExp(`the manifest says ${size} bytes, got ${size - 64}: .*part-00001\\.arrow`),
    );
    await unlink(path);
    expect(await failure(ShardSet.open(out))).toMatch(
      /a shard that the manifest lists is missing.*part-00001\.arrow/,
    );
  });

  it('verify finds any flipped bit', async () => {
    const out = join(folder, 'set');
    await writeShards(out, pairs(6));
    const path = join(out, 'part-00000.arrow');
    const whole = await readFile(path);
    const set = await ShardSet.open(out);
    await set.verify();
    const anywhere = fc.tuple(fc.nat(whole.length - 1), fc.nat(7));
    await fc.assert(
      fc.asyncProperty(anywhere, async ([at, bit]) => {
        const bytes = Buffer.from(whole);
        bytes[at] = (bytes[at] ?? 0) ^ (1 << bit);
        await writeFile(path, bytes);
        expect(await failure(set.verify())).toMatch(/SHA-256 must be/);
      }),
      { numRuns: 40 },
    );
  });

  it('verify finds one flipped bit, which reading does not', async () => {
    const out = join(folder, 'set');
    await writeShards(out, pairs(25), { rowsPerShard: 10 });
    const path = join(out, 'part-00002.arrow');
    const bytes = await readFile(path);
    const at = bytes.indexOf(pair(22).image);
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    await writeFile(path, bytes);
    const set = await ShardSet.open(out);
    expect((await set.read(22)).image).not.toEqual(pair(22).image);
    expect(await failure(set.verify())).toMatch(
      /SHA-256 must be [0-9a-f]{64}, got [0-9a-f]{64}: .*part-00002\.arrow/,
    );
  });

  it.each([
    ['{', /the manifest is not JSON/],
    ['[]', /the manifest is not a JSON object/],
    ['{"version":2}', /version must be 1, got 2/],
    ['{"version":1,"rows":1,"columns":["id"],"shards":[]}', /shards must list file, rows, bytes and sha256/],
    [
      '{"version":1,"rows":1,"columns":["id"],"shards":[{"file":"../x","rows":1,"bytes":1,"sha256":""}]}',
      /shards must list/,
    ],
    [
      '{"version":1,"rows":2,"columns":["id"],"shards":[{"file":"x","rows":1,"bytes":1,"sha256":""}]}',
      /rows must be 1, .* got 2/,
    ],
  ])('the manifest %s is refused', async (text, message) => {
    await writeFile(join(folder, 'manifest.json'), text);
    expect(await failure(ShardSet.open(folder))).toMatch(message);
  });
});

/** Overwrites bytes at a position counted from the end. */
async function patch(path: string, fromEnd: number, values: number[]): Promise<void> {
  const bytes = await readFile(path);
  bytes.set(values, bytes.length + fromEnd);
  await writeFile(path, bytes);
}
