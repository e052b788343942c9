/**
 * How much faster the default models compute when two runs share a call (`model.concurrency`), against one after the other.
 * Run: npx tsx scripts/concurrency.ts [ROUNDS]
 *
 * Concurrency is fixed for a process, so each measurement is a process of its own; one with 1 and one with 2 take turns,
 * ROUNDS times (3 if left out, two minutes each), and the medians count. Random features and tokens: only times are of interest.
 */
import { spawnSync } from 'node:child_process';
import { cpus } from 'node:os';
import type { Example } from '../src/model/language/sequence.js';
import { openMiniGpt4, projectionSizes, type MiniGpt4 } from '../src/model/miniGpt4.js';
import { projectionOptions, type Projection } from '../src/model/projection.js';
import { initialProjection } from '../src/model/projectionStart.js';
import { loadConfig } from '../src/config/load.js';
import { likelihoods } from '../src/evaluate/retrieval.js';
import { modelFolder } from '../src/setup/models.js';
import { microBatch } from '../src/train/samples.js';

const CONFIG = 'configs/quickstart/stage1.yaml';
const TEXTS = 91;

/** Something to time: `work` does `items` of it. */
interface Way {
  readonly name: string;
  readonly items: number;
  readonly repeats: number;
  readonly work: () => Promise<unknown>;
}

const [first = '3', concurrency] = process.argv.slice(2);
if (first === '--one') await measureAll(Number(concurrency));
else compare(Number(first));

function compare(rounds: number): void {
  console.log(
    `${cpus().length} × ${String(cpus()[0]?.model)}, Node ${process.versions.node}, ${rounds} rounds`,
  );
  const times: Record<number, Record<string, number>[]> = { 1: [], 2: [] };
  for (let round = 0; round < rounds; round++) for (const count of [1, 2]) times[count]?.push(timesOf(count));
  for (const name of Object.keys(times[1]?.[0] ?? {})) {
    const [one, two] = [1, 2].map((count) => median((times[count] ?? []).map((all) => all[name] ?? NaN)));
    if (one === undefined || two === undefined) continue;
    console.log(
      `${name.padEnd(44)} ${one.toFixed(0).padStart(5)} ms, two at a time ${two.toFixed(0).padStart(5)} ms: ${(two / one).toFixed(2)} of the time`,
    );
  }
}

function timesOf(count: number): Record<string, number> {
  const script = process.argv[1] ?? '';
  const { stdout, stderr, status } = spawnSync('npx', ['tsx', script, '--one', String(count)]);
  if (status !== 0) throw new Error(`concurrency: ${String(stderr)}`);
  return JSON.parse(String(stdout)) as Record<string, number>; // printed below
}

async function measureAll(count: number): Promise<void> {
  const config = await loadConfig(CONFIG, { set: [`model.concurrency=${count}`] });
  const [encoder, llm] = await Promise.all(
    ['vit-s14-focus', 'smollm2-135m-instruct'].map((name) => modelFolder(name)),
  );
  const model = await openMiniGpt4(config.model, { encoder: encoder ?? '', llm: llm ?? '' });
  const options = projectionOptions(config.model.projection);
  const [C] = projectionSizes(model);
  const statistics = { mean: new Float32Array(C), std: new Float32Array(C).fill(1) };
  const start = { kind: 'torch' } as const;
  const projection = initialProjection(projectionSizes(model), options, start, Math.random, statistics);
  const ways: readonly Way[] = [
    {
      name: `image of ${config.model.imageSize} pixels, encoded`,
      items: 4,
      repeats: 8,
      work: () => encodeAll(model, 4),
    },
    {
      name: 'step of two micro-batches of four captions',
      items: 1,
      repeats: 8,
      work: () => step(model, projection, 2),
    },
    {
      name: `image read with ${TEXTS} captions`,
      items: 4,
      repeats: 3,
      work: () => retrieve(model, projection, 4),
    },
  ];
  const times: Record<string, number> = {};
  for (const way of ways) times[way.name] = await timed(way);
  console.log(JSON.stringify(times));
  await model.close();
}

/** Median ms of one item, after a time that TensorFlow prepares its graph in. */
async function timed({ items, repeats, work }: Way): Promise<number> {
  await work();
  const times: number[] = [];
  for (let i = 0; i < repeats; i++) {
    const start = performance.now();
    await work();
    times.push((performance.now() - start) / items);
  }
  return median(times);
}

async function encodeAll({ encoder }: MiniGpt4, count: number): Promise<void> {
  const size = encoder.spec.vit.imageSize;
  await Promise.all(Array.from({ length: count }, () => encoder.encode(noise(3 * size * size))));
}

async function step({ encoder, language }: MiniGpt4, projection: Projection, units: number): Promise<void> {
  const batch = (): ReturnType<typeof microBatch> =>
    microBatch(
      [3, 2, 4, 3].map((length) => ({ example: example(length), features: featuresOf(encoder) })),
      encoder.featureShape,
    );
  const all = Array.from({ length: units }, batch);
  for (let from = 0; from < units; from += language.concurrency)
    await Promise.all(
      all.slice(from, from + language.concurrency).map((one) => language.lossAndGradients(projection, one)),
    );
}

async function retrieve(
  { encoder, language }: MiniGpt4,
  projection: Projection,
  images: number,
): Promise<void> {
  const texts = Array.from({ length: TEXTS }, (_, i) => example(2 + (i % 4)).target);
  const features = Array.from({ length: images }, () => featuresOf(encoder));
  await likelihoods(language, projection, example(1).prefix, features, texts, encoder.featureShape);
}

function example(length: number): Example {
  const target = Array.from({ length }, (_, i) => 200 + i);
  return { prefix: [{ kind: 'text', ids: [0] }, { kind: 'image' }], target };
}

function featuresOf({ featureShape: [Q, C] }: MiniGpt4['encoder']): Float32Array {
  return noise(Q * C);
}

function noise(length: number): Float32Array {
  return Float32Array.from({ length }, () => Math.random() - 0.5);
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;
}
