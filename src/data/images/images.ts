/** Image bytes → the pixels that the reference's `PIL.Image.open(…).convert('RGB')` sees, and their normalised planes. */

import sharp, { type Sharp } from 'sharp';
import { findNative, type ResizeJob } from '../../native.js';
import { cropImage, type Crop, type CropBox } from './crop.js';
import { firstGifFrame, layOnCanvas } from './gif.js';
import { BadImage, MAX_PIXELS, readImageHeader, requireSize, type PixelLayout } from './imageHeader.js';
import { resizeBicubic, type RgbImage } from './resize.js';

export { BadImage } from './imageHeader.js';

/** How an encoder wants its images. */
export interface ImageTransform {
  /** Height and width in pixels; the aspect ratio is not kept. */
  readonly size: number;
  /** Per channel, of pixels in [0, 1]. */
  readonly mean: readonly number[];
  readonly std: readonly number[];
}

/** Decoded samples, row by row as `layout` says. */
interface Samples {
  readonly width: number;
  readonly height: number;
  readonly layout: PixelLayout;
  readonly data: Uint8Array;
}

const LAYOUTS: Readonly<Record<PixelLayout, ResizeJob['layout']>> = { rgb: 0, cmyk: 1, grey16: 2 };

/**
 * Decodes JPEG, PNG, WebP, GIF … to RGB as the reference does: EXIF rotation is not applied, alpha is dropped and not
 * composited, grey is copied to three channels, colour profiles are ignored, of an animation the first frame is taken.
 * 16-bit colour keeps its upper byte; 16-bit grey is cut off at 255, which makes most such images white.
 *
 * Reference quirk: that is what Pillow's `convert('RGB')` makes of 16-bit grey, mode `I;16`.
 *
 * @throws BadImage if the bytes are empty, cut short, no image of a format that Pillow reads, or more than 50 megapixels
 */
export async function decodeImage(bytes: Uint8Array): Promise<RgbImage> {
  return toRgb(await decodeSamples(bytes));
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
 * Decodes, crops if asked to, resizes to a square by Pillow's bicubic, and normalises. All but a fraction of a millisecond
 * runs in libuv's threads where set-up has compiled the addon; elsewhere the resizing holds up this thread, for the same bits.
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
  const samples = await decodeSamples(bytes);
  const { width, height, layout, data } = samples;
  const box: CropBox = crop?.(width, height) ?? { top: 0, left: 0, width, height };
  const native = findNative();
  if (!native) return normalise(resizeBicubic(cropImage(toRgb(samples), box), size, size), mean, std);
  return native.resizeNormalise({
    data,
    width,
    height,
    layout: LAYOUTS[layout],
    left: box.left,
    top: box.top,
    boxWidth: box.width,
    boxHeight: box.height,
    size,
    levels: levelsOfChannels(mean, std),
    wide: true,
  });
}

async function decodeSamples(bytes: Uint8Array): Promise<Samples> {
  const header = readImageHeader(bytes);
  tuneDecoder();
  try {
    if (header.format === 'GIF') return await decodeGif(bytes);
    const { layout } = header.frame ?? (await readFrame(bytes));
    return { ...(await readPixels(bytes, layout)), layout };
  } catch (cause) {
    if (cause instanceof BadImage) throw cause;
    // Not libvips' own words: those change with what else goes wrong in the process, and ledgers must not
    const isLarge = cause instanceof Error && /limit/i.test(cause.message); // of pixels, libvips' or a codec's own
    const fault = isLarge ? `of more than ${MAX_PIXELS / 1e6} megapixels` : 'damaged or cut short';
    throw new BadImage(`${header.format} ${fault}`, { cause });
  }
}

async function decodeGif(bytes: Uint8Array): Promise<Samples> {
  const frame = firstGifFrame(bytes);
  return { ...layOnCanvas(await readPixels(frame.file, 'rgb'), frame), layout: 'rgb' };
}

/** Of formats whose headers are not read here. */
async function readFrame(bytes: Uint8Array): Promise<{ readonly layout: PixelLayout }> {
  const { width, height, space } = await open(bytes).metadata();
  requireSize(width, height);
  return { layout: space === 'cmyk' ? 'cmyk' : space === 'grey16' ? 'grey16' : 'rgb' };
}

async function readPixels(bytes: Uint8Array, layout: PixelLayout): Promise<RgbImage> {
  const { data, info } = await PIPELINES[layout](open(bytes)).toBuffer({ resolveWithObject: true });
  const { width, height } = info;
  const sampleBytes = { rgb: 3, cmyk: 4, grey16: 2 }[layout];
  if (data.length !== width * height * sampleBytes)
    throw new Error(`${info.channels} channels of another kind`);
  return { width, height, data };
}

function open(bytes: Uint8Array): Sharp {
  return sharp(bytes, { limitInputPixels: MAX_PIXELS, ignoreIcc: true, failOn: 'error' });
}

/** What gives each layout's samples; libvips' own way from CMYK to RGB would go through a colour profile. */
const PIPELINES: Readonly<Record<PixelLayout, (image: Sharp) => Sharp>> = {
  rgb: (image) => image.toColourspace('srgb').removeAlpha().raw(),
  cmyk: (image) => image.pipelineColourspace('cmyk').toColourspace('cmyk').raw(),
  grey16: (image) => image.toColourspace('grey16').removeAlpha().raw({ depth: 'ushort' }),
};

let isTuned = false;

/** Several images are decoded at a time, so each is decoded by one thread; and none comes twice soon, so libvips keeps nothing. */
function tuneDecoder(): void {
  if (isTuned) return;
  isTuned = true;
  sharp.concurrency(1);
  sharp.cache(false); // measured: a tenth faster
}

/** As `ConvertRow` of runtime/resize.cc: CMYK by Pillow's rule, (255-K)(255-C)/255; 16-bit grey cut off at 255. */
function toRgb({ width, height, layout, data }: Samples): RgbImage {
  if (layout === 'rgb') return { width, height, data };
  const rgb = new Uint8Array(width * height * 3);
  if (layout === 'grey16') {
    const levels = new Uint16Array(Uint8Array.from(data).buffer);
    for (const [i, level] of levels.entries()) rgb.fill(Math.min(level, 255), 3 * i, 3 * i + 3);
    return { width, height, data: rgb };
  }
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    const light = 255 - (data[from + 3] ?? 0);
    for (let channel = 0; channel < 3; channel++)
      rgb[to + channel] = multiply255(light, 255 - (data[from + channel] ?? 0));
  }
  return { width, height, data: rgb };
}

/** a · b / 255 rounded, in Pillow's integers (`MULDIV255`). */
function multiply255(a: number, b: number): number {
  const product = a * b + 128;
  return ((product >> 8) + product) >> 8;
}

/** @returns float32[3, 256] */
function levelsOfChannels(mean: readonly number[], std: readonly number[]): Float32Array {
  const levels = new Float32Array(3 * 256);
  for (let channel = 0; channel < 3; channel++)
    levels.set(normalisedLevels(mean[channel], std[channel]), 256 * channel);
  return levels;
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
