/** `minigpt4 inspect`: what a file or folder of this project's trade holds, in lines of text. */
import { existsSync } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, extname, join } from 'node:path';

import { RESOLVED_HEADER } from './config/describe.js';
import { loadConfig } from './config/load.js';
import { isAddress, shownPlace } from './data/bytes/remoteFile.js';
import { ShardSet } from './data/shards/shards.js';
import { UserError } from './errors.js';
import { fileError } from './files.js';
import { openGguf } from './model/weights/gguf.js';
import { openHuggingFaceFolder } from './model/weights/huggingface.js';
import { openPyTorch } from './model/weights/pytorch.js';
import { openSafetensors } from './model/weights/safetensors.js';
import type { WeightSource } from './model/weights/weights.js';
import { elementCount } from './tensorflow/dtypes.js';
import { latestCheckpoint, loadCheckpoint } from './train/checkpoint.js';
import { mixtureReport } from './train/mixtureReport.js';
import { openSources } from './train/samples.js';

/** Options of `inspectPath`. */
export interface InspectOptions {
  /** Pairs of a shard that are shown. */
  readonly samples?: number;
  /** Read all data of shards and compare it with the manifest; checkpoints are always verified. */
  readonly verify?: boolean;
  /** Called while shards are verified, with the bytes read so far, of all. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

const LONGEST = 100; // characters of a text that are shown

/**
 * Describes shards (on disk or behind http), a weights file, a model folder, a checkpoint or a run.
 *
 * @throws UserError if the path is none of these, or what is there is damaged
 */
export async function inspectPath(path: string, options: InspectOptions = {}): Promise<string[]> {
  if (isAddress(path)) return inspectShards(path, options);
  const found = await stat(path).catch((error: unknown) => {
    throw fileError(path, error);
  });
  if (found.isDirectory()) return inspectFolder(path, options);
  switch (extname(path)) {
    case '.arrow':
      return inspectShards(path, options);
    case '.safetensors':
      return inspectWeights(await openSafetensors(path));
    case '.gguf':
      return inspectWeights(await openGguf(path));
    case '.pth':
    case '.pt':
    case '.bin':
      return inspectWeights(await openPyTorch(path));
    default:
      throw new UserError(
        `inspect: reads .arrow, .safetensors, .gguf, .pth, .pt and .bin files, folders of shards, models, checkpoints and runs, got ${path}`,
      );
  }
}

async function inspectFolder(folder: string, options: InspectOptions): Promise<string[]> {
  const names = await readdir(folder);
  const isCheckpoint = ['state.json', 'projection.safetensors'].every((name) => names.includes(name));
  if (isCheckpoint) return inspectCheckpoint(folder); // `datasets` has a state.json too
  if (names.includes('checkpoints') || (await isRun(folder))) return inspectRun(folder);
  if (names.includes('manifest.json') || names.some((name) => name.endsWith('.arrow'))) {
    return inspectShards(folder, options);
  }
  if (names.includes('config.json')) return inspectWeights(await openHuggingFaceFolder(folder));
  const below = names.filter((name) => existsSync(join(folder, name, 'manifest.json'))).sort();
  const hint = below.length > 0 ? ` (it holds folders of shards: ${below.join(', ')})` : '';
  throw new UserError(
    `inspect: a folder must hold shards, a model, a checkpoint or a run, got ${folder} with ${names.slice(0, 6).join(', ') || 'nothing'}${hint}`,
  );
}

async function inspectShards(
  place: string,
  { samples = 3, verify = true, onProgress }: InspectOptions,
): Promise<string[]> {
  const set = await ShardSet.open(place);
  try {
    const { format, columns } = await set.format();
    const count = set.paths.length;
    const lines = [
      `${shownPlace(place)}: ${set.rows} pairs in ${count} Arrow ${format} shard${count === 1 ? '' : 's'}`,
      ...(set.about === undefined ? [] : [`about: ${set.about.trim()}`]),
      'columns:',
      ...columns.map(([name, type]) => `  ${name}: ${type}`),
    ];
    if (samples > 0) lines.push('samples:');
    for (let row = 0; row < Math.min(samples, set.rows); row++) {
      const { id, image, caption } = await set.read(row);
      lines.push(`  ${id}: ${image.length} bytes of ${imageKind(image)}, "${shorten(caption)}"`);
    }
    if (!verify) return lines;
    await set.verify(onProgress && { onProgress });
    return [...lines, set.hasChecksums ? 'checksums agree with manifest.json' : 'every batch reads'];
  } finally {
    set.close();
  }
}

async function inspectWeights(source: WeightSource): Promise<string[]> {
  try {
    const tensors = source.names().map((name) => source.info(name));
    const parameters = tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0);
    return [
      `${source.path}: ${tensors.length} tensors, ${parameters.toLocaleString('en')} parameters`,
      ...Object.entries(source.metadata).map(([key, value]) => `  ${key}: ${shorten(value)}`),
      ...table(tensors.map(({ name, dtype, shape }) => [name, dtype, `[${shape.join(', ')}]`])),
    ];
  } finally {
    await source.close();
  }
}

