/** The sum of a tensor of base weights and its delta, as torch adds them, a piece at a time so that signals get through. */
import { setImmediate as nextTurn } from 'node:timers/promises';

import { UserError } from '../../errors.js';
import { BYTES_PER_ELEMENT, elementCount, type HostTensor } from '../../tensorflow/dtypes.js';
import { float32ToBfloat16, float32ToFloat16, toFloat32 } from '../../tensorflow/halfFloats.js';

/** Element types that can be merged. */
export const FLOAT_DTYPES = ['float16', 'bfloat16', 'float32'] as const;

/** An element type that can be merged. */
export type FloatDType = (typeof FLOAT_DTYPES)[number];

/** Elements added at once: about 5 ms between two chances to stop. */
const PIECE_ELEMENTS = 2 ** 19;

/** Bits of the exponent, all set in infinities and NaN alone. */
const EXPONENT_BITS = { float16: 0x7c00, bfloat16: 0x7f80 } as const;

/**
 * `base + delta` in the delta's dtype, where a base with fewer rows counts as zero below them. The base is first rounded
 * to the delta's dtype, then the two are added in float32 and rounded once to nearest even: for each of the three dtypes
 * that is the correctly rounded sum, which is what torch's `+` gives.
 *
 * @param name the tensor's, for messages
 * @param base its elements are the first of the delta's, in row-major order
 * @param delta its memory is overwritten with the sum
 * @returns the sum's little-endian bytes, in the memory of `delta`
 * @throws UserError if an element of the sum is infinite or NaN
 * Source: lm-sys/FastChat v0.1.10, fastchat/model/apply_delta.py, `apply_delta` (loads both in float16, then adds).
 */
export async function addDelta(
  name: string,
  base: HostTensor,
  delta: HostTensor,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const elements = elementCount(delta.shape);
  for (let start = 0; start < elements; start += PIECE_ELEMENTS) {
    const end = Math.min(elements, start + PIECE_ELEMENTS);
    const addend = piece(delta, start, end);
    const sum = narrow(addend.dtype, addBase(base, start, addend));
    requireFinite(name, start, addend.dtype, sum);
    delta.data.set(sum, start * BYTES_PER_ELEMENT[delta.dtype]);
    await nextTurn(undefined, { signal });
  }
  return delta.data;
}

/** Whether weights of this dtype can be merged. */
export function isFloatDType(dtype: string): dtype is FloatDType {
  return FLOAT_DTYPES.some((name) => name === dtype);
}

/** The float32 sums of the piece `delta`, which begins at element `start`, and the base's elements there. */
function addBase(base: HostTensor, start: number, delta: FloatPiece): Float32Array {
  const values = toFloat32(delta);
  const sums = new Float32Array(values.length); // zero is added where the base has no row: -0 becomes 0, as in torch
  const end = Math.min(elementCount(base.shape), start + values.length);
  if (end > start) sums.set(roundedTo(delta.dtype, piece(base, start, end)));
  // `?? 0` only satisfies noUncheckedIndexedAccess: both are of one length
  for (let i = 0; i < sums.length; i++) sums[i] = (sums[i] ?? 0) + (values[i] ?? 0);
  return sums;
}

/** Part of a float tensor, seen as a flat one. */
interface FloatPiece extends HostTensor {
  readonly dtype: FloatDType;
}

/** Elements [start, end) of a tensor, as a view. */
function piece({ dtype, data }: HostTensor, start: number, end: number): FloatPiece {
  if (!isFloatDType(dtype)) throw new Error(`addDelta: dtype must be floating, got ${dtype}`);
  const bytes = BYTES_PER_ELEMENT[dtype];
  return { dtype, shape: [end - start], data: data.subarray(start * bytes, end * bytes) };
}

/** Values of a piece once it is in `dtype`. */
function roundedTo(dtype: FloatDType, from: FloatPiece): Float32Array {
  const values = toFloat32(from);
  if (from.dtype === dtype || dtype === 'float32') return values;
  return toFloat32({ dtype, shape: from.shape, data: narrow(dtype, values) });
}

function narrow(dtype: FloatDType, values: Float32Array): Uint8Array {
  if (dtype === 'float16') return float32ToFloat16(values);
  if (dtype === 'bfloat16') return float32ToBfloat16(values);
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

function requireFinite(name: string, start: number, dtype: FloatDType, sum: Uint8Array): void {
  const at = firstNonFinite(dtype, sum);
  if (at < 0) return;
  const value = toFloat32({ dtype, shape: [], data: sum })[at];
  throw new UserError(
    `merge-delta: sums must be finite, got ${value} at element ${start + at} of ${name} (damaged weights, or a delta of another base? fetch them again)`,
  );
}

/** Index of the first infinity or NaN; -1 if there is none. `sum` owns its memory. */
function firstNonFinite(dtype: FloatDType, sum: Uint8Array): number {
  if (dtype === 'float32') return new Float32Array(sum.buffer).findIndex((value) => !Number.isFinite(value));
  const [halves, mask] = [new Uint16Array(sum.buffer), EXPONENT_BITS[dtype]];
  // A loop, since findIndex takes more time than the addition; `?? 0` only satisfies noUncheckedIndexedAccess
  for (let i = 0; i < halves.length; i++) if (((halves[i] ?? 0) & mask) === mask) return i;
  return -1;
}
