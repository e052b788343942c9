import { readFile } from 'node:fs/promises';

import { describe, expect, it } from 'vitest';

import { UserError } from '../../../src/errors.js';
import { openGguf } from '../../../src/model/weights/gguf.js';
import { openSafetensors } from '../../../src/model/weights/safetensors.js';
import { toFloat32 } from '../../../src/tensorflow/halfFloats.js';
import { digests, expected, fixturePath, temporaryFile } from './weightsFixture.js';

const u32 = (value: number) => [...new Uint8Array(Uint32Array.of(value).buffer)];
const u64 = (value: bigint) => [...new Uint8Array(BigUint64Array.of(value).buffer)];
const text = (value: string) => [...u64(BigInt(value.length)), ...Buffer.from(value)];
const magic = [...Buffer.from('GGUF')];
const head = (tensors: bigint, keyValues: bigint) => [
  ...magic,
  ...u32(3),
  ...u64(tensors),
  ...u64(keyValues),
];
const padding = Array.from({ length: 64 }, () => 0);

describe('openGguf', () => {
  it('dequantises Q8_0, Q4_0 and Q4_1 to exactly the values of the gguf package', async () => {
    const gguf = await openGguf(fixturePath('every-type.gguf'));
    const values = await openSafetensors(fixturePath('every-type.safetensors'));
    for (const name of ['Q8_0', 'Q4_0', 'Q4_1']) {
      expect(toFloat32(await gguf.read(name))).toEqual(toFloat32(await values.read(name)));
    }
    await gguf.close();
    await values.close();
  });

  it('reads F32, F16 and BF16 as they are, all in row-major shapes', async () => {
    const gguf = await openGguf(fixturePath('every-type.gguf'));
    expect(await digests(gguf)).toEqual(expected.ggufTypes);
    expect(gguf.info('F16')).toEqual({ name: 'F16', dtype: 'float16', shape: [2, 3, 4] });
    await gguf.close();
  });

  it('reads key-values of every kind', async () => {
    const gguf = await openGguf(fixturePath('every-type.gguf'));
    expect(Object.fromEntries(gguf.keyValues)).toMatchObject({
      'general.architecture': 'test',
      'test.text': 'snow ❄',
      'test.texts': ['a', '', 'ccc'],
      'test.numbers': [-1, 2, 3],
      'test.yes': true,
      'test.float32': Math.fround(1e-5),
      'test.float64': 0.1,
      'test.int8': -5,
      'test.small': 12,
      'test.large': 2n ** 63n + 1n,
    });
    expect(gguf.metadata).toMatchObject({ 'general.architecture': 'test', 'test.text': 'snow ❄' });
    await gguf.close();
  });

  it('reads version 2 as version 3', async () => {
    const bytes = await readFile(fixturePath('every-type.gguf'));
    bytes.writeUInt32LE(2, 4);
    const gguf = await openGguf(await temporaryFile('v2.gguf', bytes));
    expect(await digests(gguf)).toEqual(expected.ggufTypes);
    await gguf.close();
  });

  it('names tensor and type where a type is not read', async () => {
    const opening = openGguf(fixturePath('unknown-type.gguf'));
    await expect(opening).rejects.toThrow(UserError);
    await expect(opening).rejects.toThrow(/tensor "odd" must have a type of F32, .*, got Q5_0 \(number 6;/);
  });

  it.each<[string, number[], string]>([
    ['another format', [...Buffer.from('PK\x03\x04'), ...padding], 'must begin with "GGUF"'],
    ['version 1', [...magic, ...u32(1), ...padding], 'version must be 2 or 3, little-endian, got 1'],
    ['big-endian bytes', [...magic, 0, 0, 0, 3, ...padding], 'got big-endian 3'],
    ['2^60 tensors', [...head(2n ** 60n, 0n), ...padding], 'tensor count must be below 2^53'],
    [
      'more tensors than bytes',
      [...head(1000n, 0n), ...padding],
      'tensor count must fit the 72 bytes that follow',
    ],
    ['more key-values than bytes', [...head(0n, 50n), ...padding], 'key-value count must fit'],
    [
      'a text longer than the file',
      [...head(0n, 1n), ...u64(10n ** 12n), ...padding],
      'length of a text must fit',
    ],
    [
      'an unknown value type',
      [...head(0n, 1n), ...text('k'), ...u32(13), ...padding],
      'value of "k" must have a type',
    ],
    [
      'an array longer than the file',
      [...head(0n, 1n), ...text('k'), ...u32(9), ...u32(4), ...u64(2n ** 40n), ...padding],
      'number of elements in the value of "k" must fit',
    ],
    [
      'five dimensions',
      [...head(1n, 0n), ...text('t'), ...u32(5), ...padding],
      'tensor "t" must have at most 4 dimensions, got 5',
    ],
    [
      'rows that are no whole blocks',
      [...head(1n, 0n), ...text('t'), ...u32(1), ...u64(31n), ...u32(8), ...u64(0n), ...padding],
      'rows of a multiple of 32 elements, got [31]',
    ],
    [
      'a tensor beyond the end',
      [...head(1n, 0n), ...text('t'), ...u32(1), ...u64(2n ** 40n), ...u32(0), ...u64(0n), ...padding],
      'truncated?',
    ],
  ])('refuses %s', async (_, bytes, message) => {
    const path = await temporaryFile('bad.gguf', Uint8Array.from(bytes));
    const error: unknown = await openGguf(path).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UserError);
    expect(String(error)).toContain(path);
    expect(String(error)).toContain(message);
  });

  it('refuses arrays nested too deep', async () => {
    const nest = Array.from({ length: 20 }, () => [...u32(9), ...u64(1n)]).flat();
    const path = await temporaryFile(
      'bad.gguf',
      Uint8Array.from([...head(0n, 1n), ...text('k'), ...u32(9), ...nest]),
    );
    await expect(openGguf(path)).rejects.toThrow('must nest at most 8 deep');
  });

  it('refuses every truncation of a good file', async () => {
    const whole = await readFile(fixturePath('every-type.gguf'));
    for (let length = 0; length < whole.length - 32; length += 37) {
      await expect(openGguf(await temporaryFile('cut.gguf', whole.subarray(0, length)))).rejects.toThrow(
        UserError,
      );
    }
  });
});
