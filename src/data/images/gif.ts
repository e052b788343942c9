/**
 * The first frame of a GIF as Pillow sees it. libvips paints transparent pixels black and fills what a small frame leaves
 * free by another rule; so the frame is cut out, opaque, for libvips to decode, and laid on its canvas here.
 *
 * Source: python-pillow/Pillow 12, src/PIL/GifImagePlugin.py, `GifImageFile._seek` and `load_prepare`.
 */
import { BadImage, requireSize } from './imageHeader.js';
import type { RgbImage } from './resize.js';

/** A frame and the place it has. */
export interface GifFrame {
  /** A GIF of this frame alone, without transparency. */
  readonly file: Uint8Array;
  readonly left: number;
  readonly top: number;
  /** The whole image, at least as large as the frame's right and lower edges. */
  readonly canvas: { readonly width: number; readonly height: number };
  /** Red, green and blue of what the frame leaves free: the transparent colour, else the palette's first. */
  readonly fill: readonly number[];
}

const SCREEN_BYTES = 13; // signature and logical screen descriptor
const IMAGE_BYTES = 10; // image descriptor
const EXTENSION = 0x21;
const GRAPHIC_CONTROL = 0xf9;
const IMAGE = 0x2c;

/**
 * Cuts out the first frame.
 *
 * @param bytes that start with a GIF's signature
 * @throws BadImage if it is cut short, holds no frame, or is too large
 */
export function firstGifFrame(bytes: Uint8Array): GifFrame {
  try {
    return readFrame(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length));
  } catch (cause) {
    if (cause instanceof RangeError) throw new BadImage('GIF cut short', { cause }); // a read behind the end
    throw cause;
  }
}

/** Lays a decoded frame on its canvas; `image` itself where it covers all of it. */
export function layOnCanvas(image: RgbImage, { canvas, left, top, fill }: GifFrame): RgbImage {
  if (image.width === canvas.width && image.height === canvas.height) return image;
  const data = Buffer.alloc(3 * canvas.width * canvas.height, Uint8Array.from(fill));
  for (let y = 0; y < image.height; y++) {
    const row = image.data.subarray(3 * y * image.width, 3 * (y + 1) * image.width);
    data.set(row, 3 * ((top + y) * canvas.width + left));
  }
  return { ...canvas, data };
}

function readFrame(gif: Buffer): GifFrame {
  const globalColours = colourBytes(gif.readUInt8(10));
  let at = SCREEN_BYTES + globalColours;
  let transparent = 0;
  for (; gif.readUInt8(at) === EXTENSION; at = blocksEnd(gif, at + 2)) {
    if (gif.readUInt8(at + 1) !== GRAPHIC_CONTROL) continue;
    transparent = gif.readUInt8(at + 3) & 1 ? gif.readUInt8(at + 6) : 0;
  }
  if (gif.readUInt8(at) !== IMAGE) throw new BadImage('GIF without a frame');
  const [left, top, width, height] = [1, 3, 5, 7].map((offset) => gif.readUInt16LE(at + offset)) as Numbers;
  const canvas = {
    width: Math.max(gif.readUInt16LE(6), left + width),
    height: Math.max(gif.readUInt16LE(8), top + height),
  };
  requireSize(width, height);
  requireSize(canvas.width, canvas.height);
  const localColours = colourBytes(gif.readUInt8(at + 9));
  const palette = localColours > 0 ? at + IMAGE_BYTES : SCREEN_BYTES;
  const end = blocksEnd(gif, at + IMAGE_BYTES + localColours + 1); // behind the LZW code size
  const file = Buffer.concat([
    gif.subarray(0, SCREEN_BYTES + globalColours),
    gif.subarray(at, end),
    Buffer.of(0x3b),
  ]);
  for (const side of [width, height].entries()) file.writeUInt16LE(side[1], 6 + 2 * side[0]);
  file.fill(0, SCREEN_BYTES + globalColours + 1, SCREEN_BYTES + globalColours + 5); // at left 0, top 0
  const fill = [0, 1, 2].map((channel) => gif.readUInt8(palette + 3 * transparent + channel));
  return { file, left, top, canvas, fill };
}

type Numbers = [number, number, number, number];

/** Size of the colour table that a descriptor's flags announce. */
function colourBytes(flags: number): number {
  return flags & 0x80 ? 3 * 2 ** ((flags & 7) + 1) : 0;
}

/** Walks a chain of sub-blocks. @returns the first byte behind it */
function blocksEnd(gif: Buffer, start: number): number {
  let at = start;
  for (let length = gif.readUInt8(at); length > 0; length = gif.readUInt8(at)) at += 1 + length;
  return at + 1;
}
