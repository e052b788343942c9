/** The kinds of bad image that data of the web holds: each refused in a few words, soon, and before it takes memory. */
import sharp, { type Sharp } from 'sharp';
import { describe, expect, it } from 'vitest';
import { BadImage, decodeImage, preprocess } from '../../../src/data/images/images.js';

const MAX_MS = 3000; // tens of milliseconds on an idle machine; a bomb that is unpacked takes far longer
const MAX_MB = 100; // the smallest of the bombs, of 64 megapixels, unpacks to 183

/** A picture whose pixels do not matter. */
function blank(width: number, height: number): Sharp {
  return sharp({ create: { width, height, channels: 3, background: '#888' } });
}

/** Bytes with others written over them. */
function patched(bytes: Buffer, at: number, values: readonly number[]): Buffer {
  bytes.set(values, at);
  return bytes;
}

/** A size in a file's header made large, so that the file itself stays small. */
const bombs: [string, () => Promise<Buffer> | Buffer][] = [
  [
    'PNG of 64 megapixels in 0.3 MB',
    () =>
      sharp(Buffer.alloc(6.4e7), { raw: { width: 8000, height: 8000, channels: 1 } })
        .png({ compressionLevel: 1 })
        .toBuffer(),
  ],
  [
    'PNG of 65,535²',
    async () => patched(await blank(9, 9).png().toBuffer(), 16, [0, 0, 255, 255, 0, 0, 255, 255]),
  ],
  [
    'PNG of 1 × 20,000,000',
    async () => patched(await blank(9, 9).png().toBuffer(), 16, [0, 0, 0, 1, 1, 49, 45, 0]),
  ],
  [
    'JPEG of 65,500²',
    async () => {
      const bytes = await blank(9, 9).jpeg().toBuffer();
      return patched(bytes, bytes.indexOf(Buffer.of(0xff, 0xc0)) + 5, [255, 220, 255, 220]);
    },
  ],
  ['GIF of 65,535²', async () => patched(await blank(9, 9).gif().toBuffer(), 6, [255, 255, 255, 255])],
  [
    'GIF frame of 65,535² on a small canvas',
    async () => {
      const bytes = await blank(9, 9).gif().toBuffer();
      return patched(bytes, bytes.indexOf(Buffer.of(0x2c, 0, 0, 0, 0, 9, 0)) + 5, [255, 255, 255, 255]);
    },
  ],
  [
    'WebP of 16,384²',
    async () => {
      const bytes = await blank(9, 9).webp({ lossless: true }).toBuffer();
      const at = bytes.indexOf('VP8L') + 9;
      return patched(bytes, at, [0xff, 0xff, 0xff, (bytes[at + 3] ?? 0) | 0x0f]);
    },
  ],
  [
    'AVIF of 20,000²',
    async () => {
      const bytes = await blank(64, 64).avif({ effort: 0 }).toBuffer();
      return patched(bytes, bytes.indexOf('ispe') + 8, [0, 0, 78, 32, 0, 0, 78, 32]);
    },
  ],
  [
    'TIFF of 60,000²',
    async () => {
      const bytes = await blank(9, 9).tiff({ compression: 'deflate' }).toBuffer();
      const directory = bytes.readUInt32LE(4);
      for (let entry = directory + 2; bytes.readUInt16LE(entry) <= 257; entry += 12)
        if (bytes.readUInt16LE(entry) >= 256) bytes.writeUInt32LE(60_000, entry + 8);
      return bytes;
    },
  ],
];

const damaged: [string, RegExp, () => Promise<Buffer> | Buffer][] = [
  ['zero bytes', /^no bytes$/, () => Buffer.of()],
  [
    'a web page named .jpg',
    /^a web page, not an image$/,
    () => Buffer.from('\n<!DOCTYPE html><html>404</html>'),
  ],
  ['JSON of an error', /^text, not an image$/, () => Buffer.from('{"error": "gone"}')],
  [
    'an SVG drawing that names a file',
    /^an SVG drawing: Pillow does not read it$/,
    () =>
      Buffer.from(
        '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="/etc/hostname"/></svg>',
      ),
  ],
  ['a PDF document', /^a PDF document, not an image$/, () => Buffer.from('%PDF-1.7\n')],
  ['other bytes', /^not JPEG, PNG, GIF, WebP, TIFF or AVIF: starts with 01 02 03$/, () => Buffer.of(1, 2, 3)],
  [
    'a JPEG of a few bytes',
    /^JPEG without a size/,
    async () => (await blank(9, 9).jpeg().toBuffer()).subarray(0, 60),
  ],
  [
    'a JPEG cut short',
    /^JPEG damaged or cut short$/,
    async () => (await blank(99, 99).jpeg().toBuffer()).subarray(0, -40),
  ],
  [
    'a PNG cut short',
    /^PNG damaged or cut short$/,
    async () => (await blank(99, 99).png().toBuffer()).subarray(0, -30),
  ],
  [
    'a PNG of a few bytes',
    /^PNG without a size/,
    async () => (await blank(9, 9).png().toBuffer()).subarray(0, 20),
  ],
  ['a GIF cut short', /^GIF cut short$/, async () => (await blank(99, 99).gif().toBuffer()).subarray(0, -9)],
  [
    'a WebP cut short',
    /^WebP damaged or cut short$/,
    async () => (await blank(99, 99).webp().toBuffer()).subarray(0, -9),
  ],
  [
    'a WebP of a few bytes',
    /^WebP without a size/,
    async () => (await blank(9, 9).webp().toBuffer()).subarray(0, 20),
  ],
  [
    'an image without rows',
    /^no pixels: 9×0$/,
    async () => patched(await blank(9, 9).png().toBuffer(), 20, [0, 0, 0, 0]),
  ],
];

describe('a bad image', () => {
  it.each(bombs)('%s is refused before it is unpacked', async (_, make) => {
    const bytes = await make();
    const memory = process.resourceUsage().maxRSS;
    const start = performance.now();
    const error: unknown = await decodeImage(bytes).catch((caught: unknown) => caught);
    expect(performance.now() - start).toBeLessThan(MAX_MS);
    expect((process.resourceUsage().maxRSS - memory) / 1024).toBeLessThan(MAX_MB);
    expect(error).toBeInstanceOf(BadImage);
    expect((error as BadImage).message).toMatch(/megapixels|on a side|pixel limit|size/i);
  });

  it.each(damaged)('%s: %s', async (_, reason, make) => {
    const bytes = await make();
    const error: unknown = await decodeImage(bytes).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(BadImage);
    expect((error as BadImage).message).toMatch(reason);
    expect((error as BadImage).message.length).toBeLessThanOrEqual(120);
    const transform = { size: 8, mean: [0, 0, 0], std: [1, 1, 1] };
    await expect(preprocess(bytes, transform)).rejects.toThrow(reason);
  });
});
