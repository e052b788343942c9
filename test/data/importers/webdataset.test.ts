import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, mkdtemp, readFile, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { finished } from 'node:stream/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { gzipSync } from 'node:zlib';
import { pack } from 'tar-stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { problemText, type ImportProblem } from '../../../src/data/importers/source.js';
import { readTars, tarsIn } from '../../../src/data/importers/webdataset.js';
import type { ImageTextPair } from '../../../src/data/pairs.js';
import { UserError } from '../../../src/errors.js';
import { readFixture } from '../../helpers/fixtures.js';
import { mulberry32 } from '../../helpers/random.js';

const FIXTURES = join(import.meta.dirname, '../../fixtures');
const STAGE1 = join(FIXTURES, 'minigpt4-tiny/data/stage1');
const END = Buffer.alloc(1024);

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tars-'));
});
afterEach(() => rm(folder, { recursive: true }));

async function collect(source: string): Promise<{ pairs: ImageTextPair[]; problems: ImportProblem[] }> {
  const pairs: ImageTextPair[] = [];
  const problems: ImportProblem[] = [];
  const onProblem = (problem: ImportProblem) =>
    problems.push({ where: problem.where, reason: problemText(problem) });
  for await (const pair of readTars(source, { onProblem })) pairs.push(pair);
  return { pairs, problems };
}

const shown = (pairs: readonly ImageTextPair[]) =>
  pairs.map(({ id, image, caption }) => [id, Buffer.from(image).toString(), caption]);

/** What Python's tarfile would give, by the format's own words: a reader that shares no code with the one tested. */
function plainMembers(tar: Buffer): Map<string, Buffer> {
  const text = (at: number, length: number) => tar.toString('latin1', at, at + length).replace(/\0.*$/s, '');
  const members = new Map<string, Buffer>();
  for (let at = 0; tar[at] !== 0;) {
    const size = parseInt(text(at + 124, 12), 8);
    members.set(text(at, 100), tar.subarray(at + 512, at + 512 + size));
    at += 512 + Math.ceil(size / 512) * 512;
  }
  return members;
}

/** One member, header and padding included; by default a file in the format of POSIX. */
function member(name: string, data: string | Buffer, type = '0', magic = 'ustar\x0000'): Buffer {
  const body = Buffer.from(data);
  const header = Buffer.alloc(512);
  header.write(name, 0, 100);
  header.write('0000644\0', 100);
  header.write(body.length.toString(8).padStart(11, '0') + ' ', 124);
  header.write('        ' + type, 148);
  header.write(magic, 257);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(sum.toString(8).padStart(6, '0') + '\0 ', 148);
  return Buffer.concat([header, body, Buffer.alloc((512 - (body.length % 512)) % 512)]);
}

/** Writes a tar of these members, in this order. */
async function writeTar(
  name: string,
  members: readonly (readonly [string, string | Buffer])[],
): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, Buffer.concat([...members.map(([file, data]) => member(file, data)), END]));
  return path;
}

const json = (caption: unknown, more = {}) => JSON.stringify({ caption, ...more });

