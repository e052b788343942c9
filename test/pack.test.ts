/** Every kind of source, recognised and packed; what a training reader then makes of MiniGPT-4's own data. */
import { mkdirSync, writeFileSync } from 'node:fs';
import {
  appendFile,
  cp,
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseConfig } from '../src/config/load.js';
import { cleanCaption } from '../src/data/captions.js';
import type { ImportProblem } from '../src/data/importers/folder.js';
import { preprocess } from '../src/data/images/images.js';
import { BadSampleLedger } from '../src/data/ledger.js';
import { readManifest } from '../src/data/shards/manifest.js';
import type { PackProgress } from '../src/data/packing/packPairs.js';
import type { ImageTextPair } from '../src/data/pairs.js';
import { ShardSet } from '../src/data/shards/shards.js';
import { UserError } from '../src/errors.js';
import { Prompter } from '../src/model/conversation/prompt.js';
import { loadTokenizer } from '../src/model/tokenizer/tokenizer.js';
import { packSource, type PackOptions, type Packed } from '../src/pack.js';
import { openSources, Samples } from '../src/train/samples.js';
import { readFixture } from './helpers/fixtures.js';
import { sha256 } from './helpers/sources.js';

const FIXTURES = join(import.meta.dirname, 'fixtures');
const STAGE1 = join(FIXTURES, 'minigpt4-tiny/data/stage1');
const STAGE2 = join(FIXTURES, 'minigpt4-tiny/data/stage2');
const DEFECTS = join(STAGE1, '00001_defects.tar');

let folder = '';
let out = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pack-'));
  out = join(folder, 'out');
});
afterEach(() => rm(folder, { recursive: true }));

const stop = () => {
  throw new Error('stop');
};

/** Packs and reads back. */
async function packed(
  source: string,
  options: PackOptions = {},
): Promise<Packed & { pairs: ImageTextPair[]; columns: readonly string[]; told: ImportProblem[] }> {
  const told: ImportProblem[] = [];
  const done = await packSource(source, out, { ...options, onProblem: (problem) => told.push(problem) });
  const set = await ShardSet.open(out);
  const pairs: ImageTextPair[] = [];
  for (let row = 0; row < set.rows; row++) pairs.push(await set.read(row));
  set.close();
  const { columns = [] } = (await readManifest(out)) ?? {};
  return { ...done, pairs, columns, told };
}

