/**
 * Adding a delta to its base: numbered safetensors files and their index, as `save_pretrained` of huggingface/transformers
 * lays them out, with one tensor of base and delta in memory at a time; and reading them back.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';

import { writeFileWhole } from '../../files.js';
import { openHuggingFaceFolder } from '../weights/huggingface.js';
import { writeSafetensors, type SafetensorsEntry } from '../weights/safetensors.js';
import type { MergePlan, PlannedTensor } from './plan.js';
import { addDelta } from './sum.js';

/** Options of `writeMerged`. */
export interface WriteOptions {
  /** Most bytes of tensors in a file; a larger tensor has one of its own. */
  readonly shardBytes: number;
  /** Stops between two pieces of a tensor. */
  readonly signal?: AbortSignal | undefined;
  /** Called after each tensor with its bytes. */
  readonly onTensor?: ((sizeBytes: number) => void) | undefined;
}

/** A file of merged weights. */
export interface MergedShard {
  readonly file: string;
  readonly sizeBytes: number;
  readonly sha256: string;
}

/** What was written. */
export interface MergedWeights {
  readonly shards: readonly MergedShard[];
  /** SHA-256 (hex) of each tensor's bytes, by name. */
  readonly tensors: Readonly<Record<string, string>>;
}

/**
 * Writes the sums as `model-0000N-of-0000M.safetensors` and `model.safetensors.index.json` into `folder`.
 *
 * @throws UserError if a sum is not finite, a source cannot be read, or there is no space
 */
export async function writeMerged(
  folder: string,
  plan: MergePlan,
  options: WriteOptions,
): Promise<MergedWeights> {
  const groups = groupBySize(plan.tensors, options.shardBytes);
  const shards: MergedShard[] = [];
  const hashes = new Map<string, string>();
  const files = new Map<string, string>();
  for (const [i, group] of groups.entries()) {
    const file = `model-${fiveDigits(i + 1)}-of-${fiveDigits(groups.length)}.safetensors`;
    const entries = group.map((tensor) => sumEntry(plan, tensor, options, hashes));
    shards.push({ file, ...(await writeShard(join(folder, file), entries)) });
    for (const { name } of group) files.set(name, file);
  }
  const index = {
    metadata: { total_size: plan.sizeBytes },
    weight_map: Object.fromEntries([...files].sort(byName)),
  };
  await writeFileWhole(join(folder, 'model.safetensors.index.json'), `${JSON.stringify(index, null, 2)}\n`);
  return { shards, tensors: Object.fromEntries([...hashes].sort(byName)) };
}

/**
 * Opens a merged folder as any model folder, and compares names, dtypes, shapes and every byte with what was computed.
 *
 * @param expected SHA-256 by name, as `writeMerged` returns them
 * @throws if anything differs: the disk's fault, or ours
 */
export async function readBack(
  folder: string,
  plan: MergePlan,
  expected: MergedWeights['tensors'],
  { signal, onTensor }: Pick<WriteOptions, 'signal' | 'onTensor'> = {},
): Promise<void> {
  const merged = await openHuggingFaceFolder(folder);
  try {
    requireEqual(folder, 'names', merged.names().sort().join(), Object.keys(expected).sort().join());
    for (const { name, dtype, shape, sizeBytes } of plan.tensors) {
      signal?.throwIfAborted();
      const read = await merged.read(name);
      requireEqual(folder, name, `${read.dtype}[${read.shape.join()}]`, `${dtype}[${shape.join()}]`);
      requireEqual(folder, name, sha256(read.data), expected[name]);
      onTensor?.(sizeBytes);
    }
  } finally {
    await merged.close();
  }
}

/** Tensors in their order, in groups of at most `shardBytes`. */
function groupBySize(tensors: readonly PlannedTensor[], shardBytes: number): PlannedTensor[][] {
  const groups: PlannedTensor[][] = [];
  let groupBytes = Infinity;
  for (const tensor of tensors) {
    if (groupBytes + tensor.sizeBytes > shardBytes) {
      groups.push([]);
      groupBytes = 0;
    }
    groups.at(-1)?.push(tensor);
    groupBytes += tensor.sizeBytes;
  }
  return groups;
}

/** An entry that reads and adds when its turn comes, and notes the sum's hash. */
function sumEntry(
  { base, delta }: MergePlan,
  { name, dtype, shape, sizeBytes }: PlannedTensor,
  { signal, onTensor }: WriteOptions,
  hashes: Map<string, string>,
): SafetensorsEntry {
  const read = async (): Promise<Uint8Array> => {
    signal?.throwIfAborted();
    const sum = await addDelta(name, await base.read(name), await delta.read(name), signal);
    hashes.set(name, sha256(sum));
    onTensor?.(sizeBytes);
    return sum;
  };
  return { name, dtype, shape, read };
}

async function writeShard(
  path: string,
  entries: readonly SafetensorsEntry[],
): Promise<Omit<MergedShard, 'file'>> {
  const hash = createHash('sha256');
  let sizeBytes = 0;
  const onBytes = (bytes: Uint8Array): void => {
    hash.update(bytes);
    sizeBytes += bytes.byteLength;
  };
  await writeSafetensors(path, entries, { format: 'pt' }, { onBytes }); // transformers refuses files without a format
  return { sizeBytes, sha256: hash.digest('hex') };
}

function requireEqual(folder: string, what: string, got: string, wanted: string | undefined): void {
  if (got === wanted) return;
  throw new Error(
    `merge-delta: ${folder} must read back as it was computed, got ${got} for ${what}, not ${wanted}`,
  );
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

function fiveDigits(number: number): string {
  return String(number).padStart(5, '0');
}

/** In the order of the names' UTF-16 units, whatever the locale. */
function byName([a]: readonly [string, string], [b]: readonly [string, string]): number {
  return a < b ? -1 : 1;
}
