/**
 * Making images smaller while they are packed. The pixels are those that the trainer would see (images.ts), so that a
 * packed image and its original differ by the scaling and the compression alone.
 */

import sharp, { type Metadata, type Sharp } from 'sharp';
import { readImageHeader, requireSize } from '../images/imageHeader.js';
import { BadImage, decodeImage } from '../images/images.js';

/** What is done to images that are packed. */
export interface Recipe {
  /** An image whose longer side has more pixels is scaled down to this, the aspect ratio kept. */
  readonly maxSide?: number;
  /** JPEG quality, 1 to 100, with which every image is encoded anew unless that makes it larger. */
  readonly quality?: number;
}

/** The libraries that the bytes of a recoded image depend on. */
export const ENCODER = `sharp ${sharp.versions.sharp}, libvips ${sharp.versions.vips}`;

const DEFAULT_QUALITY = 95; // img2dataset's
const LOSSLESS = ['png', 'gif', 'tiff'];
const DECODE = { limitInputPixels: false, ignoreIcc: true, failOn: 'error' } as const;

/** The recipe in words, for the manifest. */
export function describeRecipe({ maxSide, quality }: Recipe): string {
  const scaled = `images with a longer side of more than ${String(maxSide)} pixels were scaled down to it (Lanczos)`;
  const lossless = `as JPEG of quality ${DEFAULT_QUALITY}, or as PNG if they were lossless`;
  const encoded = `as JPEG of quality ${String(quality)}`;
  const parts = [
    ...(maxSide === undefined ? [] : [`${scaled} and stored ${quality === undefined ? lossless : encoded}`]),
    ...(quality === undefined ? [] : [`images were stored ${encoded} where that made them smaller`]),
  ];
  return `${parts.join('; ')}; all others have the source's bytes. EXIF orientation was not applied, and is gone where an image was stored anew. ${ENCODER}.`;
}

/**
 * Scales and encodes an image as the recipe says. EXIF orientation is not applied, as the trainer does not apply it, and
 * not kept: a reader that would apply it later sees what the trainer sees.
 *
 * @returns the new bytes, or the very ones given if nothing is to be done
 * @throws BadImage if the bytes are no image of a format that is read, or more than 50 megapixels; if something is to be
 *   done, also if they are damaged or cut short
 * Source: img2dataset, resizer.py: `keep_ratio_largest` with `resize_only_if_bigger`.
 */
export async function recode(bytes: Uint8Array, { maxSide, quality }: Recipe): Promise<Uint8Array> {
  const { format } = readImageHeader(bytes); // tells of SVGs and web pages in the ledger's words
  const fault = `${format} damaged or cut short`;
  const metadata = await orBad(fault, () => sharp(bytes, DECODE).metadata());
  const { width, height } = metadata;
  requireSize(width, height);
  const isLarge = maxSide !== undefined && Math.max(width, height) > maxSide;
  if (!isLarge && quality === undefined) return bytes;
  const image = await orBad(fault, () => decoded(bytes, metadata));
  if (isLarge)
    image.resize({
      width: maxSide,
      height: maxSide,
      fit: 'inside',
      kernel: 'lanczos3',
      fastShrinkOnLoad: false,
    });
  const lossless = quality === undefined && isLossless(bytes, metadata);
  const encoded = lossless ? image.png() : image.jpeg({ quality: quality ?? DEFAULT_QUALITY });
  const made = await orBad(fault, () => encoded.toBuffer());
  return isLarge || made.length < bytes.length ? made : bytes;
}

/** A pipeline of the trainer's pixels. JPEGs without CMYK are scaled while they are decoded, which saves most of the time. */
async function decoded(bytes: Uint8Array, { format, space, hasAlpha }: Metadata): Promise<Sharp> {
  if (format === 'jpeg' && space !== 'cmyk' && !hasAlpha) return sharp(bytes, DECODE).toColourspace('srgb');
  // Transparent pixels have colours too, which the trainer sees and sharp's scaling would mix with the opaque ones
  const { data, width, height } = await decodeImage(bytes);
  return sharp(data, { raw: { width, height, channels: 3 } });
}

function isLossless(bytes: Uint8Array, { format }: Metadata): boolean {
  const isLosslessWebp = Buffer.from(bytes.subarray(12, 16)).toString('latin1') === 'VP8L';
  return LOSSLESS.includes(format) || (format === 'webp' && isLosslessWebp);
}

/** libvips' own words depend on what else goes wrong in the process at the time; these do not. */
async function orBad<T>(reason: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (cause instanceof BadImage) throw cause;
    throw new BadImage(reason, { cause });
  }
}
