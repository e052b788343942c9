/** Messages between the main thread (session.ts) and the worker that owns TensorFlow (worker.ts). */
import type { DType, HostTensor } from './dtypes.js';

/** A dense tensor of numbers in row-major order, as runs take and give them. */
export interface Values {
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array;
}

/** A tensor that stays inside TensorFlow, such as a KV cache. Owned by the caller until `Session.release`. */
export interface KeptTensor {
  readonly kept: number;
  readonly shape: readonly number[];
}

/** A value for a variable; it is converted to the variable's dtype inside TensorFlow. */
export interface Assignment {
  readonly variable: string;
  /** The variable's. */
  readonly dtype: DType;
  readonly tensor: HostTensor;
}

/** What the worker can be asked. Tensor names are TensorFlow's, `node:output`. */
export type Request =
  | { readonly kind: 'load'; readonly folder: string }
  | { readonly kind: 'assign'; readonly session: number; readonly weights: readonly Assignment[] }
  | {
      readonly kind: 'run';
      readonly session: number;
      readonly feeds: readonly (readonly [string, Values | KeptTensor])[];
      readonly fetches: readonly { readonly name: string; readonly keep: boolean }[];
    }
  | { readonly kind: 'release'; readonly tensors: readonly number[] }
  | {
      readonly kind: 'fingerprint';
      readonly session: number;
      /** Fetched group by group, hashed in this order. */
      readonly groups: readonly (readonly string[])[];
    }
  | { readonly kind: 'unload'; readonly session: number }
  | {
      readonly kind: 'matMulRate';
      readonly dtype: 'float32' | 'bfloat16';
      readonly size: readonly [number, number, number];
    }
  | { readonly kind: 'tensorCount' };

/** What comes back for each kind of request. */
export interface Replies {
  load: number;
  assign: null;
  run: (Values | KeptTensor)[];
  release: null;
  fingerprint: string;
  unload: null;
  matMulRate: number;
  tensorCount: number;
}

/** Facts about the runtime, sent once when TensorFlow is loaded. */
export interface RuntimeFacts {
  readonly version: string;
  readonly device: 'CPU' | 'GPU';
  /** Whose products it computes with on a CPU; their last bits differ. */
  readonly kernels: 'oneDNN' | 'Eigen';
}
