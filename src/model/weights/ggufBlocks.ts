/**
 * GGUF's tensor types: how many bytes a row takes, and the quantised ones back to float32, exactly as ggml does.
 * Source: ggml-org/llama.cpp, ggml/src/ggml-quants.c, `dequantize_row_q4_0`, `…_q4_1`, `…_q8_0`.
 */
import type { DType } from '../../tensorflow/dtypes.js';
import { float16ToFloat32 } from '../../tensorflow/halfFloats.js';

/** One tensor type of the format: elements come in blocks of equal size. */
export interface BlockType {
  readonly name: string;
  readonly blockElements: number;
  readonly blockBytes: number;
  /** The dtype that reading it gives. */
  readonly dtype: DType;
  /** Blocks to float32 values; absent where the bytes are the values already. */
  readonly dequantize?: (blocks: Uint8Array) => Float32Array;
}

/** The tensor types that are read, by ggml's number. */
export const BLOCK_TYPES: ReadonlyMap<number, BlockType> = new Map([
  [0, { name: 'F32', blockElements: 1, blockBytes: 4, dtype: 'float32' }],
  [1, { name: 'F16', blockElements: 1, blockBytes: 2, dtype: 'float16' }],
  [2, { name: 'Q4_0', blockElements: 32, blockBytes: 18, dtype: 'float32', dequantize: dequantizeQ4_0 }],
  [3, { name: 'Q4_1', blockElements: 32, blockBytes: 20, dtype: 'float32', dequantize: dequantizeQ4_1 }],
  [8, { name: 'Q8_0', blockElements: 32, blockBytes: 34, dtype: 'float32', dequantize: dequantizeQ8_0 }],
  [30, { name: 'BF16', blockElements: 1, blockBytes: 2, dtype: 'bfloat16' }],
] as const);

/** Names of ggml's tensor types that are not read, for messages. */
export const OTHER_TYPE_NAMES: Readonly<Record<number, string>> = {
  6: 'Q5_0',
  7: 'Q5_1',
  9: 'Q8_1',
  10: 'Q2_K',
  11: 'Q3_K',
  12: 'Q4_K',
  13: 'Q5_K',
  14: 'Q6_K',
  15: 'Q8_K',
  16: 'IQ2_XXS',
  17: 'IQ2_XS',
  18: 'IQ3_XXS',
  19: 'IQ1_S',
  20: 'IQ4_NL',
  21: 'IQ3_S',
  22: 'IQ2_S',
  23: 'IQ4_XS',
  24: 'I8',
  25: 'I16',
  26: 'I32',
  27: 'I64',
  28: 'F64',
  29: 'IQ1_M',
  34: 'TQ1_0',
  35: 'TQ2_0',
  39: 'MXFP4',
};

/** Block of Q8_0: float16 scale, then 32 signed bytes. */
function dequantizeQ8_0(blocks: Uint8Array): Float32Array {
  const count = blocks.byteLength / 34;
  const scales = halvesAt(blocks, 34, 0);
  const signed = new Int8Array(blocks.buffer, blocks.byteOffset, blocks.byteLength);
  const values = new Float32Array(count * 32);
  for (let b = 0; b < count; b++) {
    const scale = scales[b] ?? 0;
    for (let i = 0; i < 32; i++) values[b * 32 + i] = scale * (signed[b * 34 + 2 + i] ?? 0);
  }
  return values;
}

/** Block of Q4_0: float16 scale, then 16 bytes; low halves are elements 0–15, high halves 16–31, both offset by 8. */
function dequantizeQ4_0(blocks: Uint8Array): Float32Array {
  const scales = halvesAt(blocks, 18, 0);
  const minima = new Float32Array(scales.length).fill(-0); // adding -0 changes nothing, not even a -0
  return dequantizeNibbles(blocks, { blockBytes: 18, nibblesAt: 2, scales, zero: 8, minima });
}

/** Block of Q4_1: float16 scale, float16 minimum, then 16 bytes as in Q4_0 but without the offset. */
function dequantizeQ4_1(blocks: Uint8Array): Float32Array {
  const scales = halvesAt(blocks, 20, 0);
  const minima = halvesAt(blocks, 20, 2);
  return dequantizeNibbles(blocks, { blockBytes: 20, nibblesAt: 4, scales, zero: 0, minima });
}

interface NibbleLayout {
  readonly blockBytes: number;
  readonly nibblesAt: number;
  readonly scales: Float32Array;
  /** The nibble that stands for 0 × scale. */
  readonly zero: number;
  readonly minima: Float32Array;
}

/**
 * `scale × (nibble - zero) + minimum`. In float64 the product and the sum of such short numbers are exact, so storing
 * rounds once, which is what ggml's float32 arithmetic does too (its product is exact as well).
 */
function dequantizeNibbles(
  blocks: Uint8Array,
  { blockBytes, nibblesAt, scales, zero, minima }: NibbleLayout,
): Float32Array {
  const values = new Float32Array(scales.length * 32);
  for (let b = 0; b < scales.length; b++) {
    const scale = scales[b] ?? 0;
    const minimum = minima[b] ?? 0;
    for (let i = 0; i < 16; i++) {
      const byte = blocks[b * blockBytes + nibblesAt + i] ?? 0;
      values[b * 32 + i] = scale * ((byte & 15) - zero) + minimum;
      values[b * 32 + 16 + i] = scale * ((byte >>> 4) - zero) + minimum;
    }
  }
  return values;
}

/** The float16 at `offset` of each block. */
function halvesAt(blocks: Uint8Array, blockBytes: number, offset: number): Float32Array {
  const bytes = new Uint8Array((blocks.byteLength / blockBytes) * 2);
  for (let b = 0; b * 2 < bytes.length; b++) {
    bytes[b * 2] = blocks[b * blockBytes + offset] ?? 0;
    bytes[b * 2 + 1] = blocks[b * blockBytes + offset + 1] ?? 0;
  }
  return float16ToFloat32(bytes);
}
