/** What scripts/fixtures/weights.py wrote down of its files, and helpers to hold ours against it. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { WeightSource } from '../../../src/model/weights/weights.js';

/** Dtype, shape and SHA-256 of a tensor's bytes. */
export interface TensorDigest {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly sha256: string;
}

interface WeightsFixture {
  readonly safetensors: Record<string, TensorDigest>;
  readonly ggufTypes: Record<string, TensorDigest>;
  readonly llama: {
    readonly config: Record<string, unknown>;
    readonly tensors: Record<string, TensorDigest>;
  };
  readonly dinov2: { readonly tensors: Record<string, TensorDigest> };
  readonly onnx: Record<string, TensorDigest>;
}

const folder = join(import.meta.dirname, '..', '..', 'fixtures', 'weights');

/** Path of a file in test/fixtures/weights. */
export function fixturePath(name: string): string {
  return join(folder, name);
}

/** The expectations, by what they are about. */
export const expected = JSON.parse(readFileSync(fixturePath('weights.json'), 'utf8')) as WeightsFixture; // our own script's file

/** Dtype, shape and hash of every tensor of a source, read one by one. */
export async function digests(source: WeightSource): Promise<Record<string, TensorDigest>> {
  const found: Record<string, TensorDigest> = {};
  for (const name of source.names()) {
    const { dtype, shape, data } = await source.read(name);
    found[name] = { dtype, shape, sha256: createHash('sha256').update(data).digest('hex') };
  }
  return found;
}

const temporary: string[] = [];

/** A new folder, deleted after the test. */
export async function temporaryFolder(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'minigpt4-'));
  temporary.push(path);
  return path;
}

/** Writes bytes to a file in a new folder; returns its path. */
export async function temporaryFile(name: string, bytes: Uint8Array | string): Promise<string> {
  const path = join(await temporaryFolder(), name);
  await writeFile(path, bytes);
  return path;
}

/** Deletes them. `test/setup.ts` does so after each test: unit tests share this module, and its own hooks would be the first file's. */
export async function deleteTemporaryFolders(): Promise<void> {
  for (const path of temporary.splice(0)) await rm(path, { recursive: true, force: true });
}