describe('the reference tar', () => {
  it('gives MiniGPT-4’s captions and, byte for byte, the images that its tar holds', async () => {
    const expected = await readFixture<{
      images: { file: string; tar_key: string }[];
      stage1_captions: { raw: string }[];
    }>('minigpt4-tiny/expected.json');
    const path = join(STAGE1, '00000.tar');
    const { pairs, problems } = await collect(path);
    expect(problems).toEqual([]);
    expect(pairs.map(({ caption }) => caption)).toEqual(expected.stage1_captions.map(({ raw }) => raw));
    expect(pairs.map(({ id }) => id)).toEqual(expected.images.map(({ tar_key: key }) => `00000/${key}`));
    const members = plainMembers(await readFile(path));
    for (const [i, { file, tar_key: key }] of expected.images.entries()) {
      const image = Buffer.from(pairs[i]?.image ?? []);
      expect(image.equals(members.get(`${key}.jpg`) ?? Buffer.of())).toBe(true);
      expect(image.equals(await readFile(join(FIXTURES, 'images', basename(file))))).toBe(true);
      expect(pairs[i]?.extra).toEqual({ url: `http://example.com/${key}` });
      expect(pairs[i]).not.toHaveProperty('source');
    }
  });

  it('with defects: each is told by tar and key, and reading goes on', async () => {
    const path = join(STAGE1, '00001_defects.tar');
    const { pairs, problems } = await collect(path);
    expect(pairs.map(({ id, caption }) => [id, caption])).toEqual([
      ['00001_defects/000010000', 'Defect shard sample 0.'],
      ['00001_defects/000010001', 'Defect shard sample 1.'], // its image is broken, which the trainer finds
      ['00001_defects/000010005', 'Defect shard sample 5.'],
    ]);
    expect(problems).toEqual([
      { where: `${path}:000010002`, reason: 'no json, after the first json of its tar' },
      { where: `${path}:000010003`, reason: 'no caption in the json' },
      { where: `${path}:000010004`, reason: 'the json is not a JSON object' },
    ]);
  });

  it('as a folder: the tars in the order of their names, other files ignored', async () => {
    const { pairs } = await collect(STAGE1);
    expect(pairs).toHaveLength(15);
    expect(pairs.map(({ id }) => id)).toEqual(pairs.map(({ id }) => id).sort());
  });

  it('cut anywhere: the pairs before the cut stay, and the tar is named', async () => {
    const whole = await readFile(join(STAGE1, '00000.tar'));
    const hashes = (await collect(join(STAGE1, '00000.tar'))).pairs.map(({ image }) => sha256(image));
    const path = join(folder, 'cut.tar');
    let at = 0;
    for (const [name, data] of plainMembers(whole)) {
      const next = at + 512 + Math.ceil(data.length / 512) * 512;
      for (const cut of [at, at + 1, at + 512, at + 513, at + 512 + data.length - 1]) {
        if (cut === 0) continue;
        await writeFile(path, whole.subarray(0, cut));
        const { pairs, problems } = await collect(path);
        // A sample whose image and json are whole is one, even if its txt is not.
        const count = Number(name.slice(0, 9)) + (name.endsWith('.txt') ? 1 : 0);
        expect(pairs.map(({ image }) => sha256(image))).toEqual(hashes.slice(0, count));
        expect(problems.at(-1)?.where).toBe(path);
        expect(problems.at(-1)?.reason).toMatch(
          new RegExp(`^the tar is .*cut short.*: pairs read from it: ${count}$`),
        );
      }
      at = next;
    }
  });
});

