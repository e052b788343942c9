/** The boxes of random crops against torchvision's (scripts/fixtures/crop.py), and the pixels within them. */
import { describe, expect, it } from 'vitest';
import { cropAt, cropImage, randomCropBox, type CropBox } from '../../../src/data/images/crop.js';
import type { RgbImage } from '../../../src/data/images/resize.js';
import { readFixture } from '../../helpers/fixtures.js';

type Side = keyof CropBox;

interface Size {
  readonly width: number;
  readonly height: number;
}

/** What scripts/fixtures/crop.py writes. */
interface Expected {
  readonly draws: number;
  readonly boxes: readonly (Size & { readonly boxes: readonly (readonly number[])[] })[];
  readonly statistics: readonly (Size & {
    readonly numbers: Readonly<
      Record<
        Side,
        {
          readonly mean: number;
          readonly deviation: number;
          /** [value, share of the boxes at or below it] */
          readonly shares: readonly (readonly [number, number])[];
        }
      >
    >;
  })[];
}

const DRAWS = 25_000; // boxes of ours a size, against torchvision's 100,000
const SIDES = ['top', 'left', 'height', 'width'] as const;
const expected = await readFixture<Expected>('crop/expected.json');

/** The generator of scripts/fixtures/crop.py. */
function deviates(): () => number {
  let x = 12345;
  return () => {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    return (x >>> 8) / 2 ** 24;
  };
}

describe('randomCropBox', () => {
  it('gives torchvision’s 3300 boxes from the same deviates, in images of eleven shapes', () => {
    const random = deviates(); // one stream: a deviate too many or too few would move all boxes after it
    for (const { width, height, boxes } of expected.boxes) {
      const got = boxes.map(() => randomCropBox(width, height, random));
      expect(got.map((box) => SIDES.map((side) => box[side]))).toEqual(boxes);
    }
  });

  it.each([
    [300, 100, { top: 0, left: 83, height: 100, width: 133 }], // 4:3; a try needs √(½ · 3 · ¾) = 1.06 heights
    [100, 500, { top: 183, left: 0, height: 133, width: 100 }],
    [1, 1, { top: 0, left: 0, height: 1, width: 1 }],
  ])('takes the largest allowed box in the middle where none fits: %i × %i', (width, height, box) => {
    expect(randomCropBox(width, height, () => 0.5)).toEqual(box);
  });

  it('rounds a half to the even neighbour, as Python does', () => {
    // 4.5² of 8 × 4 pixels at ratio 1: each side is 4.5, and only as 4 does it fit
    const draws = [(4.5 ** 2 / 32 - 0.5) / 0.5, 0.5, 0, 0];
    const { width, height } = randomCropBox(8, 4, () => draws.shift() ?? NaN);
    expect([width, height]).toEqual([4, 4]);
  });

  it('refuses an image without pixels', () => {
    expect(() => randomCropBox(0, 5, () => 0)).toThrow(/at least 1, got 0 and 5/);
  });
});

describe('cropAt', () => {
  const boxes = (size: Size, seed: number): CropBox[] =>
    Array.from({ length: DRAWS }, (_, position) => cropAt(seed, position)(size.width, size.height));

  it.each(expected.statistics)(
    'boxes in $width × $height are distributed as torchvision’s',
    ({ numbers, ...size }) => {
      const got = boxes(size, 42);
      for (const side of SIDES) {
        const values = got.map((box) => box[side]);
        const { mean, deviation, shares } = numbers[side];
        // five standard errors of the difference of two samples, which chance passes in 1 of 2 million comparisons
        const spread = 5 * Math.sqrt(1 / DRAWS + 1 / expected.draws);
        expect(Math.abs(average(values) - mean), side).toBeLessThan(spread * deviation + 1e-9);
        for (const [value, share] of shares) {
          const here = values.filter((one) => one <= value).length / DRAWS;
          const limit = spread * Math.sqrt(share * (1 - share)) + 1e-9;
          expect(Math.abs(here - share), `${side} <= ${value}`).toBeLessThan(limit);
        }
      }
    },
  );

  it('is a function of seed and position alone, and other ones give other boxes', () => {
    const at = (seed: number, position: number): string => JSON.stringify(cropAt(seed, position)(640, 480));
    const crop = cropAt(3, 7);
    expect(crop(640, 480)).toEqual(crop(640, 480)); // asked twice, drawn once
    expect(at(3, 7)).toBe(JSON.stringify(crop(640, 480)));
    const all = [0, 1, 2].flatMap((seed) => Array.from({ length: 200 }, (_, position) => at(seed, position)));
    expect(new Set(all).size).toBeGreaterThan(595); // of 600: thousands of boxes are possible
  });
});

describe('cropImage', () => {
  const image: RgbImage = { width: 4, height: 3, data: Uint8Array.from({ length: 36 }, (_, i) => i) };

  it('takes the rows and columns of the box', () => {
    const { data, ...size } = cropImage(image, { top: 1, left: 2, height: 2, width: 2 });
    expect(size).toEqual({ width: 2, height: 2 });
    expect([...data]).toEqual([18, 19, 20, 21, 22, 23, 30, 31, 32, 33, 34, 35]);
  });

  it('copies nothing where the box is the image', () => {
    expect(cropImage(image, { top: 0, left: 0, height: 3, width: 4 })).toBe(image);
  });

  it('refuses a box that is not within the image', () => {
    expect(() => cropImage(image, { top: 1, left: 0, height: 3, width: 4 })).toThrow(
      /must lie within 4×3, got 4×3 at left 0, top 1/,
    );
  });
});

function average(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
