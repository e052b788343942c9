/** What a conversion hands to the writer of a Hugging Face folder. */
import type { SafetensorsEntry } from '../weights/safetensors.js';

/** A model as a Hugging Face folder states it: its configuration, and its tensors under Hugging Face's names. */
export interface ModelContent {
  readonly config: Readonly<Record<string, unknown>>;
  readonly tensors: readonly SafetensorsEntry[];
}

/** The shortest decimal number with the same float32 value: 9.999999747378752e-06 becomes 1e-05, what its author wrote. */
export function shortestFloat32(value: number): number {
  for (let digits = 1; digits <= 9; digits++) {
    const shorter = Number(value.toPrecision(digits));
    if (Math.fround(shorter) === Math.fround(value)) return shorter;
  }
  return value;
}