describe('readTars', () => {
  it('knows the four kinds of image by their names in either case, and prefers jpg', async () => {
    const path = await writeTar('a.tar', [
      ['1.JPG', 'A'],
      ['1.JSON', json('one')],
      ['2.jpeg', 'B'],
      ['2.json', json('two')],
      ['3.webp', 'C'],
      ['3.png', 'c'],
      ['3.json', json('three')],
      ['4.gif', 'D'],
      ['4.json', json('four')],
    ]);
    const { pairs, problems } = await collect(path);
    expect(shown(pairs)).toEqual([
      ['a/1', 'A', 'one'],
      ['a/2', 'B', 'two'],
      ['a/3', 'c', 'three'],
    ]);
    expect(problems).toEqual([{ where: `${path}:4`, reason: 'no image (jpg, jpeg, png or webp)' }]);
  });

  it('takes captions as they stand, from the json before the txt', async () => {
    const path = await writeTar('a.tar', [
      ['1.jpg', 'A'],
      ['1.json', json(' Über\n"x" 😀 ')],
      ['1.txt', 'other'],
    ]);
    expect(shown((await collect(path)).pairs)).toEqual([['a/1', 'A', ' Über\n"x" 😀 ']]);
  });

  it('takes the txt in tars that have no json, for each tar anew', async () => {
    await writeTar('0.tar', [
      ['1.jpg', 'A'],
      ['1.json', json('one')],
    ]);
    await writeTar('1.tar', [
      ['1.txt', 'ein\n'],
      ['1.jpg', 'B'],
      ['2.jpg', 'C'],
      ['2.txt', Buffer.of(0xff, 0x41)],
      ['3.jpg', 'D'],
      ['3.txt', ' \n'],
      ['4.jpg', 'E'],
    ]);
    const { pairs, problems } = await collect(folder);
    expect(shown(pairs)).toEqual([
      ['0/1', 'A', 'one'],
      ['1/1', 'B', 'ein\n'],
    ]);
    expect(problems.map(({ reason }) => reason)).toEqual([
      'the txt is not UTF-8 text',
      'caption is empty',
      'no json or txt beside the image',
    ]);
  });

  it('tells of a json without use, an empty image and a lone caption', async () => {
    const bad: [string, string | Buffer][] = [
      ['the json is not a JSON object', 'null'],
      ['the json is not a JSON object', '["caption"]'],
      ['the json is not a JSON object', ''],
      ['the json is not a JSON object', Buffer.from('{"caption":"\xff"}', 'latin1')],
      ['no caption in the json', json(null)],
      ['no caption in the json', json(7)],
      ['no caption in the json', '{"caption": NaN}'],
      ['caption is empty', json(' \n')],
    ];
    const path = await writeTar('a.tar', [
      ...bad.flatMap(([, data], i): [string, string | Buffer][] => [[`${i}.jpg`, 'A'], [`${i}.json`, data]]), // prettier-ignore
      ['empty.jpg', ''],
      ['empty.json', json('x')],
      ['lone.json', json('x')],
      ['good.jpg', 'A'],
      ['good.json', json('x')],
    ]);
    const { pairs, problems } = await collect(path);
    expect(shown(pairs)).toEqual([['a/good', 'A', 'x']]);
    expect(problems).toEqual([
      ...bad.map(([reason], i) => ({ where: `${path}:${i}`, reason })),
      { where: `${path}:empty`, reason: 'the image is empty' },
      { where: `${path}:lone`, reason: 'no image (jpg, jpeg, png or webp)' },
    ]);
  });

  it('reads the NaN and Infinity that Python writes, but not within text', async () => {
    const path = await writeTar('a.tar', [
      ['1.jpg', 'A'],
      [
        '1.json',
        '{"similarity": NaN, "a": [-Infinity], "b\\"": "", "caption": "x \\"NaN\\", NaN", "url": NaN}',
      ],
      ['2.jpg', 'A'],
      ['2.json', json('x', { url: '' })],
    ]);
    const { pairs } = await collect(path);
    expect(pairs.map(({ caption, extra }) => [caption, extra])).toEqual([
      ['x "NaN", NaN', {}],
      ['x', {}],
    ]);
  });

  it('forms keys as webdataset does: up to the first dot of the base name, folders included', async () => {
    const path = join(folder, 'a.tar');
    const files = [
      member('./', '', '5'),
      member('./v1.0/', '', '5'),
      member('./v1.0/x.jpg', 'A'),
      member('./v1.0/x.json', json('one')),
      member('y.tar.jpg', 'part of y, and no image'),
      member('y.jpg', 'B'),
      member('y.json', json('two')),
      member('._y.jpg', 'what macOS adds'),
      member('.json', 'no base name'),
      member('LICENSE', 'no dot'),
      member('z.cls', '3'),
      member('z.npy', 'of no use'),
      member('w.jpg', '', '2'), // a symbolic link
      member('w.json', json('three')),
    ];
    await writeFile(path, Buffer.concat([...files, END]));
    const { pairs, problems } = await collect(path);
    expect(shown(pairs)).toEqual([
      ['a/v1.0/x', 'A', 'one'],
      ['a/y', 'B', 'two'],
    ]);
    expect(problems.map(({ where }) => where)).toEqual([`${path}:w`]);
  });

  it('tells of samples with a dot in their name, each once; parts of a sample that is of use are no such', async () => {
    const path = await writeTar('a.tar', [
      ['v1/p.1.JPG', 'A'],
      ['v1/p.1.json', json('one')],
      ['v1/p.Two.jpg', 'B'],
      ['v1/p.Two.txt', 'two'],
      ['v1/p.npy', 'of no use'],
      ['q.jpg', 'C'],
      ['q.seg.png', 'a mask'],
      ['q.json', json('three')],
      ['r.meta.json', '{}'],
      ['r.tar.gz', 'of no use'],
    ]);
    const { pairs, problems } = await collect(path);
    expect(shown(pairs)).toEqual([['a/q', 'C', 'three']]);
    const reason = "its name has a further dot (webdataset's keys end at the first)";
    expect(problems).toEqual(
      ['v1/p.1', 'v1/p.Two', 'r.meta'].map((key) => ({ where: `${path}:${key}`, reason })),
    );
    const only = await writeTar('b.tar', [['p.1.jpg', 'A']]);
    expect((await collect(only)).problems).toEqual([{ where: `${only}:p.1`, reason }]);
  });

  it('reads a json of 8 MB that is all escapes, and takes one with NaN besides for none', async () => {
    const long = '\\n'.repeat(4e6);
    const path = await writeTar('a.tar', [
      ['1.jpg', 'A'],
      ['1.json', `{"caption": "x${long}"}`],
      ['2.jpg', 'A'],
      ['2.json', `{"caption": "x${long}", "a": NaN}`],
      ['3.jpg', 'A'],
      ['3.json', json('x')],
    ]);
    const { pairs, problems } = await collect(path);
    expect(pairs.map(({ caption }) => caption.length)).toEqual([4e6 + 1, 1]);
    expect(problems).toEqual([{ where: `${path}:2`, reason: 'the json is not a JSON object' }]);
  });

  it('reads long names in the ways of GNU and PAX, and names in UTF-8', async () => {
    const long = `${'folder/'.repeat(30)}${'n'.repeat(120)}`;
    const gnu = [`${long}.jpg`, `${long}.json`].flatMap((name, i) => [
      member('././@LongLink', `${name}\0`, 'L', 'ustar  \0'),
      member(name.slice(0, 99), i === 0 ? 'A' : json('gnu'), '0', 'ustar  \0'),
    ]);
    await writeFile(join(folder, 'gnu.tar'), Buffer.concat([...gnu, END]));
    const pax = pack();
    for (const name of [long, 'Bäckerei 面包'])
      for (const [end, data] of Object.entries({ jpg: 'B', json: json(name) }))
        pax.entry({ name: `${name}.${end}` }, data);
    pax.finalize();
    await finished(pax.pipe(createWriteStream(join(folder, 'pax.tar'))));
    const { pairs, problems } = await collect(folder);
    expect(problems).toEqual([]);
    expect(shown(pairs)).toEqual([
      [`gnu/${long}`, 'A', 'gnu'],
      [`pax/${long}`, 'B', long],
      ['pax/Bäckerei 面包', 'B', 'Bäckerei 面包'],
    ]);
  });

  it('of two samples of one key takes the first, whether they touch or not', async () => {
    const path = await writeTar('a.tar', [
      ['1.jpg', 'A'],
      ['1.json', json('one')],
      ['1.jpg', 'B'],
      ['1.json', json('again')],
      ['2.jpg', 'C'],
      ['2.json', json('two')],
      ['1.jpg', 'D'],
      ['1.json', json('late')],
    ]);
    const { pairs, problems } = await collect(path);
    expect(shown(pairs)).toEqual([
      ['a/1', 'A', 'one'],
      ['a/2', 'C', 'two'],
    ]);
    expect(problems).toEqual([
      { where: `${path}:1`, reason: 'more than one jpg, json; the first is taken' },
      {
        where: `${path}:1`,
        reason: 'its key came before in this tar, apart from these files (they must follow each other)',
      },
    ]);
  });

  it('passes over a member of more than 64 MiB without holding it', async () => {
    const path = await writeTar('a.tar', [
      ['1.jpg', Buffer.alloc(65 * 2 ** 20, 1)],
      ['1.json', json('one')],
      ['2.jpg', 'B'],
      ['2.json', json('two')],
    ]);
    const { pairs, problems } = await collect(path);
    expect(shown(pairs)).toEqual([['a/2', 'B', 'two']]);
    expect(problems).toEqual([
      { where: `${path}:1`, reason: 'its jpg must have at most 67108864 bytes: 68157440' },
    ]);
  });

  it('of a damaged, foreign, gzipped or empty tar tells once, and goes on with the next', async () => {
    const sample: [string, string][] = [
      ['1.jpg', 'A'],
      ['1.json', json('one')],
    ];
    const good = await writeTar('a.tar', sample);
    const whole = await readFile(good);
    await writeFile(join(folder, 'b.tar'), Buffer.concat([whole.subarray(0, -1024), Buffer.alloc(1024, 7)]));
    await writeFile(join(folder, 'c.tar'), 'x'.repeat(5000));
    await writeFile(join(folder, 'd.tar'), '');
    await writeFile(join(folder, 'e.tar'), END);
    await writeTar('f.tar', [
      ['src/main.c', 'int'],
      ['README.md', '#'],
    ]);
    await writeFile(join(folder, 'g.tar.gz'), gzipSync(whole));
    await writeFile(join(folder, 'h.tar'), gzipSync(whole));
    await writeTar('z.tar', sample);
    const { pairs, problems } = await collect(folder);
    expect(pairs.map(({ id }) => id)).toEqual(['a/1', 'b/1', 'z/1']);
    const bad =
      'the tar is damaged or cut short (Invalid tar header. Maybe the tar is corrupted or it needs to be gunzipped?)';
    expect(problems.map(({ where, reason }) => [basename(where), reason])).toEqual([
      ['b.tar', `${bad}: pairs read from it: 1`],
      ['c.tar', `${bad}: pairs read from it: 0`],
      ['d.tar', 'no image, json or txt file in it: pairs read from it: 0'],
      ['e.tar', 'no image, json or txt file in it: pairs read from it: 0'],
      ['f.tar', 'no image, json or txt file in it: pairs read from it: 0'],
      ['g.tar.gz', 'the tar is gzipped (gunzip it first): pairs read from it: 0'],
      ['h.tar', 'the tar is gzipped (gunzip it first): pairs read from it: 0'],
    ]);
  });

  it('a tar that cannot be opened or read ends the packing: the disk is at fault, not the data', async () => {
    await writeTar('a.tar', []);
    await symlink(join(folder, 'gone'), join(folder, 'b.tar'));
    await expect(collect(folder)).rejects.toThrow(UserError);
    await expect(collect(join(folder, 'gone.tar'))).rejects.toThrow(/no such file/);
    await rm(join(folder, 'b.tar'));
    await symlink(folder, join(folder, 'a folder.tar'));
    await expect(collect(folder)).rejects.toThrow(/is a folder, not a file/);
    await rm(join(folder, 'a folder.tar'));
    await symlink('/proc/self/mem', join(folder, 'a.broken.tar')); // opens, then fails as a broken disk does
    await expect(collect(folder)).rejects.toThrow(/the disk failed/);
  });

  it('closes the tar when its reader stops early', async () => {
    const before = await openFiles();
    for await (const pair of readTars(join(STAGE1, '00000.tar'))) {
      expect(await openFiles()).toBeGreaterThan(before);
      expect(pair.id).toBe('00000/000000000');
      break;
    }
    await expect.poll(openFiles).toBe(before);
  });

  it('2000 pairs: byte for byte, with a few MB in memory at any time', async () => {
    const path = join(folder, 'many.tar');
    await writeMany(path);
    expect((await stat(path)).size).toBeGreaterThan(60e6);
    setFlagsFromString('--expose-gc');
    const collectGarbage = runInNewContext('gc') as () => void; // the flag defines it
    const usage: number[] = [];
    const hash = createHash('sha256');
    let count = 0;
    for await (const { id, image, caption } of readTars(path)) {
      const i = count++;
      expect([id, caption]).toEqual([`many/${keyOf(i)}`, `caption ${i}`]);
      expect(sha256(image)).toBe(sha256(imageOf(i)));
      hash.update(`${keyOf(i)}\n${caption}\n${image.length}\n`).update(image);
      if (i % 200 !== 100) continue;
      collectGarbage();
      const { heapUsed, arrayBuffers } = process.memoryUsage();
      usage.push(heapUsed + arrayBuffers);
    }
    expect(count).toBe(2000);
    // Python 3.11.7's tarfile reads the same in this very tar: `python scripts/fixtures/pack.py tar many.tar`
    expect(hash.digest('hex')).toBe('9a628fa08647a177ad9019ed57eacf86d5f1b0a9910d60ecd51508ee74378f63');
    const [first = 0, ...later] = usage;
    expect(later).toHaveLength(9);
    // The tar has over 60 MB. Freed buffers may count on for a while, so one measurement may be high, not all.
    expect(Math.max(...later) - first).toBeLessThan(30e6);
    expect(Math.min(...later.slice(-4)) - first).toBeLessThan(6e6);
  });
});

