/** The addon's resizing against the readable one (src/data/images/resize.ts), whose numbers other tests hold to Pillow's. */
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { cropImage, type CropBox } from '../src/data/images/crop.js';
import { normalise } from '../src/data/images/images.js';
import { resizeBicubic, type RgbImage } from '../src/data/images/resize.js';
import { loadNative, type ResizeJob } from '../src/native.js';
import { readFixture } from './helpers/fixtures.js';

const MEAN = [0.48145466, 0.4578275, 0.40821073];
const STD = [0.26862954, 0.26130258, 0.27577711];
const levels = levelsOf(MEAN, STD);
const bytesAsFloats = Float32Array.from({ length: 768 }, (_, i) => i % 256);
const native = loadNative();
const PATHS = native.hasWideKernel() ? [true, false] : [false];

/** The levels by the readable way: an image of all bytes, normalised. */
function levelsOf(mean: readonly number[], std: readonly number[]): Float32Array {
  const data = Uint8Array.from({ length: 768 }, (_, i) => Math.floor(i / 3));
  return normalise({ width: 256, height: 1, data }, mean, std);
}

/** Bytes of a generator; by `kind` all of them, black and white alone, or slow waves. */
function pixels(width: number, height: number, { seed, kind }: { seed: number; kind: number }): RgbImage {
  let state = seed;
  const next = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 24;
  const data = Uint8Array.from({ length: width * height * 3 }, (_, i) =>
    kind === 0 ? next() : kind === 1 ? (next() > 127 ? 255 : 0) : Math.round(127 + 127 * Math.sin(i / 9)),
  );
  return { width, height, data };
}

function jobOf({ data, width, height }: RgbImage, size: number, box?: CropBox): ResizeJob {
  const { left, top, width: boxWidth, height: boxHeight } = box ?? { left: 0, top: 0, width, height };
  return { data, width, height, layout: 0, left, top, boxWidth, boxHeight, size, levels, wide: true };
}

function readable(image: RgbImage, size: number, box?: CropBox): Float32Array {
  return normalise(resizeBicubic(box ? cropImage(image, box) : image, size, size), MEAN, STD);
}

/** One number for all bits of the floats: comparing 150,000 floats one by one takes vitest seconds. */
const sha = (floats: Float32Array): string =>
  createHash('sha256')
    .update(new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength))
    .digest('hex');

/** Some number from 1 to `most`, often a small one. */
const side = (most: number): fc.Arbitrary<number> =>
  fc.oneof(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: most }));

