/** Which arithmetic pays on this machine. */
import { readFileSync } from 'node:fs';

/** CPU flags of x86 and Arm that mark native bfloat16 products. */
const NATIVE_BFLOAT16 = /\b(avx512_bf16|amx_bf16|bf16)\b/;

/**
 * `bfloat16` where the CPU multiplies it natively (or a GPU computes), else `float32`: without such units bfloat16 is
 * emulated and slower than float32 (measured: AVX2-only EPYC, 1.5 to 2 times).
 */
export function nativePrecision(device: 'CPU' | 'GPU', cpuFlags = readCpuFlags()): 'float32' | 'bfloat16' {
  return device === 'GPU' || NATIVE_BFLOAT16.test(cpuFlags) ? 'bfloat16' : 'float32';
}

function readCpuFlags(): string {
  try {
    return /^(flags|Features)\s*:.*$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[0] ?? '';
  } catch {
    return ''; // no Linux: assume nothing
  }
}