describe('tarsIn', () => {
  it('lists tars by name, no folders, no hidden files', async () => {
    for (const name of ['00010.tar', '00002.tar', '00002_stats.json', '00002.parquet', '._00002.tar', 'b.TAR', 'c.tgz'])
      await writeFile(join(folder, name), ''); // prettier-ignore
    await mkdir(join(folder, 'folder.tar'));
    expect((await tarsIn(folder)).map((path) => basename(path))).toEqual(['00002.tar', '00010.tar', 'b.TAR', 'c.tgz']); // prettier-ignore
    await expect(tarsIn(join(folder, 'gone'))).rejects.toThrow(UserError);
  });
});

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const keyOf = (i: number) => String(i).padStart(9, '0');

/** From 0 to 65,535 bytes, all different. */
function imageOf(i: number): Buffer {
  const random = mulberry32(i);
  const bytes = Buffer.alloc(i % 500 === 7 ? 512 * (1 + (i % 3)) : 1 + Math.floor(random() * 65535));
  for (let at = 0; at + 4 <= bytes.length; at += 4) bytes.writeUInt32LE(Math.floor(random() * 2 ** 32), at);
  return bytes;
}

async function writeMany(path: string): Promise<void> {
  const tar = pack();
  const file = tar.pipe(createWriteStream(path));
  const add = (name: string, data: Buffer) =>
    new Promise<void>((resolve, reject) =>
      tar.entry({ name }, data, (error) => (error ? reject(error) : resolve())),
    );
  for (let i = 0; i < 2000; i++) {
    await add(`${keyOf(i)}.jpg`, imageOf(i));
    await add(`${keyOf(i)}.json`, Buffer.from(json(`caption ${i}`)));
    await add(`${keyOf(i)}.txt`, Buffer.from(`caption ${i}`));
  }
  tar.finalize();
  await finished(file);
}

async function openFiles(): Promise<number> {
  return (await readdir('/proc/self/fd')).length;
}
