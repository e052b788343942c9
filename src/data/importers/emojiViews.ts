/** Pictures of an emoji: the plain one, augmented ones, and the colours that one sees in it. */

import { createHash } from 'node:crypto';
import sharp, { type Sharp } from 'sharp';
import { randomAt } from '../order/keyed.js';
import type { Concept } from './emojiConcepts.js';

/** An emoji's pixels, as all its views start from. */
export interface EmojiPixels {
  readonly width: number;
  readonly height: number;
  /** RGBA, row-major. */
  readonly data: Uint8Array;
}

const GRID = 24; // cells a side in which colours are measured
const OPAQUE = 160; // mean alpha from which a cell counts
const MIN_SHARE = 0.15; // of the opaque cells, for a colour to be dominant

/** Decodes a concept's image. */
export async function readPixels(concept: Concept): Promise<EmojiPixels> {
  const { data, info } = await sharp(concept.file).ensureAlpha().raw().toBuffer({ resolveWithObject: true });
  return { width: info.width, height: info.height, data };
}

/**
 * One picture of a concept as encoded bytes; the same arguments give the same picture.
 *
 * @param view 0: on white, PNG. 1, 2, …: a square crop of 60 to 100 % of the area on a pastel background, mirrored half of
 *   the time, a little brighter or darker, JPEG
 * @param pixels the concept's pixels, if they are read already
 */
export async function renderView(concept: Concept, view: number, pixels?: EmojiPixels): Promise<Uint8Array> {
  const { width, height, data } = pixels ?? (await readPixels(concept));
  const image = sharp(data, { raw: { width, height, channels: 4 } });
  if (view === 0) return image.flatten({ background: '#ffffff' }).png({ compressionLevel: 3 }).toBuffer();
  return augment(image, width, seedOf(concept), view)
    .jpeg({ quality: 92, chromaSubsampling: '4:4:4' })
    .toBuffer();
}

/** Up to two colours that each cover at least 15 % of what is drawn, the larger first. */
export function dominantColors({ width, height, data }: EmojiPixels): string[] {
  const counts = new Map<string, number>();
  let cells = 0;
  for (let cell = 0; cell < GRID * GRID; cell++) {
    const [r, g, b, alpha] = meanOfCell(data, width, height, cell % GRID, Math.floor(cell / GRID));
    if (alpha <= OPAQUE) continue;
    const name = colorName(r, g, b);
    counts.set(name, (counts.get(name) ?? 0) + 1);
    cells += 1;
  }
  return [...counts]
    .filter(([, count]) => count >= MIN_SHARE * cells)
    .sort(([, a], [, b]) => b - a)
    .slice(0, 2)
    .map(([name]) => name);
}

/** An everyday name for a colour by hue, lightness and saturation; channels 0 to 255. */
export function colorName(r: number, g: number, b: number): string {
  const { hue, lightness, saturation } = hls(r / 255, g / 255, b / 255);
  const [max, range] = [Math.max(r, g, b), Math.max(r, g, b) - Math.min(r, g, b)];
  if (max < 72) return 'black';
  if (lightness > 0.82 && range < 45) return 'white'; // a faint tint, which HLS calls saturated
  if (range < 30) return lightness < 0.25 ? 'black' : 'gray';
  if (hue < 15 || hue >= 345) return lightness > 0.68 ? 'pink' : 'red';
  if (hue < 42) return lightness < 0.42 || saturation < 0.4 ? 'brown' : 'orange';
  if (hue < 68) return lightness < 0.3 ? 'brown' : 'yellow';
  if (hue < 165) return 'green';
  if (hue < 255) return 'blue';
  if (hue < 295) return 'purple';
  return 'pink';
}

function augment(image: Sharp, size: number, seed: number, view: number): Sharp {
  const random = (purpose: string) => randomAt(seed, view, purpose);
  const pastel = (channel: string) => 150 + Math.floor(random(channel) * 106);
  const side = Math.round(size * Math.sqrt(0.6 + 0.4 * random('area')));
  const left = Math.floor(random('left') * (size - side + 1));
  const top = Math.floor(random('top') * (size - side + 1));
  return image
    .extract({ left, top, width: side, height: side })
    .flop(random('flip') < 0.5)
    .flatten({ background: { r: pastel('red'), g: pastel('green'), b: pastel('blue') } })
    .linear(0.9 + 0.2 * random('brightness'), 0);
}

function seedOf(concept: Concept): number {
  return parseInt(createHash('sha1').update(concept.hexcode).digest('hex').slice(0, 12), 16);
}

/** Mean colour, weighted by alpha, and mean alpha of one cell of the grid. */
function meanOfCell(
  data: Uint8Array,
  width: number,
  height: number,
  column: number,
  row: number,
): [r: number, g: number, b: number, alpha: number] {
  const sums: [number, number, number, number] = [0, 0, 0, 0];
  const [x0, x1] = [Math.floor((column * width) / GRID), Math.floor(((column + 1) * width) / GRID)];
  const [y0, y1] = [Math.floor((row * height) / GRID), Math.floor(((row + 1) * height) / GRID)];
  for (let y = y0; y < y1; y++) {
    for (let at = (y * width + x0) * 4; at < (y * width + x1) * 4; at += 4) {
      const alpha = data[at + 3] ?? 0;
      sums[0] += (data[at] ?? 0) * alpha;
      sums[1] += (data[at + 1] ?? 0) * alpha;
      sums[2] += (data[at + 2] ?? 0) * alpha;
      sums[3] += alpha;
    }
  }
  const weight = Math.max(sums[3], 1);
  return [sums[0] / weight, sums[1] / weight, sums[2] / weight, sums[3] / Math.max((x1 - x0) * (y1 - y0), 1)];
}

/** Hue in degrees, lightness and saturation in [0, 1], as Python's colorsys defines them. */
function hls(r: number, g: number, b: number): { hue: number; lightness: number; saturation: number } {
  const max = Math.max(r, g, b);
  const min = Math.min(r, g, b);
  const lightness = (max + min) / 2;
  const range = max - min;
  if (range === 0) return { hue: 0, lightness, saturation: 0 };
  const saturation = range / (lightness <= 0.5 ? max + min : 2 - max - min);
  const sector = max === r ? (g - b) / range : max === g ? 2 + (b - r) / range : 4 + (r - g) / range;
  return { hue: (sector * 60 + 360) % 360, lightness, saturation };
}
