/**
 * Exact conversions between float32 and the two half-width types, float16 (IEEE binary16) and bfloat16.
 * Bytes are little-endian, as in every weights file and on every machine TensorFlow runs on.
 */
import type { HostTensor } from './dtypes.js';

/** float32 value of each of the 65,536 float16 bit patterns; made at first use, since a look-up is ~50 times faster. */
let float16Values: Float32Array | undefined;

/** Widens float16 to float32; exact, subnormals, infinities and NaN payloads included. */
export function float16ToFloat32(bytes: Uint8Array): Float32Array {
  const halves = uint16View(bytes);
  const table = (float16Values ??= float16Table());
  const values = new Float32Array(halves.length);
  // `?? 0` only satisfies noUncheckedIndexedAccess: both indices are in range.
  for (let i = 0; i < halves.length; i++) values[i] = table[halves[i] ?? 0] ?? 0;
  return values;
}

/** Widens bfloat16 to float32; exact: the bits become the upper half of the float32. */
export function bfloat16ToFloat32(bytes: Uint8Array): Float32Array {
  const halves = uint16View(bytes);
  const bits = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) bits[i] = (halves[i] ?? 0) << 16;
  return new Float32Array(bits.buffer);
}

/** Narrows float32 to bfloat16, rounding to nearest, ties to even; NaN stays NaN (made quiet), signs are kept. */
export function float32ToBfloat16(values: Float32Array): Uint8Array {
  const bits = uint32View(values);
  const halves = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; i++) {
    const u = bits[i] ?? 0;
    const isNaN = (u & 0x7fffffff) > 0x7f800000;
    halves[i] = isNaN ? (u >>> 16) | 0x40 : (u + 0x7fff + ((u >>> 16) & 1)) >>> 16;
  }
  return new Uint8Array(halves.buffer);
}

/** Narrows float32 to float16, rounding to nearest, ties to even; from 65520 on it is infinity, NaN stays NaN (quiet). */
export function float32ToFloat16(values: Float32Array): Uint8Array {
  const bits = uint32View(values);
  const halves = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; i++) halves[i] = float16Bits(bits[i] ?? 0);
  return new Uint8Array(halves.buffer);
}

/**
 * The values of a float32, float16 or bfloat16 tensor as float32.
 *
 * @returns a view of the tensor's own memory where it is aligned float32, else a copy: do not write to it
 * @throws if the dtype is none of the three
 */
export function toFloat32({ dtype, data, shape }: HostTensor): Float32Array {
  switch (dtype) {
    case 'float32':
      return float32View(data);
    case 'float16':
      return float16ToFloat32(data);
    case 'bfloat16':
      return bfloat16ToFloat32(data);
    default:
      throw new Error(
        `toFloat32: dtype must be float32, float16 or bfloat16, got ${dtype}[${shape.join(', ')}]`,
      );
  }
}

/** Bytes as float32: a view where the offset is a multiple of 4, else a copy. */
function float32View(bytes: Uint8Array): Float32Array {
  const { buffer, byteOffset } = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  return new Float32Array(buffer, byteOffset, bytes.byteLength / 4);
}

function uint16View(bytes: Uint8Array): Uint16Array {
  const { buffer, byteOffset } = bytes.byteOffset % 2 === 0 ? bytes : bytes.slice();
  return new Uint16Array(buffer, byteOffset, bytes.byteLength / 2);
}

function uint32View({ buffer, byteOffset, length }: Float32Array): Uint32Array {
  return new Uint32Array(buffer, byteOffset, length);
}

function float16Table(): Float32Array {
  const bits = new Uint32Array(0x10000);
  for (let half = 0; half < bits.length; half++) bits[half] = float32BitsOfFloat16(half);
  return new Float32Array(bits.buffer);
}

/** float32 bits of one float16 bit pattern. */
function float32BitsOfFloat16(half: number): number {
  const sign = (half & 0x8000) << 16;
  const exponent = (half >>> 10) & 0x1f;
  const mantissa = half & 0x3ff;
  if (exponent === 0x1f) return sign | 0x7f800000 | (mantissa << 13); // infinity or NaN
  if (exponent > 0) return sign | ((exponent + 112) << 23) | (mantissa << 13); // 112 = 127 - 15, the exponent biases
  if (mantissa === 0) return sign;
  const shift = Math.clz32(mantissa) - 21; // a subnormal: bring its leading 1 to bit 10, where it becomes implicit
  return sign | ((113 - shift) << 23) | (((mantissa << shift) & 0x3ff) << 13);
}

/** float16 bits nearest to a float32 given by its bits. */
function float16Bits(u: number): number {
  const sign = (u >>> 16) & 0x8000;
  const magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff); // NaN
  if (magnitude >= 0x47800000) return sign | 0x7c00; // 65536 and above
  if (magnitude >= 0x38800000) {
    // From 2^-14, normal; rounding up may carry into the exponent, rightly, and from 65520 into infinity.
    return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
  }
  return sign | subnormalFloat16Bits(magnitude);
}

/** Bits of the nearest subnormal float16 (a multiple of 2^-24) of a magnitude below 2^-14. */
function subnormalFloat16Bits(magnitude: number): number {
  const shift = 126 - (magnitude >>> 23);
  if (shift > 24) return 0; // below 2^-25, half of the least subnormal
  const significand = (magnitude & 0x7fffff) | 0x800000;
  const whole = significand >>> shift;
  const rest = significand & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  return rest > half || (rest === half && (whole & 1) === 1) ? whole + 1 : whole;
}
