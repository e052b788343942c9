import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { open, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { readPyTorchObject } from '../../../src/model/weights/pytorch.js';
import { OrderedDict, PyTorchTensor } from '../../../src/model/weights/pytorchValues.js';
import {
  PyTorchFloat,
  PyTorchTuple,
  writePyTorch,
  type PyTorchTree,
} from '../../../src/model/weights/pytorchWrite.js';
import { crc32, ZipWriter } from '../../../src/model/weights/pytorchZipWrite.js';
import type { DType } from '../../../src/tensorflow/dtypes.js';
import { pytorchPath, plain, readPlain, tinyPath } from './pytorchFixture.js';
import { temporaryFolder } from './weightsFixture.js';

const script = join(import.meta.dirname, '..', '..', '..', 'scripts', 'fixtures', 'pytorch.py');
const python = pythonWithTorch();

const dtypes: readonly (readonly [DType, number])[] = [
  ['float32', 4],
  ['float16', 2],
  ['bfloat16', 2],
  ['int64', 8],
  ['int32', 4],
  ['int8', 1],
  ['uint8', 1],
  ['bool', 1],
];

/** A tree with every kind of value and dtype. */
function everything(): PyTorchTree {
  const tensor = (dtype: DType, shape: number[], bytes: Uint8Array) =>
    new PyTorchTensor(dtype, shape, () => bytes);
  const weight = tensor('float32', [2, 3], new Uint8Array(Float32Array.of(1.5, -2, 3, 4, 5e-9, 6).buffer));
  const kinds = dtypes.map(([dtype, bytes]): [string, PyTorchTensor] => [
    dtype,
    tensor(
      dtype,
      [2],
      Uint8Array.from({ length: 2 * bytes }, (_, i) => (dtype === 'bool' ? i % 2 : i + 1)),
    ),
  ]);
  return {
    model: new OrderedDict<PyTorchTree>([['w', weight], ['tied', weight], ...kinds]),
    empty: tensor('float16', [0, 3], new Uint8Array(0)),
    scalar: tensor('int64', [], new Uint8Array(BigInt64Array.of(-5n).buffer)),
    optimizer: { state: new Map([[0, { step: 3 }]]), betas: new PyTorchTuple([0.9, new PyTorchFloat(1)]) },
    integers: [
      0,
      255,
      256,
      65535,
      65536,
      -1,
      2 ** 31 - 1,
      2 ** 31,
      -(2 ** 31),
      -(2 ** 31) - 1,
      2 ** 45,
      2n ** 70n,
      -(2n ** 70n),
    ],
    floats: [0.1, -1e300, 5e-324, new PyTorchFloat(3)],
    texts: ['', 'snow ❄', 'a'.repeat(300)],
    rest: [null, true, false, [], {}, new OrderedDict(), new PyTorchTuple([])],
  };
}

async function written(tree: PyTorchTree): Promise<string> {
  const path = join(await temporaryFolder(), 'out.pth');
  await writePyTorch(path, tree);
  return path;
}

describe('writePyTorch', () => {
  it('is read back as it was written, tensors byte for byte', async () => {
    expect(await readPlain(await written(everything()))).toEqual(await plain(asRead(everything())));
  });

  it.skipIf(python === undefined)(
    'is read by torch.load(weights_only=True) as it was written (skipped without MINIGPT4_TORCH_PYTHON or a python3 that has torch)',
    async () => {
      const path = await written(everything());
      const read: unknown = JSON.parse(
        execFileSync(python ?? '', [script, '--read', path], { encoding: 'utf8' }),
      );
      expect(read).toEqual(await plain(asRead(everything())));
    },
  );

  it('gives the same bytes for the same tree, whatever the file is called', async () => {
    const digest = async (path: string) =>
      createHash('sha256')
        .update(await readFile(path))
        .digest('hex');
    const folder = await temporaryFolder();
    await writePyTorch(join(folder, 'a.pth'), everything());
    await writePyTorch(join(folder, 'b.bin'), everything());
    expect(await digest(join(folder, 'a.pth'))).toBe(await digest(join(folder, 'b.bin')));
  });

  it('writes what it has read of an official checkpoint so that it reads the same', async () => {
    const path = tinyPath('minigpt4_stage2.pth');
    const object = await readPyTorchObject(path);
    const again = await written(object.value as PyTorchTree); // a checkpoint without records or byte strings
    await object.close();
    expect(await readPlain(again)).toEqual(await readPlain(path));
  });

  it('aligns all data to 64 bytes, with the checksums that zip wants', async () => {
    const file = await readFile(await written(everything()));
    let members = 0;
    let at = 0;
    for (; file.readUInt32LE(at) === 0x04034b50; members++) {
      const start = at + 30 + file.readUInt16LE(at + 26) + file.readUInt16LE(at + 28);
      const end = start + file.readUInt32LE(at + 18);
      expect(start % 64).toBe(0);
      expect(file.readUInt32LE(at + 14)).toBe(crc32(file.subarray(start, end)));
      at = end;
    }
    expect(members).toBe(3 + 11); // data.pkl, byteorder, version; the tied tensor is written once
    expect(file.readUInt32LE(at)).toBe(0x02014b50);
  });

  it('reads one tensor at a time, when its turn comes, and leaves no file if one has too few bytes', async () => {
    const asked: number[] = [];
    const tensor = (i: number, bytes: number) =>
      new PyTorchTensor('uint8', [4], () => {
        asked.push(i);
        return new Uint8Array(bytes);
      });
    const folder = await temporaryFolder();
    const path = join(folder, 'out.pth');
    await writePyTorch(path, [tensor(0, 4), tensor(1, 4)]);
    const writing = writePyTorch(join(folder, 'bad.pth'), [tensor(2, 4), tensor(3, 3), tensor(4, 4)]);
    await expect(writing).rejects.toThrow('a tensor uint8[4] must have 4 bytes, got 3');
    expect(asked).toEqual([0, 1, 2, 3]);
    expect(await readdir(folder)).toEqual(['out.pth']);
  });

  it('refuses what a pickle of plain values cannot hold', async () => {
    const around: PyTorchTree[] = [];
    around.push(around);
    await expect(written(around)).rejects.toThrow('must nest at most 64 deep');
    await expect(written('\ud800')).rejects.toThrow('texts must be whole Unicode');
    await expect(written([2n ** 2100n])).rejects.toThrow('integers must have at most 255 bytes');
    await expect(written(new Date() as unknown as PyTorchTree)).rejects.toThrow('cannot write');
    await expect(written({ a: undefined } as unknown as PyTorchTree)).rejects.toThrow(
      'cannot write undefined',
    );
  });
});

describe('ZipWriter', () => {
  it('writes Zip64 sizes and positions that are read back', async () => {
    const folder = await temporaryFolder();
    const path = join(folder, 'zip64.pth');
    const source = await readFile(await written([1, 'two']));
    const start = 30 + source.readUInt16LE(26) + source.readUInt16LE(28);
    const handle = await open(path, 'w');
    const zip = new ZipWriter(handle, 0); // every number in Zip64
    await zip.add('archive/data.pkl', source.subarray(start, start + source.readUInt32LE(18)));
    await zip.finish();
    await handle.close();
    expect((await readFile(path)).indexOf('PK\x06\x06', 0, 'latin1')).toBeGreaterThan(0);
    expect(await readPlain(path)).toEqual([1, 'two']);
  });

  it('has the checksum of zip', async () => {
    expect(crc32(Buffer.from('123456789'))).toBe(0xcbf43926); // the check value of CRC-32/ISO-HDLC
    expect(crc32(new Uint8Array(0))).toBe(0);
    const file = await readFile(pytorchPath('views-zip.pth')); // torch's own sums
    for (let at = 0; (at = file.indexOf('PK\x01\x02', at, 'latin1')) >= 0; at++) {
      const header = file.readUInt32LE(at + 42);
      const start = header + 30 + file.readUInt16LE(header + 26) + file.readUInt16LE(header + 28);
      expect(crc32(file.subarray(start, start + file.readUInt32LE(at + 24)))).toBe(
        file.readUInt32LE(at + 16),
      );
    }
  });
});

/** The tree as reading it gives it: tuples as lists, floats as numbers, plain objects as maps. */
function asRead(tree: PyTorchTree): Parameters<typeof plain>[0] {
  if (tree instanceof PyTorchFloat) return tree.value;
  if (tree instanceof PyTorchTuple) return tree.items.map(asRead);
  if (tree instanceof PyTorchTensor || typeof tree !== 'object' || tree === null) return tree;
  if (Array.isArray(tree)) return (tree as readonly PyTorchTree[]).map(asRead);
  const entries = tree instanceof Map ? [...(tree as ReadonlyMap<string, PyTorchTree>)] : plainEntries(tree);
  const pairs = entries.map(([key, value]) => [key, asRead(value)] as const);
  return tree instanceof OrderedDict ? new OrderedDict(pairs) : new Map(pairs);
}

function plainEntries(tree: object): [string, PyTorchTree][] {
  return Object.entries(tree) as [string, PyTorchTree][]; // neither list, map nor one of our classes
}

/** A Python that has torch, if there is one; it may take some seconds to say so. */
function pythonWithTorch(): string | undefined {
  for (const command of [process.env['MINIGPT4_TORCH_PYTHON'], 'python3']) {
    if (command === undefined || command === '') continue;
    try {
      execFileSync(command, ['-c', 'import torch'], { stdio: 'ignore' });
      return command;
    } catch {
      continue;
    }
  }
  return undefined;
}
