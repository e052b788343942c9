import { createHash } from 'node:crypto';
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { UserError } from '../../src/errors.js';
import { extractWheel, listWheel } from '../../src/setup/wheel.js';
import { makeZip, type Entry } from './zipFixture.js';

let scratch: string;
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'wheel-'));
});
afterAll(() => rm(scratch, { recursive: true }));

let count = 0;
async function zipFile(bytes: Buffer): Promise<string> {
  const path = join(scratch, `${++count}.whl`);
  await writeFile(path, bytes);
  return path;
}
const freshFolder = () => join(scratch, `out-${++count}`);
const all = () => true;

/** Two and a half megabytes that neither compress away nor repeat: more than one chunk either way. */
function noise(): Buffer {
  const blocks = Array.from({ length: 80_000 }, (_, i) => createHash('sha256').update(String(i)).digest());
  return Buffer.concat(blocks);
}

describe('extractWheel', () => {
  const members: Entry[] = [
    { name: 'pkg/a.txt', data: Buffer.from('alpha '.repeat(1000)) },
    { name: 'pkg/deep/er/b.bin', data: noise() },
    { name: 'pkg/deep/c.bin', data: noise().subarray(7), stored: true },
    { name: 'pkg/empty', data: Buffer.alloc(0) },
    { name: 'pkg/folder/', data: Buffer.alloc(0), stored: true },
    { name: 'pkg-1.dist-info/RECORD', data: Buffer.from('x') },
  ];

  it.each([
    ['plain', members, {}],
    ['Zip64', members.map((member) => ({ ...member, zip64: true })), { zip64: true }],
    [
      'with a comment that looks like an end record',
      members,
      { comment: 'PK\u0005\u0006 PK\u0005\u0006 comment' },
    ],
  ])('%s: wanted members come out byte for byte, others not at all', async (_, entries, options) => {
    const wheel = await zipFile(makeZip(entries, options));
    const folder = freshFolder();
    const names = await extractWheel(wheel, folder, { wanted: (name) => name.startsWith('pkg/') });
    expect(names).toEqual(['pkg/a.txt', 'pkg/deep/er/b.bin', 'pkg/deep/c.bin', 'pkg/empty']);
    for (const { name, data } of members.slice(0, 4))
      expect((await readFile(join(folder, name))).equals(data)).toBe(true);
    expect(await readdir(folder)).toEqual(['pkg']);
    expect(await listWheel(wheel)).toHaveLength(5);
  });

  it('progress ends at the sum of the sizes', async () => {
    const wheel = await zipFile(makeZip(members));
    const seen: (number | undefined)[] = [];
    await extractWheel(wheel, freshFolder(), {
      wanted: (name) => name.endsWith('.bin'),
      onProgress: ({ doneBytes, totalBytes }) => seen.push(doneBytes, totalBytes),
    });
    expect(seen.slice(-2)).toEqual([5_119_993, 5_119_993]);
    expect(seen.length).toBeGreaterThan(6);
  });

  it.each<[string, Entry[], RegExp]>([
    [
      '../evil',
      [{ name: '../evil', data: Buffer.from('x') }],
      /must stay inside their folder, got "\.\.\/evil"/,
    ],
    ['a/../../evil', [{ name: 'a/../../evil', data: Buffer.from('x') }], /must stay inside/],
    ['/etc/evil', [{ name: '/etc/evil', data: Buffer.from('x') }], /must stay inside/],
    ['a\\..\\evil', [{ name: 'a\\..\\evil', data: Buffer.from('x') }], /must stay inside/],
    ['C:evil', [{ name: 'C:evil', data: Buffer.from('x') }], /must stay inside/],
    [
      'a name twice',
      [
        { name: 'a', data: Buffer.from('x') },
        { name: 'a', data: Buffer.from('y') },
      ],
      /got a twice/,
    ],
    [
      'a wrong checksum',
      [{ name: 'a', data: Buffer.from('xyz'), lie: { crc32: 1 } }],
      /a with a wrong checksum/,
    ],
    [
      'more bytes than stated',
      [{ name: 'a', data: Buffer.alloc(5000), lie: { sizeBytes: 10 } }],
      /a longer than it says/,
    ],
    [
      'a large member with more bytes',
      [{ name: 'a', data: Buffer.alloc(900_000), lie: { sizeBytes: 300_000 } }],
      /a longer than it says/,
    ],
    [
      'a small member that unpacks to much',
      [{ name: 'a', data: Buffer.alloc(900_000), lie: { sizeBytes: 10 } }],
      /a not decompressible/,
    ],
    [
      'a large wrong checksum',
      [{ name: 'a', data: Buffer.alloc(900_000), lie: { crc32: 1 } }],
      /a with a wrong checksum/,
    ],
    [
      'fewer bytes than stated',
      [{ name: 'a', data: Buffer.alloc(5), lie: { sizeBytes: 10 } }],
      /a with 5 of 10 bytes/,
    ],
    ['encryption', [{ name: 'a', data: Buffer.from('x'), lie: { flags: 1 } }], /must not be encrypted/],
    [
      'another compression',
      [{ name: 'a', data: Buffer.from('x'), lie: { method: 12 } }],
      /got method 12 for a/,
    ],
    [
      'stored bytes called deflated',
      [{ name: 'a', data: Buffer.from('\xff\xff\xff'), stored: true, lie: { method: 8 } }],
      /a not decompressible/,
    ],
  ])('%s is refused, and no folder is left', async (_, entries, message) => {
    const wheel = await zipFile(makeZip(entries));
    const folder = freshFolder();
    await expect(extractWheel(wheel, folder, { wanted: all })).rejects.toThrow(message);
    await expect(extractWheel(wheel, folder, { wanted: all })).rejects.toThrow(UserError);
    expect((await readdir(scratch)).filter((name) => name.includes(basename(folder)))).toEqual([]);
  });

  it('a cut file is refused wherever it is cut', async () => {
    const bytes = makeZip(members.slice(0, 1).concat(members.slice(3)));
    for (const length of [0, 10, 40, bytes.length - 100, bytes.length - 23, bytes.length - 1]) {
      const wheel = await zipFile(bytes.subarray(0, length));
      await expect(extractWheel(wheel, freshFolder(), { wanted: all })).rejects.toThrow(
        /must be a whole zip file/,
      );
    }
    // its beginning lost: the table of contents points past the end or at something else
    const wheel = await zipFile(bytes.subarray(50));
    await expect(extractWheel(wheel, freshFolder(), { wanted: all })).rejects.toThrow(UserError);
  });

  it('a wheel without the wanted files, and one that is missing, are messages', async () => {
    const wheel = await zipFile(makeZip(members));
    await expect(extractWheel(wheel, freshFolder(), { wanted: () => false })).rejects.toThrow(
      /got none of them/,
    );
    await expect(extractWheel(join(scratch, 'none.whl'), freshFolder(), { wanted: all })).rejects.toThrow(
      /no such file/,
    );
  });

  it('a member larger than the free disk is refused before anything is written', async () => {
    const wheel = await zipFile(
      makeZip([{ name: 'a', data: Buffer.alloc(100), zip64: true, lie: { sizeBytes: 200_000 } }]),
    );
    await expect(extractWheel(wheel, freshFolder(), { wanted: all })).rejects.toThrow(
      /a with 100 of 200000 bytes/,
    );
    const huge = await zipFile(
      makeZip([{ name: 'a', data: Buffer.alloc(100), zip64: true, lie: { sizeBytes: 2 ** 52 } }]),
    );
    await expect(extractWheel(huge, freshFolder(), { wanted: all })).rejects.toThrow(/a size or position of/);
  });
});
