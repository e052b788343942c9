/**
 * The addon of @tensorflow/tfjs-node-gpu as this project uses it, and how it is loaded from the folder that
 * `minigpt4 setup` made. Loaded in the worker thread (worker.ts) and in tests; nothing else touches it.
 */
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { loadNative } from '../native.js';
import { requireRuntime } from '../runtimeFolder.js';
import type { Parallelism, RuntimeFacts } from './protocol.js';

/** A tensor inside the binding: freed with `deleteTensor`. `dtype` is TensorFlow's DataType number. */
export interface BindingTensor {
  readonly id: number;
  readonly shape: number[];
  readonly dtype: number;
}

/** Attribute of an eagerly run op. */
export interface BindingAttribute {
  readonly name: string;
  readonly type: number;
  readonly value: number | boolean | string;
}

/** The C++ addon's functions. All are synchronous and throw `Error` with TensorFlow's message. */
export interface Binding {
  readonly TF_Version: string;
  readonly TF_ATTR_TYPE: number;
  readonly TF_ATTR_BOOL: number;
  readonly TF_ATTR_INT: number;
  createTensor(shape: readonly number[], dtype: number, data: Float32Array | Int32Array | Uint8Array): number;
  deleteTensor(id: number): void;
  tensorDataSync(id: number): Float32Array | Int32Array | Uint8Array;
  executeOp(
    name: string,
    attributes: readonly BindingAttribute[],
    inputs: readonly number[],
    outputs: number,
  ): BindingTensor[];
  loadSavedModel(folder: string, tags: string): number;
  deleteSavedModel(id: number): void;
  runSavedModel(
    id: number,
    inputs: readonly number[],
    inputNames: string,
    outputNames: string,
  ): BindingTensor[];
  getNumOfTensors(): number;
}

/** The binding and what it says of itself. */
export interface Runtime extends RuntimeFacts {
  readonly binding: Binding;
}

/**
 * Loads TensorFlow into this thread (0.6–1 s).
 *
 * @throws UserError if set-up has not run
 */
export function loadTensorFlow({ threads, concurrency }: Parallelism): Runtime {
  const runtime = requireRuntime();
  if (threads > 0) process.env['TF_NUM_INTRAOP_THREADS'] = String(threads);
  // A graph is a chain of ops: more inter-op threads than replicas only take turns (measured 1.4 × slower).
  process.env['TF_NUM_INTEROP_THREADS'] ??= String(concurrency);
  // oneDNN's kernels, which TensorFlow leaves off where the CPU has no AVX-512: steps take 0.75 of the time (AVX2).
  process.env['TF_ENABLE_ONEDNN_OPTS'] ??= '1';
  process.env['TF_CPP_MIN_LOG_LEVEL'] ??= '3';
  restoreRemovedUtilities();
  const native = loadNative();
  native.muteStderr(true);
  try {
    // Shape of the module as of tfjs-node-gpu 4.22: the node backend owns the binding.
    const tf = createRequire(runtime.modules)('@tensorflow/tfjs-node-gpu') as TfjsNode;
    const backend = tf.backend();
    return {
      binding: backend.binding,
      version: backend.binding.TF_Version,
      device: backend.isUsingGpuDevice ? 'GPU' : 'CPU',
      kernels: process.env['TF_ENABLE_ONEDNN_OPTS'] === '0' ? 'Eigen' : 'oneDNN',
      threads: Number(process.env['TF_NUM_INTRAOP_THREADS']) || availableParallelism(),
    };
  } finally {
    native.muteStderr(false);
  }
}

interface TfjsNode {
  backend(): { binding: Binding; isUsingGpuDevice: boolean };
}

/** Node ≥ 23 removed two functions of `util` that tfjs-node 4.22 still calls. */
function restoreRemovedUtilities(): void {
  const legacy = createRequire(import.meta.url)('node:util') as Record<string, unknown>; // the mutable CommonJS object
  legacy['isNullOrUndefined'] ??= (value: unknown) => value === null || value === undefined;
  legacy['isArray'] ??= Array.isArray;
}
