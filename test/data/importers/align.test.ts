import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readAlign } from '../../../src/data/importers/align.js';
import { problemText, type ImportProblem } from '../../../src/data/importers/source.js';
import type { ImageTextPair } from '../../../src/data/pairs.js';
import { UserError } from '../../../src/errors.js';
import { readFixture } from '../../helpers/fixtures.js';

const FIXTURES = join(import.meta.dirname, '../../fixtures');
const STAGE2 = join(FIXTURES, 'minigpt4-tiny/data/stage2');

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'align-'));
});
afterEach(() => rm(folder, { recursive: true }));

async function collect(source: string): Promise<{ pairs: ImageTextPair[]; problems: ImportProblem[] }> {
  const pairs: ImageTextPair[] = [];
  const problems: ImportProblem[] = [];
  const onProblem = (problem: ImportProblem) =>
    problems.push({ where: problem.where, reason: problemText(problem) });
  for await (const pair of readAlign(source, { onProblem })) pairs.push(pair);
  return { pairs, problems };
}

/** Writes the annotations, and the image `a.jpg` of the bytes `A`. */
async function write(annotations: unknown): Promise<string> {
  await mkdir(join(folder, 'image'));
  await writeFile(join(folder, 'image/a.jpg'), 'A');
  await writeFile(join(folder, 'filter_cap.json'), JSON.stringify({ annotations }));
  return join(folder, 'filter_cap.json');
}

describe('readAlign', () => {
  it('gives MiniGPT-4’s captions verbatim, in its order, with the bytes of the files', async () => {
    const expected = await readFixture<{
      images: { file: string }[];
      stage2_samples: { image_id: string; image_index: number; text: string }[];
    }>('minigpt4-tiny/expected.json');
    const { pairs, problems } = await collect(STAGE2);
    expect(problems).toEqual([]);
    expect(pairs.map(({ id, caption }) => [id, caption])).toEqual(
      expected.stage2_samples.map(({ image_id: id, text }) => [id, text]),
    );
    for (const [i, { image_index: index }] of expected.stage2_samples.entries()) {
      const original = await readFile(join(FIXTURES, 'images', basename(expected.images[index]?.file ?? '')));
      expect(original.equals(pairs[i]?.image ?? Buffer.of())).toBe(true);
      expect(pairs[i]?.extra).toEqual({});
    }
  });

  it('tells of each annotation that gives no pair, by its place, and goes on', async () => {
    const file = await write([
      { image_id: 'a', caption: ' verbatim,\nTOO. ' },
      { image_id: 'gone', caption: 'x' },
      { image_id: 'empty', caption: 'x' },
      { image_id: 'a', caption: ' \n' },
      { image_id: 'a' },
      { caption: 'x' },
      { image_id: '../image/a', caption: 'x' },
      'a',
      null,
      { image_id: 7, caption: 'a number as id' },
    ]);
    await writeFile(join(folder, 'image/empty.jpg'), '');
    await writeFile(join(folder, 'image/7.jpg'), 'B');
    const { pairs, problems } = await collect(folder);
    expect(pairs.map(({ id, image, caption }) => [id, Buffer.from(image).toString(), caption])).toEqual([
      ['a', 'A', ' verbatim,\nTOO. '],
      ['7', 'B', 'a number as id'],
    ]);
    expect(problems).toEqual(
      [
        `cannot read the image: ${join(folder, 'image/gone.jpg')}`,
        'the image is empty',
        'caption is empty',
        'caption is empty',
        'no image_id',
        'image_id must name a file of the folder image: ../image/a',
        'not a JSON object',
        'not a JSON object',
      ].map((reason, i) => ({ where: `${file}: annotations[${i + 1}]`, reason })),
    );
  });

  it('keeps an image that comes with two captions, under two ids', async () => {
    await write(['one', 'two', 'three'].map((caption) => ({ image_id: 'a', caption })));
    const { pairs } = await collect(folder);
    expect(pairs.map(({ id, caption }) => [id, caption])).toEqual([
      ['a', 'one'],
      ['a#2', 'two'],
      ['a#3', 'three'],
    ]);
  });

  it.each([
    ['{"annotations": [', /filter_cap\.json must be JSON, got .* \(copy it again\)/],
    ['[]', /must hold an object with a list "annotations"/],
    ['{"annotations": {}}', /must hold an object with a list "annotations"/],
    ['null', /must hold an object with a list "annotations"/],
  ])('refuses the file %j', async (text, message) => {
    await cp(STAGE2, folder, { recursive: true });
    await writeFile(join(folder, 'filter_cap.json'), text);
    await expect(collect(folder)).rejects.toThrow(message);
    await expect(collect(folder)).rejects.toThrow(UserError);
  });

  it('refuses a folder without the images before it reads any', async () => {
    await writeFile(join(folder, 'filter_cap.json'), '{"annotations": []}');
    await expect(collect(folder)).rejects.toThrow(`${join(folder, 'image')}: no such file or folder`);
  });
});
