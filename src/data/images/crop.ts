/**
 * The random crop of MiniGPT-4 v1's training images: torchvision's `RandomResizedCrop` with scale (0.5, 1) and ratio
 * (3/4, 4/3), no flip. Which box a sample gets is a pure function of (seed, position), as its place in the order is.
 *
 * Source: Vision-CAIR/MiniGPT-4 at 22d8888, minigpt4/processors/blip_processors.py, `Blip2ImageTrainProcessor`; pytorch/vision
 * 0.20, torchvision/transforms/transforms.py, `RandomResizedCrop.get_params`.
 */
import { randomAt } from '../order/keyed.js';
import type { RgbImage } from './resize.js';

/** A part of an image, in whole pixels. */
export interface CropBox {
  readonly top: number;
  readonly left: number;
  readonly height: number;
  readonly width: number;
}

/** Chooses a box once the size of the image is known, in pixels. */
export type Crop = (width: number, height: number) => CropBox;

const TRIES = 10;
const SCALE = [0.5, 1] as const; // share of the image's area
const RATIO = [3 / 4, 4 / 3] as const; // width over height
const LOG_RATIO = [logFloat32(RATIO[0]), logFloat32(RATIO[1])] as const;

/**
 * The box of the sample at a position of the training order. A bad sample's replacement draws the same numbers, for its
 * own size.
 *
 * @param position samples drawn before it, from 0
 */
export function cropAt(seed: number, position: number): Crop {
  return (width, height) => {
    let draw = 0;
    return randomCropBox(width, height, () => randomAt(seed, position, `crop ${draw++}`));
  };
}

/**
 * Up to ten tries of a random area and ratio; the first that fits is placed at random. If none fits, as in an image three
 * times as wide as high, the largest centred box whose ratio is allowed.
 *
 * @param width of the image in pixels, a whole number from 1
 * @param height as `width`
 * @param random uniform in [0, 1); called for area and ratio at each try, and then for top and left
 * @throws RangeError if the image has no pixels
 */
export function randomCropBox(width: number, height: number, random: () => number): CropBox {
  if (!(width >= 1 && height >= 1))
    throw new RangeError(`randomCropBox: width and height must be at least 1, got ${width} and ${height}`);
  for (let attempt = 0; attempt < TRIES; attempt++) {
    const area = width * height * uniformFloat32(SCALE, random());
    const ratio = Math.fround(Math.exp(uniformFloat32(LOG_RATIO, random())));
    const box = {
      width: roundHalfEven(Math.sqrt(area * ratio)),
      height: roundHalfEven(Math.sqrt(area / ratio)),
    };
    if (box.width < 1 || box.width > width || box.height < 1 || box.height > height) continue;
    const top = Math.floor(random() * (height - box.height + 1)); // both ends may come
    return { top, left: Math.floor(random() * (width - box.width + 1)), ...box };
  }
  return centredBox(width, height);
}

/**
 * The pixels of a box alone: what is resized later sees nothing of its surroundings, as in torchvision's `resized_crop`.
 *
 * @returns a new image, or `image` itself if the box is all of it
 * @throws RangeError if the box is not within the image
 */
export function cropImage(image: RgbImage, { top, left, width, height }: CropBox): RgbImage {
  if (top < 0 || left < 0 || top + height > image.height || left + width > image.width) {
    throw new RangeError(
      `cropImage: the box must lie within ${image.width}×${image.height}, got ${width}×${height} at left ${left}, top ${top}`,
    );
  }
  if (width === image.width && height === image.height) return image;
  const data = new Uint8Array(3 * width * height);
  for (let y = 0; y < height; y++) {
    const from = 3 * ((top + y) * image.width + left);
    data.set(image.data.subarray(from, from + 3 * width), 3 * y * width);
  }
  return { width, height, data };
}

function centredBox(width: number, height: number): CropBox {
  const box = { width, height };
  if (width / height < RATIO[0]) box.height = roundHalfEven(width / RATIO[0]);
  else if (width / height > RATIO[1]) box.width = roundHalfEven(height * RATIO[1]);
  return { top: Math.floor((height - box.height) / 2), left: Math.floor((width - box.width) / 2), ...box };
}

/** As torch scales a uniform deviate: to float32 in one rounding; in float64 one box of 640 × 480 in 1500 would be another. */
function uniformFloat32([low, high]: readonly [number, number], deviate: number): number {
  return Math.fround(deviate * Math.fround(high - low) + low);
}

function logFloat32(value: number): number {
  return Math.fround(Math.log(Math.fround(value)));
}

/** Python's `round`: a half goes to the even neighbour. */
function roundHalfEven(value: number): number {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}
