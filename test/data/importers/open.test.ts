/** What a path is taken for; data sets as Hugging Face `datasets`, the hub and img2dataset write them. */
import { copyFile, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openSource, type SourceOptions } from '../../../src/data/importers/open.js';
import { parquetSource } from '../../../src/data/importers/parquet.js';
import { UserError } from '../../../src/errors.js';
import { collect, sha256 } from '../../helpers/sources.js';

const FIXTURES = join(import.meta.dirname, '../../fixtures');
const PACK = join(FIXTURES, 'pack');
const SHARDS = join(FIXTURES, 'shards');

/** What pyarrow reads: scripts/fixtures/pack.py. */
interface Expected {
  readonly source: string;
  readonly options: SourceOptions;
  readonly pairs: readonly { id: string; image: string; caption: string; extra: Record<string, string> }[];
}
const expected = JSON.parse(await readFile(join(PACK, 'expected.json'), 'utf8')) as Expected[];

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sources-'));
});
afterEach(() => rm(folder, { recursive: true }));

const shown = ({ pairs }: Awaited<ReturnType<typeof collect>>) =>
  pairs.map(({ id, image, caption, extra }) => ({ id, image: sha256(image), caption, extra }));

describe('openSource', () => {
  it.each(expected)('reads $source $options as pyarrow does', async ({ source, options, pairs }) => {
    const opened = await openSource(join(PACK, source), options);
    const found = await collect(opened);
    expect(shown(found)).toEqual(pairs);
    expect(found.problems).toEqual(
      source.startsWith('img2dataset') ? [`${join(PACK, source)}: row 3: the image is empty`] : [],
    );
    const names = new Set(pairs.flatMap(({ extra }) => Object.keys(extra)));
    expect(new Set(opened.columns)).toEqual(names);
  });

  it.each([
    'plain',
    'lz4',
    'zstd',
    'large',
    'large_zstd',
    'dictionary',
    'dictionary_stream',
    'view',
    'huggingface_stream',
  ])('reads the Arrow file %s', async (name) => {
    const [reference, found] = [await collect(openSource(join(SHARDS, 'plain.arrow'))), await collect(openSource(join(SHARDS, `${name}.arrow`)))]; // prettier-ignore
    expect(found.problems).toEqual([]);
    expect(found.pairs).toHaveLength(10);
    expect(shown(found).map(({ image, caption }) => [image, caption])).toEqual(
      shown(reference).map(({ image, caption }) => [image, caption]),
    );
  });

  it('finds no image where the struct is null, whatever bytes lie beneath it', async () => {
    const path = join(SHARDS, 'struct_nulls.arrow');
    const { pairs, problems } = await collect(openSource(path));
    expect(problems).toEqual([`${path}: row 3: the image is empty`]);
    expect(pairs).toHaveLength(9);
  });

  it('tells of rows without image or caption, by their numbers', async () => {
    const path = join(SHARDS, 'nulls.arrow');
    const { pairs, problems } = await collect(openSource(path));
    expect(pairs.map(({ id }) => id)).toEqual([0, 1, 2, 5, 6, 7, 8, 9].map((i) => `id-${i}`));
    expect(problems).toEqual([`${path}: row 3: the image is empty`, `${path}: row 4: caption is empty`]);
  });

  it('packs several splits never together: one must be chosen', async () => {
    const open = (split?: string) => openSource(join(PACK, 'hub'), split === undefined ? {} : { split });
    await expect(open()).rejects.toThrow(/one split must be chosen, got train, validation in .*--split/);
    await expect(open('test')).rejects.toThrow(/there must be a split test, got train, validation/);
    expect((await collect(open('validation'))).pairs.map(({ id }) => id)).toEqual(['99']);
  });

  it('leaves no file without a split out unasked: it asks for a split, and says what to do with the others', async () => {
    const plain = join(SHARDS, 'plain.arrow');
    for (const name of ['data-00000.arrow', 'test.arrow']) await copyFile(plain, join(folder, name));
    await expect(openSource(folder)).rejects.toThrow(
      /one split must be chosen, got files without a split, test in .* \(name one with --split; move the files without a split to a folder of their own\)/,
    );
    expect((await collect(openSource(folder, { split: 'test' }))).pairs).toHaveLength(10);
  });

  it('lists the columns that there are where the usual ones are not, and takes those that are named', async () => {
    const path = join(PACK, 'several.parquet');
    await expect(openSource(path)).rejects.toThrow(
      `pack: the caption must be a column of texts named caption or text or captions or txt, got the columns image (struct of bytes and path), sentences (list of texts) in ${path} (name it with --caption-column)`,
    );
    await expect(openSource(path, { imageColumn: 'sentences' })).rejects.toThrow(
      /the image must be a column of encoded images named sentences, got the columns image/,
    );
    await expect(openSource(join(SHARDS, 'no_image.arrow'))).rejects.toThrow(/name it with --image-column/);
  });

  it('reads an indexed row group by its pages: the same pairs, a few kB at a time', async () => {
    const path = join(PACK, 'indexed.parquet');
    const whole = await parquetSource([path]);
    const ranged = await parquetSource([path], {}, 2000);
    expect([whole.parts.length, ranged.parts.length > 5]).toEqual([1, true]);
    expect(ranged.parts.reduce((sum, { size }) => sum + size, 0)).toBe(60);
    expect(shown(await collect(ranged))).toEqual(shown(await collect(whole)));
  });

  it.each([
    ['a.txt', {}, /a file must be \.tar, \.jsonl, .* got/],
    ['a.tar', { imageColumn: 'x' }, /--image-column is for other kinds of sources/],
    ['a.jsonl', { split: 'train' }, /--split is for other kinds of sources/],
    ['a.parquet', { images: '.' }, /--images is for other kinds of sources/],
  ])('refuses %s with %j', async (name, options, message) => {
    await writeFile(join(folder, name), 'x');
    await expect(openSource(join(folder, name), options)).rejects.toThrow(message);
    await expect(openSource(join(folder, name), options)).rejects.toThrow(UserError);
    await expect(openSource(join(folder, 'gone'))).rejects.toThrow(/no such file/);
  });
});

describe('damaged tables', () => {
  const parquet = join(PACK, 'img2dataset-none.parquet');

  it('whose footer is damaged, cut off or missing are an error before anything is read', async () => {
    const whole = await readFile(parquet);
    const path = join(folder, 'a.parquet');
    for (const bytes of [whole.subarray(0, -5), whole.subarray(0, 20), Buffer.of(), Buffer.alloc(500, 7)]) {
      await writeFile(path, bytes);
      await expect(openSource(path)).rejects.toThrow(/Parquet file/);
      await expect(openSource(path)).rejects.toThrow(UserError);
    }
  });

  it('whose rows are damaged cost the row group or batch, told once with the rows that are lost', async () => {
    const bytes = await readFile(join(PACK, 'img2dataset-zstd.parquet'));
    const path = join(folder, 'a.parquet');
    bytes.fill(0xee, 4, 60); // the pages of the first row group's first column
    await writeFile(path, bytes);
    const { pairs, problems } = await collect(openSource(path));
    expect(pairs.map(({ id }) => id)).toEqual([4, 5, 6, 7, 8, 9].map((i) => `00000000${i}`));
    expect(problems).toHaveLength(1);
    expect(problems[0]).toMatch(/a\.parquet: a row group is damaged: 4 rows from row 0, /);
  });

  it('that cannot be opened are the disk’s fault', async () => {
    await symlink(join(folder, 'gone'), join(folder, 'b.parquet'));
    await expect(openSource(join(folder, 'b.parquet'))).rejects.toThrow(/no such file/);
  });
});
