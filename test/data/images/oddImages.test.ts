/** Images of every kind that users have, against what Pillow makes of them (scripts/fixtures/odd_images.py). */
import { createHash } from 'node:crypto';
import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { BadImage, decodeImage } from '../../../src/data/images/images.js';
import { readFixture } from '../../helpers/fixtures.js';

/** What the script writes; `file` in base64. */
type Entry = { readonly name: string; readonly file: string } & (
  | { readonly refused: string }
  | { readonly mode: string; readonly width: number; readonly height: number; readonly rgb: string }
);

const { images } = await readFixture<{ images: Entry[] }>('odd-images/expected.json');
const read = images.flatMap((entry) => ('rgb' in entry ? [entry] : []));
const refused = images.flatMap((entry) => ('refused' in entry ? [entry] : []));

describe('decodeImage', () => {
  it.each(read)('decodes $name, in Pillow $mode, to exactly Pillow’s RGB', async ({ file, ...expected }) => {
    const { width, height, data } = await decodeImage(Buffer.from(file, 'base64'));
    const rgb = createHash('sha256').update(data).digest('hex');
    expect({ width, height, rgb }).toEqual({
      width: expected.width,
      height: expected.height,
      rgb: expected.rgb,
    });
  });

  it.each(refused)('refuses $name, which Pillow refuses: $refused', async ({ file }) => {
    await expect(decodeImage(Buffer.from(file, 'base64'))).rejects.toBeInstanceOf(BadImage);
  });
});

/** A picture of noise, so that a shifted or missing part shows. */
const noise = () => sharp({ create: { width: 40, height: 30, channels: 3, background: '#888', noise: { type: 'gaussian', mean: 128, sigma: 40 } } }); // prettier-ignore

describe('what Pillow and libjpeg pass over', () => {
  it.each([
    ['00 00', [0, 0]],
    ['an escaped ff', [1, 0xff, 0]],
    ['fill bytes', [7, 0xff, 0xff]],
  ])('%s between the segments of a JPEG changes nothing', async (_, stray) => {
    const bytes = await noise().jpeg().toBuffer();
    const at = bytes.indexOf(Buffer.of(0xff, 0xc0)); // the frame header
    const odd = Buffer.concat([bytes.subarray(0, at), Buffer.from(stray), bytes.subarray(at)]);
    expect(await decodeImage(odd)).toEqual(await decodeImage(bytes));
  });

  it('is not looked for behind the end', async () => {
    const bytes = Buffer.concat([Buffer.of(0xff, 0xd8, 0xff, 0xe0, 0, 4, 0, 0), Buffer.alloc(99)]);
    await expect(decodeImage(bytes)).rejects.toThrow(/^JPEG without a size: cut short or damaged$/);
  });
});

describe('an AVIF whose major brand is that of all HEIF', () => {
  /** With these in the place of the brands avif, mif1, avif and miaf. */
  const branded = (bytes: Buffer, major: string, compatible: string) => {
    const odd = Buffer.from(bytes);
    odd.write(major, 8);
    odd.write(compatible, 16);
    return odd;
  };

  it('is read where avif is among its compatible brands, and only there', async () => {
    const bytes = await noise().avif({ effort: 0 }).toBuffer();
    expect(bytes.toString('latin1', 4, 28)).toBe('ftypavif\0\0\0\0mif1avifmiaf');
    for (const major of ['mif1', 'msf1'])
      expect(await decodeImage(branded(bytes, major, 'miafMA1Bavif'))).toEqual(await decodeImage(bytes));
    await expect(decodeImage(branded(bytes, 'mif1', 'mif1heicmiaf'))).rejects.toThrow(
      /^not JPEG, PNG, GIF, WebP, TIFF or AVIF/,
    );
  });
});
