import { describe, expect, it } from 'vitest';

import { openSafetensors } from '../../src/model/weights/safetensors.js';
import type { HostTensor } from '../../src/tensorflow/dtypes.js';
import {
  bfloat16ToFloat32,
  float16ToFloat32,
  float32ToBfloat16,
  float32ToFloat16,
  toFloat32,
} from '../../src/tensorflow/halfFloats.js';
import { fixturePath } from '../model/weights/weightsFixture.js';

const allHalves = Uint16Array.from({ length: 0x10000 }, (_, i) => i);
/** The bit patterns that break a rule. */
const halvesWhere = (broken: (half: number) => boolean) => [...allHalves.filter(broken)];
const bytesOf = ({ buffer }: ArrayBufferView) => new Uint8Array(buffer);
const halvesOf = ({ buffer }: Uint8Array) => new Uint16Array(buffer);

/** The value of a float16 by the definition of IEEE 754 binary16. */
function definedFloat16(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const fraction = (half & 1023) / 1024;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * fraction * 2 ** -14 : sign * (1 + fraction) * 2 ** (exponent - 15);
}

/** Torch's own narrowing of 3,000 values (scripts/fixtures/weights.py). */
async function torchHalves(): Promise<{ wide: Float32Array; float16: HostTensor; bfloat16: HostTensor }> {
  const source = await openSafetensors(fixturePath('halves.safetensors'));
  const wide = toFloat32(await source.read('float32'));
  const result = { wide, float16: await source.read('float16'), bfloat16: await source.read('bfloat16') };
  await source.close();
  return result;
}

describe('float16', () => {
  it('widens every bit pattern to its defined value, with the sign of zero', () => {
    const values = float16ToFloat32(bytesOf(allHalves));
    expect(halvesWhere((half) => !Object.is(values[half], definedFloat16(half)))).toEqual([]);
  });

  it('narrows every widened value back to its bits', () => {
    const back = halvesOf(float32ToFloat16(float16ToFloat32(bytesOf(allHalves))));
    expect(halvesWhere((half) => back[half] !== half && !Number.isNaN(definedFloat16(half)))).toEqual([]);
  });

  it('rounds to nearest everywhere, ties to even', () => {
    const lower = allHalves.subarray(0, 0x7bff); // each finite float16 from 0 on but the last
    // Halfway between two neighbours, exact in float32; and the float32 just below and just above it.
    const middles = Float32Array.from(lower, (half) => (definedFloat16(half) + definedFloat16(half + 1)) / 2);
    const stepped = (by: number) =>
      new Float32Array(new Uint32Array(middles.buffer).map((bits) => bits + by).buffer);
    expect(halvesOf(float32ToFloat16(stepped(-1)))).toEqual(lower.slice());
    expect(halvesOf(float32ToFloat16(middles))).toEqual(lower.map((half) => half + (half % 2)));
    expect(halvesOf(float32ToFloat16(stepped(1)))).toEqual(lower.map((half) => half + 1));
    expect(halvesOf(float32ToFloat16(middles.map((x) => -x)))).toEqual(
      lower.map((half) => (half + (half % 2)) | 0x8000),
    );
  });

  it('narrows 3,000 values of all magnitudes as torch does', async () => {
    const { wide, float16 } = await torchHalves();
    expect(float32ToFloat16(wide)).toEqual(float16.data);
  });

  it('keeps NaN a NaN, and its sign', () => {
    const nans = new Float32Array(Uint32Array.of(0x7fc00000, 0xffc00000, 0x7f800001).buffer);
    const halves = float32ToFloat16(nans);
    expect([...float16ToFloat32(halves)]).toEqual([NaN, NaN, NaN]);
    expect((halvesOf(halves)[1] ?? 0) >> 15).toBe(1);
  });
});

describe('bfloat16', () => {
  it('widens every bit pattern to the float32 whose upper half it is', () => {
    const bits = new Uint32Array(bfloat16ToFloat32(bytesOf(allHalves)).buffer);
    expect(halvesWhere((half) => bits[half] !== half * 0x10000)).toEqual([]);
  });

  it('narrows 3,000 values of all magnitudes as torch does', async () => {
    const { wide, bfloat16 } = await torchHalves();
    expect(float32ToBfloat16(wide)).toEqual(bfloat16.data);
  });

  it('keeps NaN a NaN, even one whose payload lies in the lower half', () => {
    const nans = new Float32Array(Uint32Array.of(0x7f800001, 0xffffffff).buffer);
    expect([...bfloat16ToFloat32(float32ToBfloat16(nans))]).toEqual([NaN, NaN]);
    expect([...halvesOf(float32ToBfloat16(nans))]).toEqual([0x7fc0, 0xffff]);
  });
});

describe('toFloat32', () => {
  it.each(['float32', 'float16', 'bfloat16'] as const)('reads %s from any byte offset', (dtype) => {
    const values = Float32Array.of(1.5, -0.25, 1024);
    const narrow = { float32: bytesOf, float16: float32ToFloat16, bfloat16: float32ToBfloat16 }[dtype];
    const bytes = narrow(values);
    for (const offset of [0, 1, 2, 3, 4]) {
      const data = new Uint8Array(bytes.length + offset).subarray(offset);
      data.set(bytes);
      expect(toFloat32({ dtype, shape: [3], data })).toEqual(values);
    }
  });

  it('refuses integers', () => {
    const tensor: HostTensor = { dtype: 'int64', shape: [1], data: new Uint8Array(8) };
    expect(() => toFloat32(tensor)).toThrow(
      'toFloat32: dtype must be float32, float16 or bfloat16, got int64[1]',
    );
  });
});
