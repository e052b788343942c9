/**
 * How fast images become an encoder's input, beside sharp's own decoding and resizing (which is not Pillow's).
 * Run: npx tsx scripts/decode/speed.ts [ROUNDS]
 *
 * The ways take turns, ROUNDS times (5 if left out), so that a machine that is busy with other things is so for all of
 * them; the median counts. Beside the pictures a second: what each way costs in CPU time.
 */
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout } from 'node:timers/promises';
import sharp from 'sharp';
import { decodeImage, normalise, preprocess } from '../../src/data/images/images.js';
import { resizeBicubic } from '../../src/data/images/resize.js';
import { findNative } from '../../src/native.js';
import { jpeg } from './pictures.js';

const rounds = Number(process.argv[2] ?? 5);
const SIZE = 224;
const mean = [0.48145466, 0.4578275, 0.40821073];
const std = [0.26862954, 0.26130258, 0.27577711];
const SIDES = [
  [256, 256, 150],
  [640, 480, 100],
  [640, 640, 80],
  [1600, 1067, 25],
] as const; // and pictures a turn

interface Way {
  readonly name: string;
  readonly inFlight: number;
  readonly one: (bytes: Buffer) => Promise<unknown>;
  /** Sharp's own settings: its cache on. */
  readonly cache: boolean;
}

const sharps = (bytes: Buffer): Promise<Buffer> =>
  sharp(bytes).resize(SIZE, SIZE, { fit: 'fill', kernel: 'cubic' }).removeAlpha().raw().toBuffer();
const ours = (bytes: Buffer): Promise<unknown> => preprocess(bytes, { size: SIZE, mean, std });
const plain = async (bytes: Buffer): Promise<unknown> =>
  normalise(resizeBicubic(await decodeImage(bytes), SIZE, SIZE), mean, std);
const ways: readonly Way[] = [
  ...[1, 2, 4].map((inFlight) => ({ name: 'sharp', inFlight, one: sharps, cache: true })),
  ...[1, 2, 4].map((inFlight) => ({ name: 'ours', inFlight, one: ours, cache: false })),
  { name: 'ours, TypeScript', inFlight: 2, one: plain, cache: false },
];

console.log(`${cpus().length} × ${String(cpus()[0]?.model)}, Node ${process.versions.node}`);
console.log(`sharp ${sharp.versions.sharp}, libvips ${sharp.versions.vips}, ${rounds} rounds`);
const native = findNative();
if (!native) throw new Error('speed: needs the addon (run minigpt4 setup)');
console.log(`addon: ${native.hasWideKernel() ? 'AVX2' : 'plain'}`);

for (const [width, height, count] of SIDES) {
  const bytes = await jpeg(width, height, 7);
  console.log(`\n${width} × ${height}, JPEG of ${(bytes.length / 1e3).toFixed(0)} kB, to ${SIZE} × ${SIZE}`);
  const rates = ways.map((): { perSecond: number; cpuMs: number }[] => []);
  for (let round = 0; round <= rounds; round++) {
    for (const [i, way] of ways.entries()) {
      const rate = await measure(way, bytes, count);
      if (round > 0) rates[i]?.push(rate); // the first warms up
    }
  }
  const best = Math.max(...ways.map((way, i) => (way.name === 'sharp' ? median(rates, i, 'perSecond') : 0)));
  for (const [i, { name, inFlight }] of ways.entries()) {
    const perSecond = median(rates, i, 'perSecond');
    const share = `${((100 * perSecond) / best).toFixed(0).padStart(4)} % of sharp's best`;
    const cpu = `${median(rates, i, 'cpuMs').toFixed(1).padStart(5)} ms of CPU`;
    console.log(
      `${name.padEnd(17)} ${inFlight} in flight  ${perSecond.toFixed(0).padStart(4)}/s  ${cpu}  ${share}`,
    );
  }
  console.log(await mainThread(bytes, count));
}

async function measure(
  way: Way,
  bytes: Buffer,
  count: number,
): Promise<{ perSecond: number; cpuMs: number }> {
  sharp.cache(way.cache);
  const from = performance.now();
  const cpu = process.cpuUsage();
  await together(way, bytes, count);
  const { user, system } = process.cpuUsage(cpu);
  return { perSecond: (1e3 * count) / (performance.now() - from), cpuMs: (user + system) / 1e3 / count };
}

async function together({ inFlight, one }: Way, bytes: Buffer, count: number): Promise<void> {
  let started = 0;
  const chain = async (): Promise<void> => {
    while (started++ < count) await one(bytes);
  };
  await Promise.all(Array.from({ length: inFlight }, chain));
}

/** What of it the main thread does, and how late timers of a millisecond are meanwhile, beside when nothing is read. */
async function mainThread(bytes: Buffer, count: number): Promise<string> {
  const before = mainThreadMs();
  const reading = await timerDelay(() =>
    together({ name: 'ours', inFlight: 2, one: ours, cache: false }, bytes, 4 * count),
  );
  const busyMs = (mainThreadMs() - before) / (4 * count);
  const idle = await timerDelay(() => setTimeout(1000));
  return `main thread: ${busyMs.toFixed(2)} ms of CPU an image; timers late by p50 ${reading.p50}, p99 ${reading.p99} ms; with nothing to read p50 ${idle.p50}, p99 ${idle.p99} ms`;
}

/** CPU time of the main thread so far, by Linux's account; waiting for a busy machine does not count. */
function mainThreadMs(): number {
  return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6;
}

async function timerDelay(work: () => Promise<unknown>): Promise<{ p50: string; p99: string }> {
  const histogram = monitorEventLoopDelay({ resolution: 1 });
  histogram.enable();
  await work();
  histogram.disable();
  // It counts from one timer to the next: what exceeds the resolution is delay
  const late = (percent: number): string => Math.max(0, histogram.percentile(percent) / 1e6 - 1).toFixed(2);
  return { p50: late(50), p99: late(99) };
}

function median(
  rates: readonly { readonly perSecond: number; readonly cpuMs: number }[][],
  way: number,
  what: 'perSecond' | 'cpuMs',
): number {
  const sorted = (rates[way] ?? []).map((rate) => rate[what]).sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? NaN;
}
