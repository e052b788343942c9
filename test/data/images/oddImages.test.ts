/** Images of every kind that users have, against what Pillow makes of them (scripts/fixtures/odd_images.py). */
import { createHash } from 'node:crypto';
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