describe('packSource', () => {
  it('takes a folder with tars as such, url in a column of its own', async () => {
    const { rows, problems, pairs, columns, told } = await packed(STAGE1);
    expect([rows, problems, told.length]).toEqual([{ '.': 15 }, 3, 3]);
    expect(columns).toEqual(['id', 'image', 'caption', 'url']);
    expect(pairs[11]).toMatchObject({
      id: '00000/000000011',
      extra: { url: 'http://example.com/000000011' },
    });
  });

  it('takes a single tar, and keeps what the manifest is told', async () => {
    const { rows } = await packed(join(STAGE1, '00000.tar'), { about: 'tiny', rowsPerShard: 5 });
    expect(rows).toEqual({ '.': 12 });
    expect((await readdir(out)).filter((name) => name.endsWith('.arrow'))).toHaveLength(3);
  });

  it('url may first come in a later tar', async () => {
    await cp(join(STAGE1, '00000.tar'), join(folder, 'b.tar'));
    await writeFile(join(folder, 'a.tar'), textTar());
    const { pairs } = await packed(folder, { rowsPerShard: 1 });
    expect(pairs.slice(0, 2).map(({ id, extra }) => [id, extra])).toEqual([
      ['a/1', {}],
      ['b/000000000', { url: 'http://example.com/000000000' }],
    ]);
  });

  it('takes a folder with filter_cap.json as cc_sbu_align, whatever else lies in it', async () => {
    await cp(STAGE2, join(folder, 'in'), { recursive: true });
    await cp(DEFECTS, join(folder, 'in/x.tar'));
    const { rows, pairs, columns } = await packed(join(folder, 'in'));
    expect(rows).toEqual({ '.': 12 });
    expect(columns).toEqual(['id', 'image', 'caption']);
    expect(pairs[0]).toMatchObject({ id: '2' });
  });

  it('takes other folders and lists as before', async () => {
    await mkdir(join(folder, 'in'));
    await writeFile(join(folder, 'in/a.jpg'), 'A');
    await writeFile(join(folder, 'in/a.txt'), 'from the folder');
    await writeFile(join(folder, 'in/list.jsonl'), '{"image": "a.jpg", "caption": "from the list"}');
    expect((await packed(join(folder, 'in'))).pairs[0]?.caption).toBe('from the folder');
    const list = await packed(join(folder, 'in/list.jsonl'), { overwrite: true });
    expect(list.pairs[0]?.caption).toBe('from the list');
  });

  it.each([
    [{ rowsPerShard: 3 }, /--rows-per-shard is for other sources than emoji/],
    [{ about: 'x' }, /--about is for other sources than emoji/],
  ])('refuses %j with the default set', async (options, message) => {
    await expect(packSource('emoji', out, options)).rejects.toThrow(message);
  });

  it.each([
    [{ views: 2 }, /--views is for emoji alone/],
    [{ styles: ['noto' as const] }, /--styles is for emoji alone/],
  ])('refuses %j with other sources', async (options, message) => {
    await expect(packSource(join(folder, 'in'), out, options)).rejects.toThrow(message);
  });

  it('writes the default set over nothing that is not its own, unless it is told to', async () => {
    await mkdir(join(out, 'stage1-train'), { recursive: true });
    await writeFile(join(out, 'README.md'), 'mine');
    await expect(packSource('emoji', out, { views: 1 })).rejects.toThrow(
      /out: exists already, is not empty and has no emoji\.json .*\(choose another place, or --force/,
    );
    expect(await readFile(join(out, 'README.md'), 'utf8')).toBe('mine');
    const stopped = { views: 1, onProgress: stop };
    await expect(packSource('emoji', out, { ...stopped, overwrite: true })).rejects.toThrow('stop');
    await expect(packSource('emoji', out, stopped)).rejects.toThrow('stop'); // what was begun is its own
  });

  it('leaves nothing behind when a tar cannot be opened, the reader fails or no pair is found', async () => {
    await cp(join(STAGE1, '00000.tar'), join(folder, 'in/a.tar'), { recursive: true });
    await symlink(join(folder, 'gone'), join(folder, 'in/b.tar'));
    await expect(packSource(join(folder, 'in'), out, { rowsPerShard: 2 })).rejects.toThrow(UserError);
    await expect(packSource(STAGE1, out, { rowsPerShard: 2, onProgress: stop })).rejects.toThrow('stop');
    await writeFile(join(folder, 'none.tar'), 'not a tar');
    await expect(packSource(join(folder, 'none.tar'), out)).rejects.toThrow(/at least one pair, got none/);
    expect((await readdir(folder)).sort()).toEqual(['in', 'none.tar']);
  });
});

/** All files of a folder, by name. */
async function filesOf(path: string): Promise<Record<string, string>> {
  const names = (await readdir(path)).sort();
  return Object.fromEntries(
    await Promise.all(names.map(async (name) => [name, sha256(await readFile(join(path, name)))] as const)),
  );
}

const IMAGES = join(FIXTURES, 'images');

/** A list of 40 images, some missing, broken or the same again, with captions. */
async function writeList(): Promise<string> {
  const names = (await readdir(IMAGES)).filter((name) => /\.(jpg|png)$/.test(name));
  await writeFile(join(folder, 'broken.jpg'), (await readFile(join(IMAGES, 'img_00.jpg'))).subarray(0, 3000));
  const lines = Array.from({ length: 40 }, (_, i) => {
    const image =
      i % 20 === 7 ? 'gone.jpg' : i % 20 === 8 ? join(folder, 'broken.jpg') : names[i % names.length];
    return JSON.stringify({ image, caption: `caption ${i % 25}`, id: i });
  });
  await writeFile(join(folder, 'list.jsonl'), lines.join('\n'));
  return join(folder, 'list.jsonl');
}

describe('a packing', () => {
  it.each([
    {},
    { maxSide: 64, quality: 70, dedup: 'image' },
    { dedup: 'pair', bytesPerShard: 100_000 },
  ] as const)('with %j makes the same bytes with 1, 2 and 4 workers', async (options) => {
    const list = await writeList();
    const made: Record<string, string>[] = [];
    for (const workers of [1, 2, 4]) {
      const to = join(folder, `out-${workers}`);
      await packSource(list, to, { rowsPerShard: 12, images: IMAGES, workers, ...options });
      made.push(await filesOf(to));
    }
    expect(Object.keys(made[0] ?? {}).length).toBeGreaterThan(3);
    expect(made[1]).toEqual(made[0]);
    expect(made[2]).toEqual(made[0]);
  });

  it('leaves out duplicates by image or by pair, the first stays, and counts them apart from problems', async () => {
    await mkdir(join(folder, 'in'));
    const files = { a: ['A', 'x'], b: ['B', 'x'], c: ['A', 'y'], d: ['A', 'x'], e: ['', 'x'], f: ['B', 'x'] };
    for (const [name, [image = '', caption = '']] of Object.entries(files)) {
      await writeFile(join(folder, `in/${name}.jpg`), image);
      await writeFile(join(folder, `in/${name}.txt`), caption);
    }
    const ids = async (dedup?: 'image' | 'pair') => {
      const { pairs, duplicates, problems, reasons } = await packed(join(folder, 'in'), {
        overwrite: true,
        ...(dedup && { dedup }),
      });
      expect([problems, reasons]).toEqual([1, { 'the image is empty': 1 }]);
      expect((await readManifest(out))?.leftOut).toEqual({ duplicates, problems, reasons });
      return [pairs.map(({ id }) => id).join(''), duplicates];
    };
    expect(await ids()).toEqual(['abcdf', 0]);
    expect(await ids('image')).toEqual(['ab', 3]);
    expect(await ids('pair')).toEqual(['abc', 2]);
  });

  it('scales images down, says so in the manifest, and leaves out what cannot be decoded', async () => {
    const { pairs, problems, reasons, recoded } = await packed(await writeList(), {
      images: IMAGES,
      maxSide: 64,
    });
    expect([pairs.length, problems]).toEqual([36, 4]);
    expect(reasons).toEqual({ 'cannot read the image': 2, 'the image cannot be decoded': 2 });
    const sides = await Promise.all(
      pairs.map(async ({ image }) => {
        const { width, height } = await sharp(image).metadata();
        return Math.max(width, height);
      }),
    );
    expect(Math.max(...sides)).toBe(64);
    expect((await readManifest(out))?.recipe).toMatch(
      new RegExp(`^${recoded} images: images with a longer side of more than 64 `),
    );
  });

  it('ends a shard with the pair that brings it to the size asked for, or the row', async () => {
    await mkdir(join(folder, 'in'));
    for (let i = 0; i < 10; i++) {
      await writeFile(join(folder, `in/${i}.jpg`), 'x'.repeat(88)); // with id and caption 100 bytes
      await writeFile(join(folder, `in/${i}.txt`), 'a caption..');
    }
    const rows = async (options: PackOptions) => {
      await packSource(join(folder, 'in'), out, { ...options, overwrite: true });
      return (await readManifest(out))?.shards.map((shard) => shard.rows);
    };
    expect(await rows({ bytesPerShard: 300 })).toEqual([3, 3, 3, 1]);
    expect(await rows({ bytesPerShard: 301 })).toEqual([4, 4, 2]);
    expect(await rows({ bytesPerShard: 300, rowsPerShard: 2 })).toEqual([2, 2, 2, 2, 2]);
    expect(await rows({ rowsPerShard: 9 })).toEqual([9, 1]);
    expect(await rows({})).toEqual([10]);
  });

  it('lists every problem beside the manifest, in the order of the source', async () => {
    const list = await writeList();
    const { told } = await packed(list, { images: IMAGES });
    expect(told).toHaveLength(2);
    expect(told[0]).toEqual({
      where: `${list}:8`,
      reason: 'cannot read the image',
      detail: join(IMAGES, 'gone.jpg'),
    });
    const lines = (await readFile(join(out, 'problems.jsonl'), 'utf8')).trimEnd().split('\n');
    expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual(told);
  });

  it('tells how far it is in the source’s own measure, up to the whole', async () => {
    const seen: PackProgress[] = [];
    await packSource(STAGE1, out, { onProgress: (progress) => seen.push(progress) });
    const total = (await stat(join(STAGE1, '00000.tar'))).size + (await stat(DEFECTS)).size;
    expect(seen).toHaveLength(18);
    expect(
      seen.every(
        (one, i) => one.total === total && one.unit === 'bytes' && one.done >= (seen[i - 1]?.done ?? 0),
      ),
    ).toBe(true);
    expect(seen.at(-1)).toMatchObject({ done: total, pairs: 15 });
  });
});

describe('a packing that ended early', () => {
  const options = { rowsPerShard: 8, images: IMAGES, dedup: 'pair', maxSide: 64, workers: 3 } as const;
  /** Packs until `count` items are passed, then fails as a full disk would. */
  const failAfter = async (list: string, count: number, more: PackOptions = {}) => {
    let seen = 0;
    const onProgress = () => {
      if ((seen += 1) === count) throw new Error('stopped');
    };
    await expect(packSource(list, out, { ...options, ...more, onProgress })).rejects.toThrow('stopped');
  };

  it('goes on after its whole shards, and its result is that of an unbroken one, whenever it ended', async () => {
    const list = await writeList();
    const unbroken = join(folder, 'unbroken');
    const result = await packSource(list, unbroken, options);
    const expected = await filesOf(unbroken);
    for (const stops of [[12, 3, 11], [40]]) {
      for (const count of stops) await failAfter(list, count);
      const notes: string[] = [];
      expect(await packSource(list, out, { ...options, onNote: (note) => notes.push(note) })).toEqual(result);
      expect(await filesOf(out)).toEqual(expected);
      expect(notes.join()).toMatch(/goes on after \d+ whole shards/);
      expect((await readdir(folder)).filter((name) => name.startsWith('.'))).toEqual([]);
      await rm(out, { recursive: true });
    }
  });

  it('keeps its whole shards as they are: they are not written again', async () => {
    const list = await writeList();
    await failAfter(list, 30);
    const shards = join(folder, '.out.pack/shards');
    const before = await Promise.all((await readdir(shards)).map((name) => stat(join(shards, name))));
    const whole = before.length;
    expect(whole).toBeGreaterThan(2);
    await packSource(list, out, options);
    const inodes = new Set((await Promise.all((await readdir(out)).map((name) => stat(join(out, name))))).map(({ ino }) => ino)); // prettier-ignore
    expect(before.filter(({ ino }) => inodes.has(ino)).length).toBe(whole);
  });

  it('is gone on with under its own options and source alone, unless it is to begin anew', async () => {
    const list = await writeList();
    await failAfter(list, 30);
    await expect(packSource(list, out, { ...options, maxSide: 32 })).rejects.toThrow(
      /was begun with another source or other options, --max-side was 64, is 32 \(give the same again to go on, --force/,
    );
    await expect(packSource(STAGE1, out, options)).rejects.toThrow(/--images is for other kinds/);
    await appendFile(list, '\n{"image": "img_00.jpg", "caption": "late", "id": "late"}');
    await expect(packSource(list, out, options)).rejects.toThrow(/files \(hash of names, sizes, times\) was/);
    await packSource(list, out, { ...options, overwrite: true });
    const anew = join(folder, 'anew');
    await packSource(list, anew, options);
    expect(await filesOf(out)).toEqual(await filesOf(anew));
  });

  it('replaces what is there only when it is whole, with --force', async () => {
    const list = await writeList();
    await packSource(STAGE1, out);
    const before = await filesOf(out);
    await expect(packSource(list, out, options)).rejects.toThrow(/exists already and is not empty \(--force/);
    await failAfter(list, 32, { overwrite: true });
    expect(await filesOf(out)).toEqual(before);
    await packSource(list, out, { ...options, overwrite: true });
    expect((await readManifest(out))?.shards.length).toBeGreaterThan(1);
    expect((await readdir(folder)).sort()).toEqual(['broken.jpg', 'list.jsonl', 'out']);
  });

  it('--force replaces shards alone, and nothing that it reads from', async () => {
    const list = await writeList();
    const gone = join(folder, 'data');
    await mkdir(join(gone, 'images'), { recursive: true });
    await cp(list, join(gone, 'train.jsonl'));
    const before = await readdir(gone);
    const force = { ...options, overwrite: true };
    await expect(packSource(list, gone, force)).rejects.toThrow(
      /data: --force replaces a folder of shards alone, got one without a manifest\.json of ours \(/,
    );
    await writeFile(join(gone, 'manifest.json'), '{"version": 1, "name": "of another program"}');
    await expect(packSource(list, gone, force)).rejects.toThrow(/--force replaces a folder of shards alone/);
    await packSource(STAGE1, join(folder, 'shards'));
    await cp(join(folder, 'shards/manifest.json'), join(gone, 'manifest.json'));
    await expect(packSource(join(gone, 'train.jsonl'), gone, force)).rejects.toThrow(
      /data: must not hold what is packed into it, got .*train\.jsonl \(choose another place\)/,
    );
    await symlink(gone, join(folder, 'link'));
    await expect(packSource(join(folder, 'link/train.jsonl'), gone, force)).rejects.toThrow(/must not hold/);
    const images = { ...force, images: join(gone, 'images') };
    await expect(packSource(list, gone, images)).rejects.toThrow(/must not hold .*got .*images/);
    await packSource(STAGE1, join(gone, '..shards'));
    await expect(packSource(gone, join(gone, '..shards'), { overwrite: true })).rejects.toThrow(
      /must not lie in its own source/,
    );
    expect(await readdir(gone)).toEqual([...before, '..shards', 'manifest.json'].sort());
    await mkdir(join(folder, 'empty'));
    expect((await packSource(STAGE1, join(folder, 'empty'), { overwrite: true })).packed).toBe(true);
  });

  it('--force takes away its own shards and list of problems, but no other file; it is not offered where it would refuse', async () => {
    const list = await writeList();
    await packSource(list, out, options);
    expect(await readdir(out)).toContain('problems.jsonl');
    expect((await packSource(STAGE1, out, { overwrite: true })).packed).toBe(true);
    await writeFile(join(out, 'photo.jpg'), 'mine');
    const refused = packSource(list, out, { ...options, overwrite: true });
    await expect(refused).rejects.toThrow(
      /out: --force replaces a folder of shards alone, got photo\.jpg besides/,
    );
    await expect(packSource(list, out, options)).rejects.toThrow(
      /out: exists already and is not empty \(choose another place\)$/,
    );
    expect(await readFile(join(out, 'photo.jpg'), 'utf8')).toBe('mine');
  });

  it('--force throws nothing away that was begun where its place is refused', async () => {
    const list = await writeList();
    await failAfter(list, 30);
    const begun = await filesOf(join(folder, '.out.pack/shards'));
    mkdirSync(out);
    writeFileSync(join(out, 'mine'), '');
    const other = packSource(list, out, { ...options, maxSide: 32, overwrite: true });
    await expect(other).rejects.toThrow(/of shards alone/);
    expect(await filesOf(join(folder, '.out.pack/shards'))).toEqual(begun);
  });

  it('does not replace what came to its place meanwhile; its work stays, and the same command goes on', async () => {
    const list = await writeList();
    const late = async (what: PackOptions) => {
      let seen = 0;
      await packSource(list, out, {
        ...options,
        ...what,
        onProgress: () => {
          if ((seen += 1) !== 30) return;
          mkdirSync(out);
          writeFileSync(join(out, 'mine'), '');
        },
      });
    };
    await expect(late({})).rejects.toThrow(/out: exists already and is not empty/);
    await expect(packSource(list, out, options)).rejects.toThrow(/out: exists already/); // it is done, and waits
    await expect(packSource(list, out, { ...options, overwrite: true })).rejects.toThrow(/of shards alone/);
    expect(await readdir(out)).toEqual(['mine']);
    await rm(out, { recursive: true });
    const notes: string[] = [];
    const result = await packSource(list, out, { ...options, onNote: (note) => notes.push(note) });
    expect([result.packed, notes.join()]).toEqual([true, expect.stringMatching(/goes on after/)]);
    expect((await readdir(folder)).filter((name) => name.startsWith('.'))).toEqual([]);
  });

  it('begins anew where its list of problems or its digests are shorter than on record', async () => {
    const list = await writeList();
    const unbroken = join(folder, 'unbroken');
    await packSource(list, unbroken, options);
    for (const [name, left] of [
      ['digests', 16],
      ['shards/problems.jsonl', 0],
    ] as const) {
      await failAfter(list, 35);
      await truncate(join(folder, '.out.pack', name), left);
      const notes: string[] = [];
      await packSource(list, out, { ...options, onNote: (note) => notes.push(note) });
      expect(notes.join()).not.toMatch(/goes on after/);
      expect(await filesOf(out)).toEqual(await filesOf(unbroken));
      await rm(out, { recursive: true });
    }
  });

  it('is finished where it was: before, between and after the steps that put it in its place', async () => {
    const list = await writeList();
    await packSource(list, out, options);
    const expected = await filesOf(out);
    await rm(out, { recursive: true });
    await failAfter(list, 32);
    const work = join(folder, '.out.pack');
    const journal = JSON.parse(await readFile(join(work, 'journal.json'), 'utf8')) as Record<string, unknown>;
    // killed after the rename: only the journal is left
    await packSource(list, out, options);
    await mkdir(work);
    await writeFile(join(work, 'journal.json'), JSON.stringify({ ...journal, done: true }));
    expect((await packSource(list, out, options)).packed).toBe(false);
    expect(await filesOf(out)).toEqual(expected);
    // killed between the two renames of --force: the old one is aside, the new one not yet there
    await mkdir(work);
    await writeFile(join(work, 'journal.json'), JSON.stringify({ ...journal, done: true, shards: [] }));
    await rename(out, join(work, 'shards'));
    await mkdir(join(folder, '.out.pack.old'));
    expect((await packSource(list, out, { ...options, overwrite: true })).packed).toBe(true);
    expect(await filesOf(out)).toEqual(expected);
    expect((await readdir(folder)).filter((name) => name.startsWith('.'))).toEqual([]);
  });

  it('is not spoilt by another that packs into the same folder at the same time', async () => {
    const list = await writeList();
    const both = await Promise.allSettled([packSource(list, out, options), packSource(list, out, options)]);
    const refused = both.filter(({ status }) => status === 'rejected');
    expect(refused).toHaveLength(1);
    expect(String((refused[0] as PromiseRejectedResult).reason)).toMatch(/is in use by process \d+ .*--out/);
    const alone = join(folder, 'alone');
    await packSource(list, alone, options);
    expect(await filesOf(out)).toEqual(await filesOf(alone));
  });
});

describe('MiniGPT-4’s defective tar, packed and drawn by a run', () => {
  it('the captions that survive are those that survive in MiniGPT-4', async () => {
    const { defect_shard: expected } = await readFixture<{ defect_shard: { surviving_captions: string[] } }>(
      'minigpt4-tiny/expected.json',
    );
    const { told } = await packed(DEFECTS);
    expect(told).toHaveLength(3);
    const config = parseConfig(
      JSON.stringify({
        data: { train: [{ shards: out }], captions: 'verbatim' },
        prompt: { template: '{} Answer: ', questions: ['a <ImageHere>'] },
        train: {
          stage: 'finetune',
          initFrom: 'other',
          steps: 1,
          batchSize: 3,
          microBatchSize: 3,
          schedule: { peak: 1, warmupSteps: 0 },
        },
        run: { folder: join(folder, 'run'), seed: 1 },
      }),
      'test',
    );
    const ledger = await BadSampleLedger.open(join(folder, 'ledger.jsonl'), { maxBadFraction: 1 });
    const sources = await openSources(config);
    const prompter = new Prompter(
      await loadTokenizer(join(FIXTURES, 'tokenizers/tiny-llama')),
      config.prompt,
    );
    const decode = ({ image }: ImageTextPair) =>
      preprocess(image, { size: 8, mean: [0, 0, 0], std: [1, 1, 1] }); // in the encoder's place
    const samples = new Samples(sources, decode, prompter, config, ledger);
    const captions = new Set<string>();
    for (let position = 0; position < 3; position++)
      captions.add(cleanCaption((await samples.at(position, 0)).pair.caption)); // as MiniGPT-4 recorded them
    for (const { shards } of sources) shards.close();
    expect([...captions].sort()).toEqual(expected.surviving_captions);
    expect((await readFile(join(folder, 'ledger.jsonl'), 'utf8')).match(/"id":"[^"]*"/g)).toEqual([
      '"id":"00001_defects/000010001"', // the broken image
    ]);
  });
});

/** A tar of one sample whose caption is a text file. */
function textTar(): Buffer {
  const member = (name: string, data: string) => {
    const header = Buffer.alloc(512);
    header.write(name);
    header.write(`0000000000${data.length}`, 124);
    header.write('        0', 148);
    header.write('ustar\x0000', 257);
    header.write(header.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, '0'), 148); // prettier-ignore
    return Buffer.concat([header, Buffer.from(data.padEnd(512, '\0'))]);
  };
  return Buffer.concat([member('1.jpg', 'A'), member('1.txt', 'text'), Buffer.alloc(1024)]);
}
