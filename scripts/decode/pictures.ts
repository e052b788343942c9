/** Pictures to measure with: smooth shapes with fine grain, so that a JPEG of them is about as large as a photograph's. */
import sharp from 'sharp';

const GRAIN = [8, 32, 128, 512]; // sides of the noise that is scaled up and summed, coarse to fine

/**
 * A picture, the same for the same arguments.
 *
 * @param width in pixels, as `height`
 * @returns RGB, 3 bytes a pixel
 */
export async function picture(width: number, height: number, seed: number): Promise<Buffer> {
  const sum = new Float32Array(width * height * 3).fill(128);
  let state = seed;
  const random = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 24;
  for (const side of GRAIN.filter((one) => one <= Math.max(width, height))) {
    const noise = Uint8Array.from({ length: side * side * 3 }, random);
    const layer = await sharp(noise, { raw: { width: side, height: side, channels: 3 } })
      .resize(width, height, { fit: 'fill', kernel: 'cubic' })
      .raw()
      .toBuffer();
    for (const [i, level] of layer.entries()) sum[i] = (sum[i] ?? 0) + ((level - 128) * 3) / Math.sqrt(side);
  }
  return Buffer.from(Uint8ClampedArray.from(sum).buffer);
}

/** A picture as JPEG of quality 90. */
export async function jpeg(width: number, height: number, seed: number): Promise<Buffer> {
  const raw = { width, height, channels: 3 as const };
  return sharp(await picture(width, height, seed), { raw })
    .jpeg({ quality: 90 })
    .toBuffer();
}