describe.each(PATHS)('resizeNormalise, with AVX2: %s', (wide) => {
  it('equals the readable way bit for bit, whatever the size and the part', async () => {
    const share = fc.double({ min: 0, max: 1, noNaN: true });
    await fc.assert(
      fc.asyncProperty(
        fc.record({ width: side(150), height: side(150), size: side(70), kind: fc.nat(2), seed: fc.nat() }),
        fc.tuple(share, share, share, share),
        async ({ width, height, size, ...content }, [x0, y0, x1, y1]) => {
          const image = pixels(width, height, content);
          const [left, top] = [Math.floor(x0 * (width - 1)), Math.floor(y0 * (height - 1))];
          const box = {
            ...{ left, top },
            width: 1 + Math.floor(x1 * (width - left - 1)),
            height: 1 + Math.floor(y1 * (height - top - 1)),
          };
          const got = await native.resizeNormalise({ ...jobOf(image, size, box), wide });
          expect(sha(got)).toBe(sha(readable(image, size, box)));
        },
      ),
      { numRuns: 150 },
    );
  });

  it.each([
    [1, 1, 224],
    [9000, 2, 16],
    [2, 9000, 16],
    [1, 700, 224],
    [700, 1, 31],
    [224, 224, 224],
    [65535, 1, 3],
    [3, 65535, 3],
  ])('equals it at %i × %i → %i', async (width, height, size) => {
    const image = pixels(width, height, { seed: 3, kind: 0 });
    const got = await native.resizeNormalise({ ...jobOf(image, size), wide });
    expect(sha(got)).toBe(sha(readable(image, size)));
  });

  it('gives Pillow’s very bytes for the noise of the image fixtures', async () => {
    type Noise = Record<'width' | 'height' | 'toWidth' | 'toHeight', number> & { readonly resized: string };
    const { synthetic } = await readFixture<{ synthetic: Noise[] }>('images/expected.json');
    const square = synthetic.filter(({ toWidth, toHeight }) => toWidth === toHeight);
    expect(square.length).toBeGreaterThan(3);
    for (const { width, height, toWidth: size, resized } of square) {
      const job = jobOf(pixels(width, height, { seed: 12345, kind: 0 }), size);
      const planes = await native.resizeNormalise({ ...job, levels: bytesAsFloats, wide });
      const area = size * size;
      const bytes = Uint8Array.from(
        { length: 3 * area },
        (_, i) => planes[(i % 3) * area + Math.floor(i / 3)] ?? -1,
      );
      expect(createHash('sha256').update(bytes).digest('hex')).toBe(resized);
    }
  });

  it('reads CMYK by Pillow’s rule and cuts 16-bit grey off at 255', async () => {
    const inks = [0, 0, 0, 0, 255, 0, 0, 0, 0, 128, 0, 0, 10, 20, 30, 40]; // of 2 × 2 pixels
    const job = {
      ...jobOf({ width: 2, height: 2, data: Uint8Array.from(inks) }, 2),
      levels: bytesAsFloats,
      wide,
    };
    const colours = await native.resizeNormalise({ ...job, layout: 1 });
    // red, green and blue planes; (255-10)·(255-40)/255 = 206.6 and so on
    expect([...colours]).toEqual([255, 0, 255, 207, 255, 255, 127, 198, 255, 255, 255, 190]);
    const data = new Uint8Array(Uint16Array.of(0, 254, 256, 65535).buffer);
    const greys = await native.resizeNormalise({ ...job, data, layout: 2 });
    expect([...greys]).toEqual([0, 254, 255, 255, 0, 254, 255, 255, 0, 254, 255, 255]);
  });
});

describe('resizeNormalise', () => {
  const image = pixels(5, 4, { seed: 1, kind: 0 });

  it.each<[string, Partial<Record<keyof ResizeJob, unknown>>]>([
    ['width', { width: 0 }],
    ['width', { width: 65_536 }],
    ['width', { width: 2.5 }],
    ['height', { height: NaN }],
    ['layout', { layout: 3 }],
    ['left', { left: -1 }],
    ['boxWidth', { left: 1 }],
    ['boxHeight', { boxHeight: 5 }],
    ['size', { size: 4097 }],
    ['levels', { levels: new Float32Array(767) }],
    ['levels', { levels: new Float64Array(768) }],
    ['data', { data: new Uint8Array(59) }],
    ['data', { layout: 1 }],
    ['data', { data: undefined }],
    ['wide', { wide: 1 }],
  ])('refuses a %s that does not fit: %o', (name, change) => {
    const job = { ...jobOf(image, 3), ...change } as ResizeJob; // wrong on purpose
    expect(() => native.resizeNormalise(job)).toThrow(`resizeNormalise: ${name} must fit`);
  });

  it('refuses what is no job', () => {
    expect(() => native.resizeNormalise(undefined as unknown as ResizeJob)).toThrow(
      /resizeNormalise|undefined/,
    );
  });

  it('gives each of many jobs at once its own result, though nobody else holds their arrays', async () => {
    const jobs = Array.from({ length: 60 }, (_, i) => pixels(40 + i, 70 - i, { seed: i, kind: 0 }));
    const running = jobs.map((one) =>
      native.resizeNormalise({ ...jobOf({ ...one, data: one.data.slice() }, 17), levels: levels.slice() }),
    );
    const pressure = Array.from({ length: 40 }, () => new Uint8Array(2 ** 20).fill(7)); // makes the collector run
    expect((await Promise.all(running)).map(sha)).toEqual(jobs.map((one) => sha(readable(one, 17))));
    expect(pressure).toHaveLength(40);
  });
});
