import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { cocoSource } from '../../../src/data/importers/coco.js';
import { UserError } from '../../../src/errors.js';
import { collect } from '../../helpers/sources.js';

let folder = '';
let file = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'coco-'));
  file = join(folder, 'annotations/captions_val2014.json');
});
afterEach(() => rm(folder, { recursive: true }));

const IMAGES = [
  { id: 391895, file_name: 'COCO_val2014_000000391895.jpg', width: 640 },
  { id: 522418, file_name: 'b.jpg' },
  { id: 3, file_name: '../outside.jpg' },
  { id: 4, file_name: 'gone.jpg' },
];

/** Writes the file, and the two images into a folder of its parent. */
async function write(images: unknown, annotations: unknown, at = 'val2014'): Promise<void> {
  const files = { [`${at}/COCO_val2014_000000391895.jpg`]: 'A', [`${at}/b.jpg`]: 'B' };
  for (const [name, text] of Object.entries({
    ...files,
    'annotations/captions_val2014.json': JSON.stringify({ info: {}, images, annotations }),
  })) {
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFile(join(folder, name), text);
  }
}

describe('cocoSource', () => {
  it('gives a pair for each annotation, in its order, with the annotation’s id and the image’s', async () => {
    await write(IMAGES, [
      { image_id: 522418, id: 681330, caption: 'A woman cutting a large white sheet cake.' },
      { image_id: 391895, id: 770337, caption: ' A man with a red helmet.\n' },
      { image_id: 522418, id: 681331, caption: 'Again the cake.' },
    ]);
    const source = await cocoSource(file);
    expect([source.columns, source.parts[0]?.size]).toEqual([['image_id'], 3]);
    const { pairs, problems } = await collect(source);
    expect(problems).toEqual([]);
    expect(pairs.map(({ image, ...rest }) => ({ ...rest, image: Buffer.from(image).toString() }))).toEqual([
      {
        id: '681330',
        image: 'B',
        caption: 'A woman cutting a large white sheet cake.',
        extra: { image_id: '522418' },
      },
      { id: '770337', image: 'A', caption: ' A man with a red helmet.\n', extra: { image_id: '391895' } },
      { id: '681331', image: 'B', caption: 'Again the cake.', extra: { image_id: '522418' } },
    ]);
  });

  it('tells of each annotation without a pair, and goes on', async () => {
    const bad = [
      ['no image of its image_id in the list "images": 9', { image_id: 9, id: 1, caption: 'x' }],
      ['no image_id', { id: 1, caption: 'x' }],
      ['caption is empty', { image_id: 522418, id: 1, caption: ' ' }],
      ['caption is empty', { image_id: 522418, id: 1 }],
      [
        'file_name must name a file of the image folder: ../outside.jpg',
        { image_id: 3, id: 1, caption: 'x' },
      ],
      [`cannot read the image: ${join(folder, 'val2014/gone.jpg')}`, { image_id: 4, id: 1, caption: 'x' }],
      ['not a JSON object', 'x'],
    ] as const;
    await writeFile(join(folder, 'outside.jpg'), 'O');
    await write(IMAGES, [
      ...bad.map(([, annotation]) => annotation),
      { image_id: 522418, id: 2, caption: 'y' },
    ]);
    const { pairs, problems } = await collect(cocoSource(file));
    expect(pairs.map(({ id }) => id)).toEqual(['2']);
    expect(problems).toEqual(bad.map(([reason], i) => `${file}: annotations[${i}]: ${reason}`));
  });

  it.each([
    'val2014',
    'annotations/val2014',
    'images/val2014',
    'annotations/images',
    'images',
    'annotations',
  ])('finds the images in %s', async (at) => {
    await write(IMAGES, [{ image_id: 522418, id: 2, caption: 'y' }], at);
    expect((await collect(cocoSource(file))).pairs).toHaveLength(1);
  });

  it('takes the folder that is named, and says where it looked if none is', async () => {
    await write(IMAGES, [{ image_id: 522418, id: 2, caption: 'y' }], 'elsewhere');
    await expect(cocoSource(file)).rejects.toThrow(
      /COCO_val2014_000000391895.jpg is in none of .*val2014.*--images/,
    );
    await expect(cocoSource(file, join(folder, 'gone'))).rejects.toThrow(/gone: no such file/);
    expect((await collect(cocoSource(file, join(folder, 'elsewhere')))).pairs).toHaveLength(1);
  });

  it.each(['[]', '{"images": []}', '{"images": {}, "annotations": []}', '{', 'null'])(
    'refuses %j',
    async (text) => {
      await mkdir(dirname(file));
      await writeFile(file, text);
      await expect(cocoSource(file)).rejects.toThrow(/COCO captions/);
      await expect(cocoSource(file)).rejects.toThrow(UserError);
    },
  );
});
