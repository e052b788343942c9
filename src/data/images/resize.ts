/**
 * Bicubic resizing, bit-equal to Pillow's before version 13 (torchvision and MiniGPT-4 resize with it): two passes of
 * fixed-point arithmetic, horizontal first, rounded to 8 bits between them.
 *
 * Source: python-pillow/Pillow 10–12, src/libImaging/Resample.c.
 */

/** An image of 8-bit RGB, row-major: byte (y · width + x) · 3 + channel. */
export interface RgbImage {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** For each output position: its first input position, how many follow, and their weights in 1/2^22. */
interface Taps {
  readonly first: Int32Array;
  readonly count: Int32Array;
  /** Weights, `stride` a position. */
  readonly weights: Int32Array;
  readonly stride: number;
}

const CHANNELS = 3;
const SUPPORT = 2; // reach of the cubic, in input pixels (when not shrinking)
const A = -0.5; // Pillow's and Catmull–Rom's; OpenCV and torch use -0.75
const BITS = 22; // 32 minus 8 of the pixel minus 2 for overshoot

/**
 * Resizes to `width` × `height`; the aspect ratio is not kept. Shrinking widens the kernel (no aliasing).
 *
 * @returns a new image, or `image` itself if the size is the same
 */
export function resizeBicubic(image: RgbImage, width: number, height: number): RgbImage {
  if (!isSize(width) || !isSize(height)) {
    throw new RangeError(
      `resizeBicubic: width and height must be whole numbers from 1, got ${width} and ${height}`,
    );
  }
  if (image.data.length !== image.width * image.height * CHANNELS) {
    throw new RangeError(
      `resizeBicubic: data must hold ${image.width}×${image.height}×${CHANNELS} bytes, got ${image.data.length}`,
    );
  }
  if (image.width === width && image.height === height) return image;
  const plain = { ...image, data: plainBytes(image.data) };
  const wide = image.width === width ? plain : resizeRows(plain, width);
  return wide.height === height ? wide : resizeColumns(wide, height);
}

/** Not a Buffer: two classes of array in one loop make it several times slower. */
function plainBytes(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length);
}

function resizeRows({ width: inWidth, height, data }: RgbImage, width: number): RgbImage {
  const { first, count, weights, stride } = tapsOf(inWidth, width);
  const out = new Uint8Array(width * height * CHANNELS);
  for (let y = 0, at = 0; y < height; y++) {
    const row = y * inWidth * CHANNELS;
    for (let x = 0; x < width; x++, at += CHANNELS) {
      let r = 1 << (BITS - 1); // rounds to nearest
      let g = r;
      let b = r;
      let from = row + int(first, x) * CHANNELS;
      const start = x * stride;
      for (let k = start, end = start + int(count, x); k < end; k++, from += CHANNELS) {
        const weight = int(weights, k);
        r = (r + byte(data, from) * weight) | 0;
        g = (g + byte(data, from + 1) * weight) | 0;
        b = (b + byte(data, from + 2) * weight) | 0;
      }
      out[at] = clamp8(r >> BITS);
      out[at + 1] = clamp8(g >> BITS);
      out[at + 2] = clamp8(b >> BITS);
    }
  }
  return { width, height, data: out };
}

function resizeColumns({ width, height: inHeight, data }: RgbImage, height: number): RgbImage {
  const { first, count, weights, stride } = tapsOf(inHeight, height);
  const rowBytes = width * CHANNELS;
  const out = new Uint8Array(height * rowBytes);
  const sums = new Int32Array(rowBytes); // a whole row at once: memory is then read in order
  for (let y = 0; y < height; y++) {
    sums.fill(1 << (BITS - 1));
    for (let k = 0; k < int(count, y); k++) {
      const weight = int(weights, y * stride + k);
      const from = (int(first, y) + k) * rowBytes;
      for (let i = 0; i < rowBytes; i++) sums[i] = (int(sums, i) + byte(data, from + i) * weight) | 0;
    }
    const to = y * rowBytes;
    for (let i = 0; i < rowBytes; i++) out[to + i] = clamp8(int(sums, i) >> BITS);
  }
  return { width, height, data: out };
}

/** The weights of Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`. */
function tapsOf(inSize: number, outSize: number): Taps {
  const scale = inSize / outSize;
  const filterScale = Math.max(scale, 1);
  const support = SUPPORT * filterScale;
  const stride = Math.ceil(support) * 2 + 1;
  const taps = {
    first: new Int32Array(outSize),
    count: new Int32Array(outSize),
    weights: new Int32Array(outSize * stride),
    stride,
  };
  for (let i = 0; i < outSize; i++) {
    const center = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const end = Math.min(Math.trunc(center + support + 0.5), inSize);
    const weights: number[] = [];
    for (let j = first; j < end; j++) weights.push(cubic((j - center + 0.5) * (1 / filterScale)));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    taps.first[i] = first;
    taps.count[i] = weights.length;
    for (const [j, weight] of weights.entries())
      taps.weights[i * stride + j] = toFixedPoint(weight * (1 / sum));
  }
  return taps;
}

function cubic(distance: number): number {
  const x = Math.abs(distance);
  if (x < 1) return ((A + 2) * x - (A + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * A;
  return 0;
}

function toFixedPoint(weight: number): number {
  return Math.trunc((weight < 0 ? -0.5 : 0.5) + weight * (1 << BITS));
}

function clamp8(value: number): number {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/** A byte inside of the array, as the loops' bounds see to; one function a type, so that V8 compiles it to a plain load. */
function byte(array: Uint8Array, i: number): number {
  return array[i] as number; // `?? 0` would cost a quarter of the speed
}

/** As `byte`, for weights and sums. */
function int(array: Int32Array, i: number): number {
  return array[i] as number;
}

function isSize(value: number): boolean {
  return Number.isInteger(value) && value >= 1;
}
