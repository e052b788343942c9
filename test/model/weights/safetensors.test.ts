import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { UserError } from '../../../src/errors.js';
import {
  openSafetensors,
  writeSafetensors,
  type SafetensorsEntry,
} from '../../../src/model/weights/safetensors.js';
import { digests, expected, fixturePath, temporaryFile, temporaryFolder } from './weightsFixture.js';

/** A file of the given header, as it stands, and so many bytes of data. */
function encode(header: unknown, dataBytes: number): Uint8Array {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const file = Buffer.alloc(8 + json.length + dataBytes);
  file.writeBigUInt64LE(BigInt(json.length));
  file.set(json, 8);
  return file;
}

/** The entries of the official writer's fixture, to be written again. */
async function everyDtype(): Promise<{
  entries: SafetensorsEntry[];
  metadata: Readonly<Record<string, string>>;
}> {
  const source = await openSafetensors(fixturePath('every-dtype.safetensors'));
  const entries: SafetensorsEntry[] = [];
  for (const name of source.names()) {
    const { data } = await source.read(name);
    entries.push({ ...source.info(name), read: () => data });
  }
  await source.close();
  return { entries, metadata: source.metadata };
}

describe('openSafetensors', () => {
  it('reads every dtype, an empty tensor and a scalar as the official writer wrote them', async () => {
    const source = await openSafetensors(fixturePath('every-dtype.safetensors'));
    expect(await digests(source)).toEqual(expected.safetensors);
    expect(source.metadata).toEqual({ 'made by': 'Python', snow: '❄' });
    await source.close();
  });

  it('names the nearest tensors when one is missing', async () => {
    const source = await openSafetensors(fixturePath('every-dtype.safetensors'));
    expect(() => source.info('float23')).toThrow(
      /must be a tensor "float23", got none \(nearest are float32, /,
    );
    await expect(source.read('nothing like it')).rejects.toThrow(UserError);
    await source.close();
  });

  const f32 = (shape: unknown, offsets: unknown) => ({ dtype: 'F32', shape, data_offsets: offsets });
  it.each<[string, unknown, number, string]>([
    ['no JSON', '{"a":', 0, 'header must be JSON'],
    ['a header that is a list', '[]', 0, 'header must be a JSON object, got []'],
    ['an unknown dtype', { a: { dtype: 'F8_E4M3', shape: [1], data_offsets: [0, 1] } }, 1, 'got F8_E4M3'],
    [
      'a dtype named like a method',
      { a: { dtype: 'toString', shape: [1], data_offsets: [0, 1] } },
      1,
      'got toString',
    ],
    ['a negative size', { a: f32([-1, -1], [0, 4]) }, 4, 'must span NaN bytes'],
    ['a fractional size', { a: f32([0.5], [0, 2]) }, 2, 'shape must be a list of integers, got [0.5]'],
    ['a size that overflows', { a: f32([2 ** 40, 2 ** 40], [0, 4]) }, 4, 'must span NaN bytes'],
    ['offsets that disagree with the shape', { a: f32([2], [0, 4]) }, 4, 'must span 8 bytes, got [0,4]'],
    ['negative offsets', { a: f32([1], [-4, 0]) }, 4, 'must span 4 bytes, got [-4,0]'],
    ['one offset', { a: f32([1], [4]) }, 4, 'data_offsets must be two integers'],
    [
      'tensors that overlap',
      { a: f32([2], [0, 8]), b: f32([2], [4, 12]) },
      12,
      'must not overlap, got "a" and "b"',
    ],
    ['a hole', { a: f32([1], [0, 4]), b: f32([1], [8, 12]) }, 12, 'must fill the file'],
    ['bytes after the last tensor', { a: f32([1], [0, 4]) }, 5, 'must fill the file'],
    ['truncated data', { a: f32([4], [0, 16]) }, 15, 'truncated?'],
    ['metadata that is no text', { __metadata__: { a: 1 } }, 0, '__metadata__.a must be text, got 1'],
    ['a tensor that is a number', { a: 1 }, 0, 'tensor "a" must be described by an object, got 1'],
  ])('refuses %s, naming the file', async (_, header, dataBytes, message) => {
    const path = await temporaryFile('bad.safetensors', encode(header, dataBytes));
    const error: unknown = await openSafetensors(path).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UserError);
    expect(String(error)).toContain(path);
    expect(String(error)).toContain(message);
  });

  it('refuses a header length beyond the bound before it allocates anything', async () => {
    const path = await temporaryFile('bad.safetensors', new Uint8Array(64).fill(0x7f));
    await expect(openSafetensors(path)).rejects.toThrow('header must have at most 100000000 bytes, got 9187');
  });

  it('refuses every truncation of a good file', async () => {
    const whole = await readFile(fixturePath('every-dtype.safetensors'));
    for (let length = 0; length < whole.length; length += 13) {
      const path = await temporaryFile('cut.safetensors', whole.subarray(0, length));
      await expect(openSafetensors(path)).rejects.toThrow(UserError);
    }
  });

  it('says so when there is no file, or a folder', async () => {
    const folder = await temporaryFolder();
    await expect(openSafetensors(join(folder, 'no'))).rejects.toThrow('no such file or folder');
    await expect(openSafetensors(folder)).rejects.toThrow('must be a file, got a folder');
  });
});

