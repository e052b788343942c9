/** What the first bytes of an image file say: its format, its size, and whether its pixels need another rule than RGB's. */

/** A sample's image that cannot be read: counted and left out, not the end of a run. The message is a short reason. */
export class BadImage extends Error {
  override readonly name = 'BadImage';
}

/** The formats that are read. Others that libvips knows, SVG first of all, are refused: Pillow does not read them. */
export type ImageFormat = 'JPEG' | 'PNG' | 'GIF' | 'WebP' | 'TIFF' | 'AVIF';

/** How an image's decoded samples lie: 8-bit RGB; CMYK with 255 as full ink; 16-bit grey in this machine's order. */
export type PixelLayout = 'rgb' | 'cmyk' | 'grey16';

/** What is known before anything is decoded. */
export interface ImageHeader {
  readonly format: ImageFormat;
  /** Left out for TIFF and AVIF, whose headers libvips reads, and for GIF, of which gif.ts takes the first frame. */
  readonly frame?: { readonly width: number; readonly height: number; readonly layout: PixelLayout };
}

/** sharp's own limit lets a 256-megapixel PNG of 0.8 MB through. */
export const MAX_PIXELS = 5e7;
/** JPEG's and GIF's limit; it bounds what resizing keeps of an image that is all height. */
export const MAX_SIDE = 65_535;

/**
 * Reads the header; a few microseconds, nothing is allocated.
 *
 * @throws BadImage if the bytes are none, of no format that is read, without a size, or of one that `requireSize` refuses
 */
export function readImageHeader(bytes: Uint8Array): ImageHeader {
  if (bytes.length === 0) throw new BadImage('no bytes');
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length); // the same memory
  const format = formatOf(view);
  if (format === undefined) throw new BadImage(whatInstead(view));
  const read = FRAMES[format];
  if (!read) return { format };
  const frame = read(view);
  if (!frame) throw new BadImage(`${format} without a size: cut short or damaged`);
  requireSize(frame.width, frame.height);
  return { format, frame };
}

/**
 * Refuses what would take too much memory, before any of it is taken.
 *
 * @throws BadImage if there are no pixels, more than 50 megapixels, or more than 65,535 on a side
 */
export function requireSize(width: number, height: number): void {
  if (width < 1 || height < 1) throw new BadImage(`no pixels: ${width}×${height}`);
  if (width * height > MAX_PIXELS) throw new BadImage(`${width}×${height} is more than 50 megapixels`);
  if (width > MAX_SIDE || height > MAX_SIDE)
    throw new BadImage(`${width}×${height} is more than ${MAX_SIDE} pixels on a side`);
}

type Frame = NonNullable<ImageHeader['frame']>;

/** Undefined from a reader: the size is not there. */
const FRAMES: Partial<Record<ImageFormat, (bytes: Buffer) => Frame | undefined>> = {
  JPEG: jpegFrame,
  PNG: pngFrame,
  WebP: webpFrame,
};

function formatOf(bytes: Buffer): ImageFormat | undefined {
  const text = bytes.toString('latin1', 0, 32);
  if (text.startsWith('\xff\xd8\xff')) return 'JPEG';
  if (text.startsWith('\x89PNG\r\n\x1a\n')) return 'PNG';
  if (/^GIF8[79]a/.test(text)) return 'GIF';
  if (/^RIFF[^]{4}WEBP/.test(text)) return 'WebP';
  if (/^(II\*\0|MM\0\*)/.test(text)) return 'TIFF';
  if (/^[^]{4}ftypavi[fs]/.test(text) || (/^[^]{4}ftypm[is]f1/.test(text) && isAvif(bytes))) return 'AVIF';
  return undefined;
}

/** Whether AVIF is among the brands that a HEIF file says it is compatible with. */
function isAvif(bytes: Buffer): boolean {
  const end = Math.min(bytes.readUInt32BE(0), bytes.length, 512); // of the box; it has a dozen brands at most
  for (let at = 16; at + 4 <= end; at += 4)
    if (/^avi[fs]$/.test(bytes.toString('latin1', at, at + 4))) return true;
  return false;
}

/** A few words for the ledger on what stands in an image's place. */
function whatInstead(bytes: Buffer): string {
  const start = bytes.toString('latin1', 0, 512).replace(/^(\xef\xbb\xbf)?\s*/, '');
  if (/<svg[\s>]/i.test(start)) return 'an SVG drawing: Pillow does not read it';
  if (/^<(!doctype html|html|head|body|script)/i.test(start)) return 'a web page, not an image';
  if (/^[<{[]/.test(start)) return 'text, not an image';
  if (start.startsWith('%PDF')) return 'a PDF document, not an image';
  const hex = [...bytes.subarray(0, 4)].map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
  return `not JPEG, PNG, GIF, WebP, TIFF or AVIF: starts with ${hex}`;
}

/**
 * The first frame header (SOF0 … SOF15 but for DHT, JPG and DAC, which lie among them). Four components are CMYK or YCCK.
 * Stray bytes between segments are passed over, as libjpeg and Pillow do.
 */
function jpegFrame(bytes: Buffer): Frame | undefined {
  for (let at = 2; at + 4 <= bytes.length;) {
    const marker = bytes.readUInt8(at + 1);
    if (bytes[at] !== 0xff || marker === 0xff) {
      at += 1; // a stray byte, or one of those that fill up before a marker
      continue;
    }
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      if (at + 10 > bytes.length) return undefined;
      const layout = bytes[at + 9] === 4 ? 'cmyk' : 'rgb';
      return { width: bytes.readUInt16BE(at + 7), height: bytes.readUInt16BE(at + 5), layout };
    }
    const standsAlone = marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd8); // 0: an escaped ff, stray too
    at += standsAlone ? 2 : 2 + bytes.readUInt16BE(at + 2);
  }
  return undefined;
}

function pngFrame(bytes: Buffer): Frame | undefined {
  if (bytes.length < 26 || bytes.toString('latin1', 12, 16) !== 'IHDR') return undefined;
  const isGrey16 = bytes[24] === 16 && bytes[25] === 0; // bit depth and colour type
  return {
    width: bytes.readUInt32BE(16),
    height: bytes.readUInt32BE(20),
    layout: isGrey16 ? 'grey16' : 'rgb',
  };
}

/** The canvas of an extended file, else the size in the one frame's own header. */
function webpFrame(bytes: Buffer): Frame | undefined {
  if (bytes.length < 30) return undefined;
  const layout = 'rgb';
  switch (bytes.toString('latin1', 12, 16)) {
    case 'VP8X':
      return { width: bytes.readUIntLE(24, 3) + 1, height: bytes.readUIntLE(27, 3) + 1, layout };
    case 'VP8L': {
      const bits = bytes.readUInt32LE(21); // 14 bits of width − 1, 14 of height − 1
      return { width: (bits & 0x3fff) + 1, height: ((bits >>> 14) & 0x3fff) + 1, layout };
    }
    case 'VP8 ':
      return { width: bytes.readUInt16LE(26) & 0x3fff, height: bytes.readUInt16LE(28) & 0x3fff, layout };
    default:
      return undefined;
  }
}