async function inspectCheckpoint(folder: string): Promise<string[]> {
  const { step, state, projection, optimizer } = await loadCheckpoint(folder);
  const { seed, precision, threads, cpu, versions, parts } = state;
  const tensors = Object.entries({ ...projection, ...optimizer });
  return [
    `${folder}: checkpoint after step ${step}, checksums agree with state.json`,
    `  seed ${seed}, frozen parts in ${precision}, ${threads === 0 ? 'all' : threads} threads, ${cpu}`,
    `  ${Object.entries(versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(', ')}`,
    ...Object.entries(parts).map(([part, sha256]) => `  SHA-256 of ${part}: ${sha256}`),
    ...table(tensors.map(([name, { dtype, shape }]) => [name, dtype, `[${shape.join(', ')}]`])),
  ];
}

async function inspectRun(folder: string): Promise<string[]> {
  const latest = await latestCheckpoint(folder);
  const lines = [
    `${folder}: a run, ${latest === undefined ? 'without a checkpoint yet' : `newest checkpoint ${basename(latest)}`}`,
  ];
  const metrics = await lastLine(join(folder, 'metrics.jsonl'));
  if (metrics !== undefined) lines.push(`last metrics: ${metrics}`);
  if (latest === undefined) return lines;
  return [...lines, ...(await drawnSamples(folder, latest)), ...(await inspectCheckpoint(latest))];
}

/** What the mixture came to by a checkpoint; a line that says why not where the training sets are gone. */
async function drawnSamples(folder: string, checkpoint: string): Promise<string[]> {
  try {
    const config = await loadConfig(join(folder, 'config.yaml'));
    const sources = await openSources(config);
    for (const { shards } of sources) shards.close();
    const { step } = await loadCheckpoint(checkpoint);
    return mixtureReport(
      config,
      sources.map(({ rows }) => rows),
      step,
    ).map((line) => `drawn from ${line}`);
  } catch (error) {
    if (error instanceof UserError) return [`drawn samples: not known, ${error.message}`];
    throw error;
  }
}

async function isRun(folder: string): Promise<boolean> {
  const file = join(folder, 'config.yaml');
  return existsSync(file) && (await readFile(file, 'utf8')).startsWith(RESOLVED_HEADER);
}

async function lastLine(file: string): Promise<string | undefined> {
  if (!existsSync(file)) return undefined;
  return (await readFile(file, 'utf8')).trimEnd().split('\n').at(-1) || undefined;
}

function table(rows: readonly (readonly [string, string, string])[]): string[] {
  const widths = [0, 1].map((column) => Math.max(0, ...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map(([a, b, c]) => `  ${a.padEnd(widths[0] ?? 0)}  ${b.padEnd(widths[1] ?? 0)}  ${c}`);
}

/** The kind of image by its first bytes. */
function imageKind(image: Uint8Array): string {
  const head = Buffer.from(image.subarray(0, 12)).toString('latin1');
  if (head.startsWith('\xff\xd8')) return 'JPEG';
  if (head.startsWith('\x89PNG')) return 'PNG';
  if (head.startsWith('RIFF') && head.endsWith('WEBP')) return 'WebP';
  if (head.startsWith('GIF8')) return 'GIF';
  return image.length === 0 ? 'nothing' : 'an unknown kind';
}

function shorten(text: string): string {
  const line = text.replaceAll(/\s+/g, ' ');
  return line.length > LONGEST ? `${line.slice(0, LONGEST)}…` : line;
}
