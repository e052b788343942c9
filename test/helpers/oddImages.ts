/** Images as the web has them: those that nobody can read, and those that are only unusual. */
import { crc32, deflateSync } from 'node:zlib';
import sharp, { type Sharp } from 'sharp';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

const IMAGES = join(import.meta.dirname, '../fixtures/images');

/** Encoded bytes by kind: none of them can be used, each for another reason. */
export async function badImages(): Promise<Record<string, Uint8Array>> {
  const jpeg = await sample().jpeg({ quality: 90 }).toBuffer();
  const png = await sample().png().toBuffer();
  return {
    undecodable: Uint8Array.from({ length: 3000 }, (_, i) => (i * 7919) % 251),
    truncatedJpeg: jpeg.subarray(0, Math.floor(jpeg.length / 2)),
    truncatedPng: png.subarray(0, Math.floor(png.length / 2)),
    empty: new Uint8Array(),
    html: Buffer.from(
      '<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>gone</body></html>',
    ),
    bomb: pngBomb(40_000),
    headOnly: jpeg.subarray(0, 20),
  };
}

/** Encoded bytes by kind: all of them are read, as PIL reads them. */
export async function oddImages(): Promise<Record<string, Uint8Array>> {
  const fixture = (name: string) => readFile(join(IMAGES, name));
  return {
    cmyk: await fixture('img_04_cmyk.jpg'),
    palette: await fixture('img_05_palette.png'),
    animated: await fixture('odd_animated.gif'),
    sixteenBit: await sample().toColourspace('rgb16').png().toBuffer(),
  };
}

function sample(): Sharp {
  const noise = Buffer.from(Uint8Array.from({ length: 64 * 48 * 3 }, (_, i) => (i * i * 31 + i * 17) % 256));
  return sharp(noise, { raw: { width: 64, height: 48, channels: 3 } });
}

/** A PNG of `side`² black pixels in grey: some kilobytes that would become gigabytes. */
function pngBomb(side: number): Uint8Array {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(side, 0);
  header.writeUInt32BE(side, 4);
  header.set([1, 0, 0, 0, 0], 8); // 1 bit a pixel, grey
  const row = Buffer.alloc(1 + side / 8);
  const rows = deflateSync(Buffer.concat(Array.from({ length: 2000 }, () => row))); // enough of them to look sound
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  return Buffer.concat([
    signature,
    chunk('IHDR', header),
    chunk('IDAT', rows),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

function chunk(kind: string, data: Buffer): Buffer {
  const named = Buffer.concat([Buffer.from(kind, 'latin1'), data]);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  const check = Buffer.alloc(4);
  check.writeUInt32BE(crc32(named));
  return Buffer.concat([length, named, check]);
}
