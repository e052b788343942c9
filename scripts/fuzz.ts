/**
 * `npx tsx scripts/fuzz.ts [CASES] [SEED]`: reads CASES (10,000) damaged copies of the weights files in test/fixtures of
 * each format. Each must give a value or a UserError, within 5 s and 1 GiB; anything else is printed with its case, and
 * the exit code is 1. `--only FORMAT CASE` repeats one case. Each format has a process of its own, which is watched from
 * outside, so that a hang is seen. The unit test of the same name takes a few hundred cases from here.
 */
import { fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { UserError } from '../src/errors.js';
import { openGguf } from '../src/model/weights/gguf.js';
import { openPyTorch, readPyTorchObject } from '../src/model/weights/pytorch.js';
import { openSafetensors } from '../src/model/weights/safetensors.js';
import type { WeightSource } from '../src/model/weights/weights.js';

/** One file format: good files, and how they are read. */
export interface FuzzFormat {
  readonly name: string;
  readonly files: readonly string[];
  readonly open: (path: string) => Promise<WeightSource>;
}

/** How a damaged file was read. */
export type Outcome = 'value' | 'refusal';

const LIMIT_MS = 5000;
const LIMIT_BYTES = 2 ** 30;
const fixtures = fileURLToPath(new URL('../test/fixtures/', import.meta.url));

/** The formats, each with files of test/fixtures that are small, so that most bytes mean something. */
export const FORMATS: readonly FuzzFormat[] = [
  { name: 'safetensors', open: openSafetensors, files: ['weights/every-dtype.safetensors'] },
  {
    name: 'pth-zip',
    open: openObjectAndWeights,
    files: ['dtypes-zip', 'views-zip', 'checkpoint-zip', 'checkpoint-protocol4', 'zip64'].map(
      (name) => `pytorch/${name}.pth`,
    ),
  },
  {
    name: 'pth-legacy',
    open: openObjectAndWeights,
    files: ['dtypes', 'views', 'checkpoint'].map((name) => `pytorch/${name}-legacy.pth`),
  },
  { name: 'gguf', open: openGguf, files: ['weights/every-type.gguf', 'weights/tiny-llama.gguf'] },
];

/** Reads case number `seed` of a format: a damaged copy, written to `path`. @throws what reading throws but a UserError */
export async function runCase(format: FuzzFormat, seed: number, path: string): Promise<Outcome> {
  await writeFile(path, damagedCopy(format, seed));
  let source: WeightSource | undefined;
  try {
    source = await format.open(path);
    for (const name of source.names()) await source.read(name);
    return 'value';
  } catch (error) {
    if (error instanceof UserError) return 'refusal';
    throw error;
  } finally {
    await source?.close();
  }
}

/** The object tree first, without a root, then the weights. */
async function openObjectAndWeights(path: string): Promise<WeightSource> {
  const object = await readPyTorchObject(path);
  await object.close();
  return openPyTorch(path);
}

const contents = new Map<string, Buffer>();

/** A good file of the format with one to three places damaged, the same for the same seed. */
export function damagedCopy(format: FuzzFormat, seed: number): Buffer {
  const random = generator(seed);
  const file = format.files[below(random, format.files.length)] ?? '';
  const good = contents.get(file) ?? readFileSync(join(fixtures, file));
  contents.set(file, good);
  let bytes: Buffer = Buffer.from(good);
  for (let left = 1 + below(random, 3); left > 0 && bytes.length > 0; left--) {
    const kind = below(random, 2) * below(random, DAMAGES.length); // every other time the first: most files stay whole
    const damage = DAMAGES[kind];
    bytes = damage?.(bytes, random) ?? bytes;
  }
  return bytes;
}

type Random = () => number;
type Damage = (bytes: Buffer, random: Random) => Buffer;

/** Numbers on which readers trip. */
const ODD = [0n, 1n, 0x7fn, 0x80n, 0xffn, 0x7fffn, 0xffffn, 0x7fffffffn, 0x80000000n, 0xffffffffn, 2n ** 40n];
const LARGE = [2n ** 53n, 2n ** 62n, 2n ** 63n - 1n, 2n ** 63n, 2n ** 64n - 1n, 2n ** 64n - 8n];

const DAMAGES: readonly Damage[] = [
  function flipBit(bytes, random) {
    const at = place(bytes, random);
    bytes[at] = (bytes[at] ?? 0) ^ (1 << below(random, 8));
    return bytes;
  },
  function setByte(bytes, random) {
    bytes[place(bytes, random)] = below(random, 256);
    return bytes;
  },
  function truncate(bytes, random) {
    return bytes.subarray(0, below(random, bytes.length));
  },
  function splice(bytes, random) {
    const from = chunk(bytes, random);
    const at = place(bytes, random);
    return Buffer.concat([bytes.subarray(0, at), from, bytes.subarray(at + from.length)]);
  },
  function insert(bytes, random) {
    const at = place(bytes, random);
    return Buffer.concat([bytes.subarray(0, at), chunk(bytes, random), bytes.subarray(at)]);
  },
  function remove(bytes, random) {
    const at = place(bytes, random);
    return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + below(random, 64))]);
  },
  function repeat(bytes, random) {
    const times = 2 ** below(random, 11);
    const part = chunk(bytes, random).subarray(0, 64);
    const at = place(bytes, random);
    return Buffer.concat([bytes.subarray(0, at), ...Array<Buffer>(times).fill(part), bytes.subarray(at)]);
  },
  function editNumber(bytes, random) {
    const values = [...ODD, ...LARGE, BigInt(bytes.length), BigInt(below(random, 2 ** 32))];
    const number = Buffer.alloc(8);
    number.writeBigUInt64LE(values[below(random, values.length)] ?? 0n);
    const at = place(bytes, random);
    bytes.set(number.subarray(0, Math.min(2 ** below(random, 4), bytes.length - at)), at);
    return bytes;
  },
  function editDigits(bytes, random) {
    const text = bytes.toString('latin1');
    const numbers = [...text.matchAll(/\d+/g)];
    const { index = 0, 0: digits = '' } = numbers[below(random, numbers.length)] ?? {};
    const values = ['-1', '0', '1e9', '0.5', String(2 ** 53), '9'.repeat(30), '[[', '"', 'null'];
    const value = values[below(random, values.length)] ?? '';
    return Buffer.from(text.slice(0, index) + value + text.slice(index + digits.length), 'latin1');
  },
];

