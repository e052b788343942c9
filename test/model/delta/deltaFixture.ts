/** Folders to merge: what scripts/fixtures/delta.py made, with a tokenizer beside the delta, and smaller ones made here. */
import { copyFile, cp, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { writeSafetensors } from '../../../src/model/weights/safetensors.js';
import type { TensorInfo } from '../../../src/model/weights/weights.js';
import { elementCount, type DType } from '../../../src/tensorflow/dtypes.js';
import { float32ToBfloat16, float32ToFloat16 } from '../../../src/tensorflow/halfFloats.js';
import { tinyPath } from '../weights/pytorchFixture.js';
import { temporaryFolder } from '../weights/weightsFixture.js';

/** Path of a file or folder in test/fixtures/delta. */
export function deltaPath(name: string): string {
  return join(import.meta.dirname, '..', '..', 'fixtures', 'delta', name);
}

/** Base and delta of the fixture in a folder of their own, the delta with the tiny LLaMA's tokenizer. */
export async function copyFixture(): Promise<{ root: string; base: string; delta: string; out: string }> {
  const root = await temporaryFolder();
  const [base, delta] = [join(root, 'base'), join(root, 'delta')];
  await cp(deltaPath('base'), base, { recursive: true });
  await cp(deltaPath('delta'), delta, { recursive: true });
  await addTokenizer(delta);
  return { root, base, delta, out: join(root, 'vicuna') };
}

/** Copies the tiny LLaMA's tokenizer into a folder. */
export async function addTokenizer(folder: string): Promise<void> {
  const files = ['tokenizer.model', 'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json'];
  for (const file of [...files, 'generation_config.json'])
    await copyFile(join(tinyPath('llm'), file), join(folder, file));
}

/** What `writeLlama` makes; every weight has the same value. */
export interface MadeLlama {
  readonly rows?: number;
  readonly width?: number;
  readonly layers?: number;
  readonly dtype?: DType;
  readonly value?: number;
  /** Tensors to leave out, by name, and others to put in. */
  readonly without?: readonly string[];
  readonly more?: readonly TensorInfo[];
  /** In place of the true ones. */
  readonly config?: Readonly<Record<string, unknown>>;
}

/** Writes a folder with some of a LLaMA's tensors: embeddings, a projection a layer, and the last norm. */
export async function writeLlama(folder: string, made: MadeLlama = {}): Promise<string> {
  const { rows = 6, width = 4, layers = 2, dtype = 'float16', value = 1, without = [], more = [] } = made;
  const shapes: Record<string, readonly number[]> = {
    'model.embed_tokens.weight': [rows, width],
    'lm_head.weight': [rows, width],
    'model.norm.weight': [width],
  };
  for (let i = 0; i < layers; i++) shapes[`model.layers.${i}.mlp.up_proj.weight`] = [3, width];
  const own = Object.entries(shapes).filter(([name]) => !without.includes(name));
  const tensors = [...own.map(([name, shape]) => ({ name, dtype, shape })), ...more];
  await mkdir(folder, { recursive: true });
  const entries = tensors.map((tensor) => ({ ...tensor, read: () => filled(tensor, value) }));
  await writeSafetensors(join(folder, 'model.safetensors'), entries);
  const config = { model_type: 'llama', vocab_size: rows, hidden_size: width, num_hidden_layers: layers };
  await writeFile(join(folder, 'config.json'), JSON.stringify({ ...config, ...made.config }));
  return folder;
}

function filled({ dtype, shape }: TensorInfo, value: number): Uint8Array {
  const values = new Float32Array(elementCount(shape)).fill(value);
  if (dtype === 'float16') return float32ToFloat16(values);
  if (dtype === 'bfloat16') return float32ToBfloat16(values);
  return dtype === 'float32' ? new Uint8Array(values.buffer) : new Uint8Array(values.length).fill(value);
}