describe('writeSafetensors', () => {
  it('lays the data out byte for byte as the official writer does, whatever order the entries come in', async () => {
    const { entries, metadata } = await everyDtype();
    const path = join(await temporaryFolder(), 'out.safetensors');
    await writeSafetensors(path, entries.reverse(), metadata);
    const [ours, theirs] = [await readFile(path), await readFile(fixturePath('every-dtype.safetensors'))];
    const header = (file: Buffer) => file.toString('utf8', 8, 8 + Number(file.readBigUInt64LE()));
    const data = (file: Buffer) => file.subarray(8 + Number(file.readBigUInt64LE()));
    expect(data(ours)).toEqual(data(theirs));
    expect(JSON.parse(header(ours))).toEqual(JSON.parse(header(theirs)));
    expect(header(ours).length % 8).toBe(header(theirs).length % 8);
    expect(Number(ours.readBigUInt64LE()) % 8).toBe(0);
  });

  it('asks for one tensor at a time, when its turn comes', async () => {
    const path = join(await temporaryFolder(), 'out.safetensors');
    const asked: string[] = [];
    const entry = (name: string): SafetensorsEntry => ({
      name,
      dtype: 'uint8',
      shape: [1],
      read: async () => {
        asked.push(name);
        await Promise.resolve();
        return Uint8Array.of(asked.length);
      },
    });
    await writeSafetensors(path, ['b', 'a', '10', '9'].map(entry));
    expect(asked).toEqual(['10', '9', 'a', 'b']);
    const source = await openSafetensors(path);
    expect((await source.read('9')).data).toEqual(Uint8Array.of(2));
    await source.close();
  });

  it('reads back any tensors it wrote', async () => {
    const path = join(await temporaryFolder(), 'out.safetensors');
    const shape = fc.array(fc.nat({ max: 3 }), { maxLength: 3 });
    const contents = fc.dictionary(fc.string({ unit: 'grapheme' }), shape, { maxKeys: 5 });
    await fc.assert(
      fc.asyncProperty(
        contents,
        fc.dictionary(fc.string(), fc.string(), { maxKeys: 3 }),
        async (shapes, metadata) => {
          const entries = Object.entries(shapes).map(([name, shape], i): SafetensorsEntry => {
            const size = shape.reduce((a, b) => a * b, 1);
            return { name, dtype: 'int8', shape, read: () => new Uint8Array(size).fill(i + 1) };
          });
          fc.pre(!entries.some(({ name }) => name === '__metadata__'));
          await writeSafetensors(path, entries, metadata);
          const source = await openSafetensors(path);
          expect({ ...source.metadata }).toEqual({ ...metadata });
          expect(source.names().sort()).toEqual(entries.map(({ name }) => name).sort());
          for (const entry of entries) {
            expect(await source.read(entry.name)).toEqual({
              dtype: 'int8',
              shape: entry.shape,
              data: entry.read(),
            });
          }
          await source.close();
        },
      ),
      { numRuns: 40 },
    );
  });

  it('refuses bytes that do not fit the shape, and leaves no file', async () => {
    const folder = await temporaryFolder();
    const entry: SafetensorsEntry = {
      name: 'a',
      dtype: 'float32',
      shape: [2],
      read: () => new Uint8Array(4),
    };
    const writing = writeSafetensors(join(folder, 'out'), [entry]);
    await expect(writing).rejects.toThrow('tensor "a" float32[2] must have 8 bytes, got 4');
    await expect(openSafetensors(join(folder, 'out'))).rejects.toThrow('no such file');
  });

  it('refuses two tensors of one name', async () => {
    const entry: SafetensorsEntry = {
      name: 'a',
      dtype: 'float32',
      shape: [0],
      read: () => new Uint8Array(0),
    };
    await expect(writeSafetensors('out', [entry, entry])).rejects.toThrow('tensor names must differ');
  });
});
