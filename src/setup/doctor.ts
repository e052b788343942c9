/** What is on this machine, how fast it multiplies, and what is missing: the report of `minigpt4 doctor`. */
import { readFileSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { availableParallelism, cpus, totalmem } from 'node:os';
import { dirname } from 'node:path';

import { cacheFolder } from '../cache.js';
import { UserError } from '../errors.js';
import { runtimeFolder } from '../runtimeFolder.js';
import { nativePrecision } from '../tensorflow/precision.js';
import { TensorFlow } from '../tensorflow/session.js';
import { packageVersion } from '../version.js';
import { findCompiler } from './compile.js';
import { isMissing } from './disk.js';
import { modelFolder, SMOLLM2, VIT_FOCUS } from './models.js';
import { findNpm } from './npm.js';
import { findPip } from './pip.js';
import { detectDevice, requirePlatform } from './platform.js';
import { readRuntime } from './runtime.js';

/** One fact of the report. */
export interface Fact {
  readonly name: string;
  readonly value: string;
  /** `missing` must be mended before training; `spare` is only needed to set up what is already set up. */
  readonly state: 'good' | 'missing' | 'spare';
  /** What to do about it, where it is not good. */
  readonly mend?: string;
}

/** The whole report. */
export interface DoctorReport {
  readonly facts: readonly Fact[];
  /** Whether training can begin. */
  readonly ready: boolean;
}

/** CPU flags that decide how fast products are, as Linux names them. */
const FLAGS = ['avx2', 'fma', 'avx512f', 'avx512_bf16', 'amx_bf16', 'bf16'];
const SIZES = [
  [768, 768, 768],
  [1024, 4096, 4096],
] as const;

/** Looks at the machine; measures matrix products where TensorFlow is set up (a few seconds). */
export async function examine(): Promise<DoctorReport> {
  const runtime = await runtimeFact();
  const models = await Promise.all([SMOLLM2, VIT_FOCUS].map(({ name }) => modelFact(name)));
  const isSetUp = [runtime, ...models].every(({ state }) => state === 'good');
  const facts = [
    good('minigpt4-align', packageVersion),
    await found('platform', requirePlatform, () => `${process.platform} ${process.arch}`),
    nodeFact(),
    ...(await toolFacts(isSetUp ? 'spare' : 'missing')),
    ...machineFacts(),
    await diskFact(),
    runtime,
    ...(runtime.state === 'good' ? await measure() : []),
    ...models,
  ];
  return { facts, ready: facts.every(({ state }) => state !== 'missing') };
}

/** The report as lines of text: facts in two columns, then what to do about those that are not good. */
export function reportLines({ facts, ready }: DoctorReport): string[] {
  const width = Math.max(...facts.map(({ name }) => name.length));
  const advice = facts.flatMap(({ name, mend }) => (mend === undefined ? [] : [`  ${name}: ${mend}`]));
  return [
    ...facts.map(({ name, value }) => `${name.padEnd(width)}  ${value}`),
    '',
    ready ? 'ready to train' : 'not ready to train:',
    ...advice,
  ];
}

function nodeFact(): Fact {
  const { node } = process.versions;
  return Number(node.split('.')[0]) >= 20
    ? good('node', node)
    : { name: 'node', value: node, state: 'missing', mend: 'install Node.js 20 or newer' };
}

/** What set-up works with; once all is set up, it may be missing. */
function toolFacts(otherwise: 'missing' | 'spare'): Promise<Fact[]> {
  return Promise.all([
    found('npm', findNpm, (version) => version, otherwise),
    found(
      'pip',
      findPip,
      ({ command, args, version }) => `${version} (${[command, ...args].join(' ')})`,
      otherwise,
    ),
    found('C++ compiler', findCompiler, ({ command, version }) => `${version} (${command})`, otherwise),
  ]);
}

function machineFacts(): Fact[] {
  const present = cpuFlags();
  return [
    good('CPU', cpus()[0]?.model ?? 'unknown'),
    good('CPU features', FLAGS.filter((flag) => present.has(flag)).join(' ') || 'none of the wide ones'),
    good('cores', String(availableParallelism())),
    good('memory', gigabytes(totalmem())),
    good('NVIDIA driver', detectDevice() === 'gpu' ? 'found' : 'none: computes on the CPU'),
  ];
}

async function diskFact(): Promise<Fact> {
  const folder = cacheFolder();
  for (let at = folder; ; at = dirname(at)) {
    try {
      const { bavail, bsize } = await statfs(at);
      return good('cache', `${folder}, ${gigabytes(bavail * bsize)} free`);
    } catch (error) {
      if (!isMissing(error)) throw error;
    }
  }
}

async function runtimeFact(): Promise<Fact> {
  for (const device of ['gpu', 'cpu'] as const) {
    const marker = await readRuntime(runtimeFolder(device));
    if (!marker) continue;
    const { tensorflow, tfjs, compiler } = marker;
    return good(
      'TensorFlow',
      `${tensorflow} (${device} build) under tfjs-node-gpu ${tfjs}, compiled by ${compiler}`,
    );
  }
  return { name: 'TensorFlow', value: 'not set up', state: 'missing', mend: 'run minigpt4 setup' };
}

async function modelFact(name: string): Promise<Fact> {
  return found(
    `model ${name}`,
    () => modelFolder(name),
    (folder) => folder,
  );
}

async function measure(): Promise<Fact[]> {
  const tensorflow = await TensorFlow.open();
  try {
    const { device } = tensorflow.facts;
    const rates: Fact[] = [];
    for (const size of SIZES) {
      const float32 = await tensorflow.matMulRate('float32', size);
      const bfloat16 = await tensorflow.matMulRate('bfloat16', size);
      const value = `float32 ${Math.round(float32)}, bfloat16 ${Math.round(bfloat16)} GFLOP/s`;
      rates.push(good(`MatMul ${size.join(' × ')}`, value));
    }
    return [good('computes on', device), ...rates, good('precision: auto', nativePrecision(device))];
  } finally {
    await tensorflow.close();
  }
}

/** A fact that is there unless finding it fails with something the user can mend. */
async function found<T>(
  name: string,
  find: () => T | Promise<T>,
  say: (result: T) => string,
  otherwise: 'missing' | 'spare' = 'missing',
): Promise<Fact> {
  try {
    return good(name, say(await find()));
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return { name, value: 'missing', state: otherwise, mend: error.message };
  }
}

function good(name: string, value: string): Fact {
  return { name, value, state: 'good' };
}

function cpuFlags(): Set<string> {
  try {
    const line = /^(?:flags|Features)\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? '';
    return new Set(line.trim().split(/\s+/));
  } catch {
    return new Set(); // no Linux: nothing to say
  }
}

function gigabytes(sizeBytes: number): string {
  return `${(sizeBytes / 1e9).toFixed(1)} GB`;
}
