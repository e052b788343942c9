/** MiniGPT-4's image processors: decoding, the plain resize and v1's random crop, against its own (test/fixtures/minigpt4-tiny). */
import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cropImage } from '../../src/data/images/crop.js';
import { decodeImage, normalise, preprocess } from '../../src/data/images/images.js';
import { resizeBicubic, type RgbImage } from '../../src/data/images/resize.js';
import { CLIP_PIXELS } from '../../src/model/vision/vitSizes.js';
import { largestDifference } from '../helpers/compare.js';
import { bytes, expected, floats, tiny } from './minigpt4.js';

/** Holds the images that the recordings are of, byte for byte. */
const IMAGES = join(import.meta.dirname, '../fixtures/images');
const { image_size: H } = tiny;
const VALUES = 3 * H * H; // of one image's pixels
const { imageMean: mean, imageStd: std } = CLIP_PIXELS;

const pixels = await floats('pixels');
const cropPixels = await floats('crop_pixels');
const images = expected.images.map(({ file, index, size_wh: [width, height] }) => ({
  name: basename(file),
  jpeg: file.endsWith('.jpg'),
  index,
  width,
  height,
}));

/** What Pillow decoded of an image. */
async function decoded(index: number): Promise<RgbImage> {
  const { width = NaN, height = NaN } = images[index] ?? {};
  return { width, height, data: await bytes(`decoded.${String(index).padStart(2, '0')}`) };
}

function read(name: string): Promise<Buffer> {
  return readFile(join(IMAGES, name));
}

describe('decoding', () => {
  it.each(images.filter(({ jpeg }) => !jpeg))('$name has exactly the reference’s pixels', async (image) => {
    const got = await decodeImage(await read(image.name));
    const { data, ...size } = await decoded(image.index);
    expect(got).toMatchObject(size);
    expect(largestDifference(got.data, data)).toBe(0);
  });

  it.each(images.filter(({ jpeg }) => jpeg))('$name is within 2 levels of the reference’s', async (image) => {
    const got = await decodeImage(await read(image.name));
    const { data, ...size } = await decoded(image.index);
    expect(got).toMatchObject(size);
    // 0 with sharp 0.35.5 (libjpeg-turbo, as in Pillow); other decoders may round the DCT otherwise (design.md 6)
    expect(largestDifference(got.data, data)).toBeLessThanOrEqual(2);
  });
});

describe('the evaluation’s transform', () => {
  it.each(images)('$name, decoded, gives the recorded pixels', async ({ index }) => {
    const got = normalise(resizeBicubic(await decoded(index), H, H), mean, std);
    expect(largestDifference(got, pixels.subarray(index * VALUES, (index + 1) * VALUES))).toBe(0);
  });
});

describe('v1’s training transform', () => {
  it.each(expected.crops.map((crop, i) => ({ ...crop, i })))(
    'a box of $width × $height of image $image gives the recorded pixels',
    async ({ image, i, ...box }) => {
      const got = normalise(resizeBicubic(cropImage(await decoded(image), box), H, H), mean, std);
      const recorded = cropPixels.subarray(i * VALUES, (i + 1) * VALUES);
      expect(largestDifference(got, recorded)).toBe(0);
    },
  );

  it('preprocess decodes, crops, resizes and normalises in that order', async () => {
    const i = expected.crops.findIndex(({ image }) => images[image]?.name === 'img_01.png');
    const recorded = cropPixels.subarray(i * VALUES, (i + 1) * VALUES);
    const transform = { size: H, mean, std };
    const crop = (width: number, height: number) => {
      expect([width, height]).toEqual([100, 100]);
      return expected.crops[i] ?? { top: 0, left: 0, width, height };
    };
    expect(largestDifference(await preprocess(await read('img_01.png'), transform, crop), recorded)).toBe(0);
  });
});