/** A position; near the beginning or the end, where the structure is, as often as anywhere. */
function place(bytes: Buffer, random: Random): number {
  const [length, near] = [bytes.length, Math.min(bytes.length, 1024)];
  const anywhere = below(random, length);
  return [anywhere, anywhere, below(random, near), length - 1 - below(random, near)][below(random, 4)] ?? 0;
}

function chunk(bytes: Buffer, random: Random): Buffer {
  const at = place(bytes, random);
  return Buffer.from(bytes.subarray(at, at + 1 + below(random, 2 ** below(random, 10))));
}

function below(random: Random, limit: number): number {
  return Math.floor(random() * limit);
}

/** mulberry32: uniform [0, 1) from a 32-bit seed. */
function generator(seed: number): Random {
  let state = Math.imul(seed + 1, 0x9e3779b1) >>> 0; // neighbouring seeds far apart
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t ^= t + Math.imul(t ^ (t >>> 7), 61 | t);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** What a process reports: the case that it begins, or its end. */
type Report =
  | { readonly begins: number }
  | { readonly failed: number; readonly error: string }
  | {
      readonly values: number;
      readonly refusals: number;
      readonly peakBytes: number;
      readonly slowestMs: number;
    };

/** The child's part: cases `first` to `first + count` of one format, each reported before it begins. */
async function runCases(name: string, first: number, count: number): Promise<void> {
  const format = FORMATS.find((format) => format.name === name);
  if (format === undefined) throw new Error(`fuzz: no format ${name}`);
  const folder = await mkdtemp(join(tmpdir(), 'minigpt4-fuzz-'));
  const report = (message: Report): void => void process.send?.(message);
  const tally = { value: 0, refusal: 0 };
  let slowestMs = 0;
  for (let seed = first; seed < first + count; seed++) {
    report({ begins: seed });
    const begin = performance.now();
    try {
      tally[await runCase(format, seed, join(folder, 'case'))] += 1;
    } catch (error) {
      report({
        failed: seed,
        error: error instanceof Error ? (error.stack ?? error.message) : String(error),
      });
    }
    slowestMs = Math.max(slowestMs, performance.now() - begin);
  }
  await rm(folder, { recursive: true });
  const peakBytes = process.resourceUsage().maxRSS * 1024;
  report({ values: tally.value, refusals: tally.refusal, peakBytes, slowestMs });
}

/** The parent's part for one format. @returns whether all was well */
async function watch(name: string, first: number, count: number): Promise<boolean> {
  const child = fork(fileURLToPath(import.meta.url), ['--child', name, String(first), String(count)]);
  const state = { well: true, ended: false, current: first, since: performance.now() };
  const fail = (message: string): void => {
    state.well = false;
    console.log(`${name}: ${message}`);
  };
  child.on('message', (message) => {
    const report = message as Report; // from runCases alone
    if ('begins' in report) [state.current, state.since] = [report.begins, performance.now()];
    else if ('failed' in report) fail(`case ${report.failed}: ${report.error}`);
    else {
      const { values, refusals, peakBytes, slowestMs } = report;
      state.ended = true;
      const peak = `${Math.round(peakBytes / 2 ** 20)} MiB at most`;
      console.log(
        `${name}: ${values} values, ${refusals} refusals, ${Math.round(slowestMs)} ms at most, ${peak}`,
      );
      if (peakBytes > LIMIT_BYTES) fail(`took ${peakBytes} bytes`);
      if (slowestMs > LIMIT_MS) fail(`took ${slowestMs} ms`);
    }
  });
  const timer = setInterval(() => {
    if (performance.now() - state.since < 2 * LIMIT_MS) return; // twice: the machine may be busy
    fail(`case ${state.current} hangs`);
    child.kill('SIGKILL');
  }, 500);
  await new Promise((resolve) => child.on('exit', resolve));
  clearInterval(timer);
  if (!state.ended) fail(`ended in case ${state.current}`);
  return state.well;
}

async function main(args: readonly string[]): Promise<void> {
  const [first = '10000', second = '0', third = '0', fourth = '0'] = args;
  if (first === '--child') return runCases(second, Number(third), Number(fourth));
  if (first === '--only') return runCases(second, Number(third), 1);
  for (const { name } of FORMATS) {
    if (!(await watch(name, Number(second), Number(first)))) process.exitCode = 1;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(process.argv.slice(2));
