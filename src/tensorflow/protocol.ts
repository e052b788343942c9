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

/** Values for an entry point's inputs, and what is wanted of it. Tensor names are those of the first replica. */
export interface GraphRun {
  readonly feeds: readonly (readonly [string, Values | KeptTensor])[];
  readonly fetches: readonly { readonly name: string; readonly keep: boolean }[];
}

/** What the worker can be asked. Tensor names are TensorFlow's, `node:output`. */
export type Request =
  | { readonly kind: 'load'; readonly folder: string }
  | { readonly kind: 'assign'; readonly session: number; readonly weights: readonly Assignment[] }
  | {
      readonly kind: 'run';
      readonly session: number;
      /** Of one entry point with the same fetches, computed at the same time: at most as many as the graph has replicas. */
      readonly runs: readonly GraphRun[];
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
  /** By run, in the order of its fetches. */
  run: (Values | KeptTensor)[][];
  release: null;
  fingerprint: string;
  unload: null;
  matMulRate: number;
  tensorCount: number;
}

/** How TensorFlow uses the cores. Fixed for the process by whoever loads it first. */
export interface Parallelism {
  /** Threads of one op; 0 = all cores. float32 sums depend on it. */
  readonly threads: number;
  /** Runs of one graph that are computed at the same time; their sums do not depend on it. */
  readonly concurrency: number;
}

/** Facts about the runtime, sent once when TensorFlow is loaded. */
export interface RuntimeFacts {
  readonly version: string;
  readonly device: 'CPU' | 'GPU';
  /** Whose products it computes with on a CPU; their last bits differ. */
  readonly kernels: 'oneDNN' | 'Eigen';
  /** Threads of one op: they share out its sums. */
  readonly threads: number;
}
