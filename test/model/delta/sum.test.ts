import { describe, expect, it } from 'vitest';

import { UserError } from '../../../src/errors.js';
import { addDelta } from '../../../src/model/delta/sum.js';
import { openSafetensors } from '../../../src/model/weights/safetensors.js';
import type { HostTensor } from '../../../src/tensorflow/dtypes.js';
import { float32ToFloat16, toFloat32 } from '../../../src/tensorflow/halfFloats.js';
import { readFixture } from '../../helpers/fixtures.js';
import { deltaPath } from './deltaFixture.js';

const { sums } = await readFixture<{ sums: Record<string, number> }>('delta/delta.json');

const halves = (values: readonly number[], shape = [values.length]): HostTensor => {
  return { dtype: 'float16', shape, data: float32ToFloat16(Float32Array.from(values)) };
};

describe('addDelta', () => {
  it.each(Object.entries(sums))(
    '%s: all %i sums are torch’s, bit for bit: ties, subnormals, cancellation, zeros of either sign',
    async (key, count) => {
      const source = await openSafetensors(deltaPath('sums.safetensors'));
      const read = (part: string) => source.read(`${key}.${part}`);
      const [base, delta, sum] = [await read('base'), await read('delta'), await read('sum')];
      expect(sum.shape).toEqual([count]);
      expect(Buffer.compare(await addDelta(key, base, delta), sum.data)).toBe(0);
      await source.close();
    },
  );

  it('takes the rows that the base lacks for zero: -0 becomes 0, as 0 + -0 does', async () => {
    const sum = await addDelta('x', halves([1, 2], [1, 2]), halves([0.5, -1, -0, 3], [2, 2]));
    expect(toFloat32({ dtype: 'float16', shape: [4], data: sum })).toEqual(Float32Array.of(1.5, 1, 0, 3));
  });

  it('adds tensors longer than a piece, the base ending inside the second', async () => {
    const [long, short] = [2 ** 19 * 2 + 5, 2 ** 19 + 3];
    const base = new Float32Array(short).fill(1);
    const delta = Float32Array.from({ length: long }, (_, i) => i % 1000);
    const wanted = delta.map((value, i) => value + (i < short ? 1 : 0));
    const sum = await addDelta(
      'x',
      { dtype: 'float16', shape: [short], data: float32ToFloat16(base) },
      { dtype: 'float32', shape: [long], data: new Uint8Array(delta.buffer) },
    );
    expect(Buffer.compare(sum, new Uint8Array(wanted.buffer))).toBe(0);
  });

  it.each([
    ['float16', [60000], [60000], 'Infinity at element 0'],
    ['float16', [1, NaN], [1, 1], 'NaN at element 1'],
    ['bfloat16', [1, -Infinity], [1, 1], '-Infinity at element 1'],
    ['float32', [1, 1, 3e38], [1, 1, 3e38], 'Infinity at element 2'],
  ] as const)('refuses %s %j + %j with the tensor’s name', async (dtype, base, delta, message) => {
    const tensor = (values: readonly number[]): HostTensor => {
      const wide = Float32Array.from(values);
      const top = new Uint16Array(Array.from(new Uint32Array(wide.buffer), (bits) => bits >>> 16));
      const data = {
        float16: float32ToFloat16(wide),
        bfloat16: new Uint8Array(top.buffer),
        float32: new Uint8Array(wide.buffer),
      }[dtype];
      return { dtype, shape: [values.length], data };
    };
    const adding = addDelta('model.norm.weight', tensor(base), tensor(delta));
    await expect(adding).rejects.toThrow(UserError);
    await expect(adding).rejects.toThrow(`got ${message} of model.norm.weight`);
  });

  it('counts elements from the tensor’s start where a later piece is not finite', async () => {
    const data = new Float32Array(2 ** 19 + 10);
    data[2 ** 19 + 7] = NaN;
    const tensor: HostTensor = { dtype: 'float32', shape: [data.length], data: new Uint8Array(data.buffer) };
    await expect(addDelta('x', halves([]), tensor)).rejects.toThrow(`NaN at element ${2 ** 19 + 7} of x`);
  });

  it('stops inside a tensor', async () => {
    const adding = addDelta('x', halves([1]), halves([1]), AbortSignal.abort());
    await expect(adding).rejects.toThrow(expect.objectContaining({ name: 'AbortError' }));
  });
});
