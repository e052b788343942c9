/** tfjs from the runtime that set-up made, in the test's own process: an implementation of gradients other than ours. */
import { createRequire } from 'node:module';
import { loadNative } from '../../src/native.js';
import { requireRuntime } from '../../src/runtimeFolder.js';
import { loadTensorFlow } from '../../src/tensorflow/binding.js';

/** A tensor of tfjs. */
export interface TfTensor {
  readonly shape: number[];
  dataSync(): Float32Array;
}

type Unary = (x: TfTensor) => TfTensor;
type Binary = (a: TfTensor, b: TfTensor) => TfTensor;
type Reduction = (x: TfTensor, axes: readonly number[], keepDims?: boolean) => TfTensor;

/** What the tests use of tfjs. */
export interface Tfjs {
  tensor(
    values: ArrayLike<number>,
    shape?: readonly number[],
    dtype?: 'float32' | 'int32' | 'bool',
  ): TfTensor;
  tidy<T>(body: () => T): T;
  /** Gradients of `f` with respect to its arguments, given the gradient of its result. */
  grads(f: (...inputs: TfTensor[]) => TfTensor): (inputs: TfTensor[], dy: TfTensor) => TfTensor[];
  matMul(a: TfTensor, b: TfTensor, transposeA?: boolean, transposeB?: boolean): TfTensor;
  readonly add: Binary;
  readonly sub: Binary;
  readonly mul: Binary;
  readonly div: Binary;
  readonly neg: Unary;
  readonly square: Unary;
  readonly rsqrt: Unary;
  readonly sqrt: Unary;
  readonly exp: Unary;
  readonly log: Unary;
  readonly tanh: Unary;
  readonly sigmoid: Unary;
  readonly erf: Unary;
  readonly softmax: Unary;
  readonly logSoftmax: Unary;
  readonly sum: Reduction;
  readonly mean: Reduction;
  reshape(x: TfTensor, shape: readonly number[]): TfTensor;
  transpose(x: TfTensor, order: readonly number[]): TfTensor;
  concat(parts: readonly TfTensor[], axis: number): TfTensor;
  split(x: TfTensor, sizes: readonly number[], axis: number): TfTensor[];
  slice(x: TfTensor, begin: readonly number[], size: readonly number[]): TfTensor;
  gather(table: TfTensor, indices: TfTensor): TfTensor;
  broadcastTo(x: TfTensor, shape: readonly number[]): TfTensor;
  where(condition: TfTensor, a: TfTensor, b: TfTensor): TfTensor;
}

/** Loads tfjs; its banner on stderr is muted. */
export function loadTfjs(): Tfjs {
  loadTensorFlow({ threads: 0, concurrency: 1 });
  const native = loadNative();
  native.muteStderr(true);
  try {
    return createRequire(requireRuntime().modules)('@tensorflow/tfjs-node-gpu') as Tfjs; // its documented interface
  } finally {
    native.muteStderr(false);
  }
}
