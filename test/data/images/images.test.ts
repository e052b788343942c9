import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { gunzipSync } from 'node:zlib';
import sharp from 'sharp';
import { describe, expect, it, vi } from 'vitest';
import type { CropBox } from '../../../src/data/images/crop.js';
import { BadImage, decodeImage, normalise, preprocess } from '../../../src/data/images/images.js';
import { resizeBicubic, type RgbImage } from '../../../src/data/images/resize.js';

interface Expected {
  mean: number[];
  std: number[];
  images: {
    file: string;
    width: number;
    height: number;
    decoded: string;
    jpegOffset: number | null;
    resized56: string;
    resized224: string;
    pixels56: string;
  }[];
  odd: { file: string; decoded: string }[];
  synthetic: { width: number; height: number; toWidth: number; toHeight: number; resized: string }[];
}

const folder = new URL('../../fixtures/images/', import.meta.url);
// Written by scripts/fixtures/images.py in this very shape.
const expected = JSON.parse(await readFile(new URL('expected.json', folder), 'utf8')) as Expected;
const jpegPixels = gunzipSync(await readFile(new URL('jpegs.rgb.gz', folder)));
const read = (file: string) => readFile(new URL(file, folder));
const sha = (bytes: Uint8Array | Float32Array) =>
  createHash('sha256')
    .update(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength))
    .digest('hex');

/** The pixels that Pillow decoded: for a JPEG as recorded, otherwise ours, which the first test holds to be the same. */
async function referencePixels(entry: Expected['images'][number]): Promise<RgbImage> {
  const { width, height, jpegOffset } = entry;
  if (jpegOffset === null) return decodeImage(await read(entry.file));
  return { width, height, data: jpegPixels.subarray(jpegOffset, jpegOffset + width * height * 3) };
}

/** The generator of scripts/fixtures/images.py. */
function noise(width: number, height: number): RgbImage {
  let x = 12345;
  const data = Uint8Array.from({ length: width * height * 3 }, () => {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    return x >>> 24;
  });
  return { width, height, data };
}

describe('decodeImage', () => {
  it.each(expected.images)('decodes $file to the pixels of Pillow (JPEG within 2 levels)', async (entry) => {
    const image = await decodeImage(await read(entry.file));
    expect([image.width, image.height]).toEqual([entry.width, entry.height]);
    if (entry.jpegOffset === null) {
      expect(sha(image.data)).toBe(entry.decoded);
      return;
    }
    const reference = await referencePixels(entry);
    expect(image.data.length).toBe(reference.data.length);
    // Other JPEG decoders may round the DCT otherwise; 2 levels is design.md 6.
    expect(
      image.data.reduce((max, v, i) => Math.max(max, Math.abs(v - (reference.data[i] ?? 999))), 0),
    ).toBeLessThanOrEqual(2);
  });

  it.each(expected.odd)('decodes $file exactly as Pillow', async ({ file, decoded }) => {
    expect(sha((await decodeImage(await read(file))).data)).toBe(decoded);
  });

  it('ignores an embedded colour profile, as Pillow does', async () => {
    const plain = await decodeImage(await read('img_10_exact.png'));
    const raw = { raw: { width: plain.width, height: plain.height, channels: 3 as const } };
    const tagged = await sharp(plain.data, raw).withIccProfile('p3', { attach: true }).png().toBuffer();
    const stored = await sharp(tagged, { ignoreIcc: true }).raw().toBuffer();
    expect((await sharp(tagged).metadata()).icc).toBeDefined();
    expect(sha((await decodeImage(tagged)).data)).toBe(sha(stored));
  });

  it.each([
    ['no bytes', () => new Uint8Array(0)],
    ['a truncated JPEG', async () => (await read('img_00.jpg')).subarray(0, 1500)],
    ['a truncated PNG', async () => (await read('img_09_noise.png')).subarray(0, 6000)],
    ['a web page in place of an image', () => Buffer.from('<!DOCTYPE html><html><body>404</body></html>')],
    ['random bytes', () => noise(20, 20).data],
  ])('throws BadImage with a short reason for %s', async (_, make) => {
    const error: unknown = await decodeImage(await make()).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(BadImage);
    expect((error as BadImage).message).toMatch(/^.{5,120}$/);
  });
});

describe('resizeBicubic', () => {
  it.each(expected.images)('resizes $file to exactly the bytes of Pillow at 56 and 224', async (entry) => {
    const pixels = await referencePixels(entry);
    expect(sha(resizeBicubic(pixels, 56, 56).data)).toBe(entry.resized56);
    expect(sha(resizeBicubic(pixels, 224, 224).data)).toBe(entry.resized224);
  });

  it.each(expected.synthetic)(
    'resizes noise of $width × $height to $toWidth × $toHeight exactly as Pillow',
    (entry) => {
      const resized = resizeBicubic(noise(entry.width, entry.height), entry.toWidth, entry.toHeight);
      expect(sha(resized.data)).toBe(entry.resized);
    },
  );

  it('refuses a size of 0 and data of another size', () => {
    expect(() => resizeBicubic(noise(4, 4), 0, 4)).toThrow(
      /width and height must be whole numbers from 1, got 0 and 4/,
    );
    expect(() => resizeBicubic({ ...noise(4, 4), height: 5 }, 2, 2)).toThrow(
      /data must hold 4×5×3 bytes, got 48/,
    );
  });
});

describe('normalise and preprocess', () => {
  it.each(expected.images)('normalises $file to the floats of torchvision, bit for bit', async (entry) => {
    const image = resizeBicubic(await referencePixels(entry), 56, 56);
    expect(sha(normalise(image, expected.mean, expected.std))).toBe(entry.pixels56);
  });

  it('preprocess is decode, resize and normalise in one', async () => {
    const entry = expected.images.find(({ file }) => file === 'img_01.png');
    const { mean, std } = expected;
    expect(sha(await preprocess(await read('img_01.png'), { size: 56, mean, std }))).toBe(entry?.pixels56);
  });

  it.each(['img_00.jpg', 'img_03_rgba.png', 'img_04_cmyk.jpg', 'odd_animated.gif'])(
    'preprocess of %s, whole and cropped, gives the same bits where set-up has not run',
    async (file) => {
      const bytes = await read(file);
      const transform = { size: 31, mean: expected.mean, std: expected.std };
      const crop = (width: number, height: number): CropBox => ({
        top: 5,
        left: 3,
        width: width - 9,
        height: height - 7,
      });
      const quick = [await preprocess(bytes, transform), await preprocess(bytes, transform, crop)];
      vi.stubEnv('MINIGPT4_CACHE', '/nowhere');
      vi.resetModules();
      const plain = await import('../../../src/data/images/images.js');
      expect((await import('../../../src/native.js')).findNative()).toBeUndefined();
      const slow = [await plain.preprocess(bytes, transform), await plain.preprocess(bytes, transform, crop)];
      vi.unstubAllEnvs();
      expect(quick.map(sha)).toEqual(slow.map(sha));
      expect(quick.map(sha)[0]).not.toBe(quick.map(sha)[1]);
    },
  );

  it('refuses a missing or zero standard deviation', () => {
    expect(() => normalise(noise(1, 1), [0, 0, 0], [1, 0, 1])).toThrow(/std above 0, got 0 and 0/);
  });
});
