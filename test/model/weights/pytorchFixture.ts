/** What scripts/fixtures/pytorch.py wrote down of its files, and ways to make damaged ones by hand. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';

import { readPyTorchObject } from '../../../src/model/weights/pytorch.js';
import {
  OrderedDict,
  PyTorchRecord,
  PyTorchTensor,
  type PyTorchValue,
} from '../../../src/model/weights/pytorchValues.js';
import { ZipWriter } from '../../../src/model/weights/pytorchZipWrite.js';
import { temporaryFolder, type TensorDigest } from './weightsFixture.js';

interface PyTorchFixture {
  /** What torch reads in each good file, as `plain` gives it. */
  readonly objects: Record<string, unknown>;
  /** What a refusal of each file must name. */
  readonly refused: Record<string, string>;
  /** What the message on each damaged file must contain. */
  readonly damaged: Record<string, string>;
}

const fixtures = join(import.meta.dirname, '..', '..', 'fixtures');

/** Path of a file in test/fixtures/pytorch. */
export function pytorchPath(name: string): string {
  return join(fixtures, 'pytorch', name);
}

/** Path of a file in test/fixtures/minigpt4-tiny/weights. */
export function tinyPath(name: string): string {
  return join(fixtures, 'minigpt4-tiny', 'weights', name);
}

/** The expectations of scripts/fixtures/pytorch.py. */
export const fixture = JSON.parse(readFileSync(pytorchPath('pytorch.json'), 'utf8')) as PyTorchFixture; // our own script's

/** A value as that script's `plain` writes it: tensors as digests, dicts as lists of pairs. */
export async function plain(value: PyTorchValue): Promise<unknown> {
  if (value instanceof PyTorchTensor) return { tensor: await digest(value) };
  if (value instanceof PyTorchRecord) return { [value.type]: await plain(value.fields) };
  if (value instanceof Map) {
    const pairs: unknown[] = [];
    for (const [key, item] of value as ReadonlyMap<unknown, PyTorchValue>)
      pairs.push([key, await plain(item)]);
    return { [value instanceof OrderedDict ? 'OrderedDict' : 'dict']: pairs };
  }
  if (typeof value === 'bigint') return { int: String(value) };
  if (!Array.isArray(value)) return value;
  const items: unknown[] = [];
  for (const item of value as readonly PyTorchValue[]) items.push(await plain(item));
  return items;
}

async function digest(tensor: PyTorchTensor): Promise<TensorDigest> {
  const { dtype, shape, data } = await tensor.read();
  return { dtype, shape, sha256: createHash('sha256').update(data).digest('hex') };
}

/** All of a file, as `plain` gives it. */
export async function readPlain(path: string): Promise<unknown> {
  const { value, close } = await readPyTorchObject(path).then((object) => ({
    value: object.value,
    close: () => object.close(),
  }));
  try {
    return await plain(value);
  } finally {
    await close();
  }
}

/** A zip file of the given pickle and storages, as torch would write it; returns its path. */
export async function zipFile(
  pickle: Uint8Array | string,
  storages: Record<string, Uint8Array> = {},
): Promise<string> {
  const path = join(await temporaryFolder(), 'made.pth');
  const handle = await open(path, 'w');
  const zip = new ZipWriter(handle);
  await zip.add('made/data.pkl', typeof pickle === 'string' ? Buffer.from(pickle, 'latin1') : pickle);
  for (const [key, bytes] of Object.entries(storages)) await zip.add(`made/data/${key}`, bytes);
  await zip.finish();
  await handle.close();
  return path;
}

/** A pickle, in latin1, of one float32 tensor with the given integers, over storage "0" of `count` elements. */
export function tensorPickle(
  count: number | bigint,
  offset: number | bigint,
  shape: readonly (number | bigint)[],
  strides: readonly (number | bigint)[],
): string {
  const storage = `(${text('storage')}ctorch\nFloatStorage\n${text('0')}${text('cpu')}${int(count)}tQ`;
  const view = `${int(offset)}(${shape.map(int).join('')}t(${strides.map(int).join('')}t`;
  return `\x80\x02}${text('w')}ctorch._utils\n_rebuild_tensor_v2\n(${storage}${view}\x89NtRs.`;
}

/** A text's opcode. */
export function text(value: string): string {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(value.length);
  return `X${length.toString('latin1')}${value}`;
}

/** An integer's opcode: LONG1 with nine bytes. */
export function int(value: number | bigint): string {
  const hex = BigInt.asUintN(72, BigInt(value)).toString(16).padStart(18, '0');
  return `\x8a\x09${Buffer.from(hex, 'hex').reverse().toString('latin1')}`;
}

/** A fixture's bytes, to be changed. */
export async function fixtureBytes(name: string): Promise<Buffer> {
  return readFile(pytorchPath(name));
}
