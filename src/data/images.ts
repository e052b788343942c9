/** Image bytes → the pixels that the reference's `PIL.Image.open(…).convert('RGB')` sees, and their normalised planes. */

import sharp, { type Metadata, type Sharp } from 'sharp';
import { cropImage, type Crop } from './crop.js';
import { resizeBicubic, type RgbImage } from './resize.js';

/** A sample's image that cannot be read: counted and left out, not the end of a run. The message is a short reason. */
export class BadImage extends Error {
  override readonly name = 'BadImage';
}

/** How an encoder wants its images. */
export interface ImageTransform {
  /** Height and width in pixels; the aspect ratio is not kept. */
  readonly size: number;
  /** Per channel, of pixels in [0, 1]. */
  readonly mean: readonly number[];
  readonly std: readonly number[];
}

const MAX_PIXELS = 5e7; // sharp's own limit lets a 256-megapixel PNG of 0.8 MB through

/**
 * Decodes JPEG, PNG, WebP, GIF … to RGB as the reference does: EXIF rotation is not applied, alpha is dropped and not
 * composited, grey is copied to three channels, colour profiles are ignored, of an animation the first frame is taken.
 *
 * @throws BadImage if the bytes are empty, cut short, no image, or more than 50 megapixels
 */
export async function decodeImage(bytes: Uint8Array): Promise<RgbImage> {
  if (bytes.length === 0) throw new BadImage('no bytes');
  try {
    const image = sharp(bytes, { limitInputPixels: MAX_PIXELS, ignoreIcc: true, failOn: 'error' });
    const metadata = await image.metadata();
    return metadata.space === 'cmyk' ? await decodeCmyk(image, metadata) : await decodeRgb(image);
  } catch (cause) {
    throw new BadImage(shortReason(cause), { cause });
  }
}

/**
 * Pixels in [0, 1], minus mean, over standard deviation, in float32 at each step as torchvision computes it.
 *
 * @returns float32[3, H, W]
 */
export function normalise(image: RgbImage, mean: readonly number[], std: readonly number[]): Float32Array {
  const area = image.width * image.height;
  if (image.data.length !== 3 * area) {
    throw new RangeError(
      `normalise: data must hold 3×${image.height}×${image.width} bytes, got ${image.data.length}`,
    );
  }
  const data = new Uint8Array(image.data.buffer, image.data.byteOffset, 3 * area); // a Buffer would make the loop slower
  const planes = new Float32Array(3 * area);
  for (let channel = 0; channel < 3; channel++) {
    const levels = normalisedLevels(mean[channel], std[channel]);
    const plane = planes.subarray(channel * area, (channel + 1) * area);
    for (let i = 0; i < area; i++) plane[i] = levels[data[3 * i + channel] as number] as number; // inside: checked above
  }
  return planes;
}

/**
 * Decodes, crops if asked to, resizes to a square by Pillow's bicubic, and normalises.
 *
 * @param crop chooses the part of the image to take; left out: all of it
 * @returns float32[3, size, size]
 * @throws BadImage as `decodeImage` does
 */
export async function preprocess(
  bytes: Uint8Array,
  { size, mean, std }: ImageTransform,
  crop?: Crop,
): Promise<Float32Array> {
  const image = await decodeImage(bytes);
  const part = crop ? cropImage(image, crop(image.width, image.height)) : image;
  return normalise(resizeBicubic(part, size, size), mean, std);
}

async function decodeRgb(image: Sharp): Promise<RgbImage> {
  const { data, info } = await image
    .toColourspace('srgb')
    .removeAlpha()
    .raw()
    .toBuffer({ resolveWithObject: true });
  if (info.channels !== 3) throw new Error(`${info.channels} channels instead of 3`);
  return { width: info.width, height: info.height, data };
}

/** CMYK by Pillow's rule, (255-K)(255-C)/255; libvips would go through a colour profile. */
async function decodeCmyk(image: Sharp, { channels }: Metadata): Promise<RgbImage> {
  if (channels !== 4) throw new Error(`CMYK with ${String(channels)} channels`);
  const { data, info } = await image
    .pipelineColourspace('cmyk')
    .toColourspace('cmyk')
    .raw()
    .toBuffer({ resolveWithObject: true });
  const rgb = new Uint8Array(info.width * info.height * 3);
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    const light = 255 - (data[from + 3] ?? 0);
    for (let channel = 0; channel < 3; channel++)
      rgb[to + channel] = multiply255(light, 255 - (data[from + channel] ?? 0));
  }
  return { width: info.width, height: info.height, data: rgb };
}

/** a · b / 255 rounded, in Pillow's integers (`MULDIV255`). */
function multiply255(a: number, b: number): number {
  const product = a * b + 128;
  return ((product >> 8) + product) >> 8;
}

function normalisedLevels(mean: number | undefined, std: number | undefined): Float32Array {
  if (mean === undefined || std === undefined || !(std > 0)) {
    throw new RangeError(
      `normalise: mean and std must have three values, std above 0, got ${String(mean)} and ${String(std)}`,
    );
  }
  const levels = new Float32Array(256);
  for (let level = 0; level < 256; level++) {
    levels[level] = Math.fround(Math.fround(level / 255) - Math.fround(mean)) / Math.fround(std);
  }
  return levels;
}

function shortReason(cause: unknown): string {
  const message = cause instanceof Error ? cause.message : String(cause);
  return message.split('\n')[0]?.slice(0, 120) ?? 'unreadable';
}
