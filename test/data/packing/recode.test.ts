import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { BadImage, decodeImage } from '../../../src/data/images/images.js';
import { describeRecipe, recode } from '../../../src/data/packing/recode.js';

const IMAGES = join(import.meta.dirname, '../../fixtures/images');
const read = (name: string) => readFile(join(IMAGES, name));
const images = (await readdir(IMAGES)).filter((name) => /\.(jpg|png|gif|webp)$/.test(name));

/** The trainer's pixels of an image, scaled in full precision to the size of another; mean difference to that one. */
async function differenceTo(bytes: Uint8Array, made: Uint8Array): Promise<number> {
  const [original, { data, width, height }] = [await decodeImage(bytes), await decodeImage(made)];
  const scaled = await sharp(original.data, {
    raw: { width: original.width, height: original.height, channels: 3 },
  })
    .resize({ width, height, fit: 'fill', kernel: 'lanczos3' })
    .raw()
    .toBuffer();
  let sum = 0;
  for (const [i, value] of scaled.entries()) sum += Math.abs(value - (data[i] ?? 0));
  return sum / scaled.length;
}

describe('recode', () => {
  it.each(images)(
    'scales %s down to the pixels that the trainer would see, and leaves smaller ones alone',
    async (name) => {
      const bytes = await read(name);
      const { width, height } = await decodeImage(bytes);
      const longer = Math.max(width, height);
      expect(await recode(bytes, { maxSide: longer })).toBe(bytes);
      const maxSide = Math.ceil(longer / 2);
      const made = await recode(bytes, { maxSide });
      const metadata = await sharp(made).metadata();
      expect([metadata.width, metadata.height]).toEqual(
        [width, height].map((side) => expect.closeTo((side * maxSide) / longer, -0.1) as number), // rounded: off by less than 0.63
      );
      const isLossless = /\.(png|gif)$/.test(name) || name === 'odd_lossless.webp';
      expect(metadata.format).toBe(isLossless ? 'png' : 'jpeg');
      // Rounding the sizes moves pixels a little. JPEG at 95 of images with sharp edges and noise costs some levels; shrinking while decoding less than one
      expect(await differenceTo(bytes, made)).toBeLessThan(isLossless ? 1 : 5);
    },
  );

  it('does not turn what EXIF says is to be turned, and drops the tag', async () => {
    const bytes = await read('img_06_exif.jpg');
    const before = await sharp(bytes).metadata();
    expect(before.orientation).toBeGreaterThan(1);
    const after = await sharp(await recode(bytes, { maxSide: 40 })).metadata();
    expect(after.orientation).toBeUndefined();
    expect(after.width > after.height).toBe(before.width > before.height);
  });

  it('with a quality stores as JPEG what that makes smaller, and only that', async () => {
    const png = await read('img_09_noise.png');
    const made = await recode(png, { quality: 60 });
    expect((await sharp(made).metadata()).format).toBe('jpeg');
    expect(made.length).toBeLessThan(png.length);
    const again = await recode(made, { quality: 95 });
    expect(again).toBe(made); // it would grow
    const scaled = await recode(await read('img_01.png'), { maxSide: 32, quality: 60 });
    expect((await sharp(scaled).metadata()).format).toBe('jpeg');
  });

  it('tells of what it cannot decode; what it need not decode it does not', async () => {
    const jpeg = await read('img_00.jpg');
    const cut = jpeg.subarray(0, jpeg.length / 2);
    for (const [text, reason] of [
      ['<html>', 'a web page, not an image'],
      [
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        'an SVG drawing: Pillow does not read it',
      ],
      ['', 'no bytes'],
    ] as const)
      await expect(recode(Buffer.from(text), { maxSide: 8 })).rejects.toThrow(new BadImage(reason));
    for (const [name, reason] of [
      ['img_00.jpg', 'JPEG damaged or cut short'],
      ['img_03_rgba.png', 'PNG damaged or cut short'], // the trainer's decoder tells it
      ['odd_animated.gif', 'GIF damaged or cut short'],
    ] as const) {
      const whole = await read(name);
      const short = whole.subarray(0, whole.length / 4);
      await expect(recode(short, { maxSide: 8 })).rejects.toThrow(new BadImage(reason));
    }
    expect(await recode(cut, { maxSide: 10_000 })).toBe(cut);
  });
});

describe('describeRecipe', () => {
  it('says what was done', () => {
    expect(describeRecipe({ maxSide: 256 })).toMatch(
      /^images with a longer side of more than 256 pixels .* quality 95, or as PNG if/,
    );
    expect(describeRecipe({ quality: 80 })).toMatch(
      /^images were stored as JPEG of quality 80 where that made them smaller; all others/,
    );
  });
});
