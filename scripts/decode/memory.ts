/**
 * Whether decoding keeps memory: resident memory while many samples of mixed sizes and kinds, bad ones among them, are
 * read, and the slope of a line through it.
 * Run: npx tsx scripts/decode/memory.ts [SAMPLES]   (100,000 if left out: about eight minutes on two cores)
 *
 * Ends with exit code 1 if memory grows by 1 MB or more in 10,000 samples.
 */
import sharp from 'sharp';
import { BadImage, preprocess } from '../../src/data/images/images.js';
import { jpeg, picture } from './pictures.js';

const samples = Number(process.argv[2] ?? 100_000);
const IN_FLIGHT = 2; // the default of data.workers
const EVERY = Math.ceil(samples / 40); // samples between two looks at the memory
const WARM_UP = 0.2; // share of the looks that is left out of the line: arenas and V8's heap find their size
const LIMIT_MB = 1; // per 10,000 samples
const transform = {
  size: 224,
  mean: [0.48145466, 0.4578275, 0.40821073],
  std: [0.26862954, 0.26130258, 0.27577711],
};

const images = await mixedImages();
let started = 0;
let bad = 0;
const looks: { readonly at: number; readonly mb: number }[] = [];
const from = performance.now();

await Promise.all(Array.from({ length: IN_FLIGHT }, readOn));

const seconds = (performance.now() - from) / 1e3;
const slope = slopeOf(looks.slice(Math.floor(looks.length * WARM_UP))) * 10_000;
console.log(`${samples} samples, ${bad} bad, ${(samples / seconds).toFixed(0)}/s`);
console.log(`resident memory grows by ${slope.toFixed(2)} MB in 10,000 samples (limit ${LIMIT_MB})`);
if (!(slope < LIMIT_MB)) process.exitCode = 1;

async function readOn(): Promise<void> {
  while (started < samples) {
    const at = started++;
    if (at % EVERY === 0) look(at);
    try {
      await preprocess(images[(at * 7919) % images.length] ?? Buffer.of(), transform); // a prime: the kinds alternate
    } catch (error) {
      if (!(error instanceof BadImage)) throw error;
      bad += 1;
    }
  }
}

function look(at: number): void {
  const mb = process.memoryUsage.rss() / 2 ** 20;
  looks.push({ at, mb });
  console.log(`${String(at).padStart(7)} samples  ${mb.toFixed(1)} MB`);
}

/** Least squares, MB a sample. */
function slopeOf(points: typeof looks): number {
  const mean = (pick: (point: (typeof looks)[number]) => number): number =>
    points.reduce((sum, point) => sum + pick(point), 0) / points.length;
  const [at, mb] = [mean((point) => point.at), mean((point) => point.mb)];
  const covariance = mean((point) => (point.at - at) * (point.mb - mb));
  return covariance / mean((point) => (point.at - at) ** 2);
}

/** 97 images: JPEG of many sizes, other formats, and one bad one of each common kind. */
async function mixedImages(): Promise<Buffer[]> {
  const sizes = Array.from(
    { length: 76 },
    (_, i) => [60 + ((i * 197) % 580), 60 + ((i * 331) % 420)] as const,
  );
  const jpegs: Buffer[] = [];
  for (const [i, [width, height]] of sizes.entries()) jpegs.push(await jpeg(width, height, i + 1));
  jpegs.push(await jpeg(1600, 1067, 3), await jpeg(1067, 1600, 4));
  const one = sharp(await picture(320, 240, 5), { raw: { width: 320, height: 240, channels: 3 } });
  const whole = await one.clone().jpeg().toBuffer();
  const others = [
    one.clone().png(),
    one.clone().ensureAlpha(0.5).png(),
    one.clone().png({ palette: true }),
    one.clone().webp(),
    one.clone().gif(),
    one.clone().greyscale().jpeg(),
    one.clone().toColourspace('cmyk').jpeg(),
    one.clone().toColourspace('rgb16').png(),
    one.clone().toColourspace('grey16').png(),
    one.clone().jpeg({ progressive: true }),
    one.clone().tiff(),
  ];
  const bomb = sharp({ create: { width: 9000, height: 9000, channels: 3, background: '#fff' } });
  return [
    ...jpegs,
    ...(await Promise.all(others.map((image) => image.toBuffer()))),
    ...[0.3, 0.6, 0.95].map((share) => whole.subarray(0, Math.floor(share * whole.length))),
    (await one.clone().png().toBuffer()).subarray(0, 9000),
    await bomb.png({ compressionLevel: 1 }).toBuffer(),
    Buffer.of(),
    Buffer.from('<!DOCTYPE html><html></html>'),
    Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
    Buffer.from([0xff, 0xd8, 0xff, 0xe0, ...Array.from({ length: 3000 }, (_, i) => (i * 89) % 256)]),
  ];
}
