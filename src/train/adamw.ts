/** AdamW over float32 parameters in host memory, and the clipping of their gradients, as torch defines both. */
import { UserError } from '../errors.js';
import type { HostTensor } from '../tensorflow/dtypes.js';

/** A trained parameter. */
export interface Parameter {
  readonly name: string;
  /** float32 values; `AdamW.step` changes them in place. */
  readonly data: Float32Array;
  /** Whether weight decay applies: to the weight, not to the bias. */
  readonly decay: boolean;
}

/** AdamW's numbers; the defaults of torch where they are named there. */
export interface AdamWOptions {
  readonly beta1?: number;
  readonly beta2?: number;
  readonly epsilon?: number;
  readonly weightDecay?: number;
}

interface Slot {
  readonly parameter: Parameter;
  /** Moving mean of the gradient. */
  readonly expAvg: Float32Array;
  /** Moving mean of the squared gradient. */
  readonly expAvgSq: Float32Array;
}

/**
 * Adam with decoupled weight decay. It owns the two moments of each parameter and the count of steps.
 *
 * Source: torch.optim.AdamW (`_single_tensor_adamw`); moments are float32 as there, the arithmetic between is double.
 */
export class AdamW {
  readonly #slots: readonly Slot[];
  readonly #options: Required<AdamWOptions>;
  #steps = 0;

  constructor(
    parameters: readonly Parameter[],
    { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0.05 }: AdamWOptions = {},
  ) {
    this.#options = { beta1, beta2, epsilon, weightDecay };
    this.#slots = parameters.map((parameter) => ({
      parameter,
      expAvg: new Float32Array(parameter.data.length),
      expAvgSq: new Float32Array(parameter.data.length),
    }));
  }

  /** Steps taken so far. */
  get steps(): number {
    return this.#steps;
  }

  /**
   * Changes every parameter in place by one step.
   *
   * @param gradients float32 gradient of each parameter, by its name
   * @throws if one is missing or of another length; nothing is changed then
   */
  step(gradients: Readonly<Record<string, Float32Array>>, learningRate: number): void {
    const pairs = this.#slots.map((slot) => ({ slot, gradient: gradientOf(slot.parameter, gradients) }));
    this.#steps += 1;
    for (const { slot, gradient } of pairs) update(slot, gradient, learningRate, this.#steps, this.#options);
  }

  /** A copy of the state under torch's names: `step`, `exp_avg.NAME`, `exp_avg_sq.NAME`. */
  exportState(): Record<string, HostTensor> {
    const step = new Uint8Array(Int32Array.of(this.#steps).buffer);
    const state: Record<string, HostTensor> = { step: { dtype: 'int32', shape: [], data: step } };
    for (const { parameter, expAvg, expAvgSq } of this.#slots) {
      state[`exp_avg.${parameter.name}`] = hostTensor(expAvg);
      state[`exp_avg_sq.${parameter.name}`] = hostTensor(expAvgSq);
    }
    return state;
  }

  /**
   * Takes over a state that `exportState` made.
   *
   * @throws UserError if it belongs to other parameters; nothing is changed then
   */
  importState(state: Readonly<Record<string, HostTensor>>): void {
    const [steps = 0] = values(state, 'step', 1, 'int32');
    const moments = this.#slots.map(({ parameter: { name, data }, expAvg, expAvgSq }) => ({
      into: [expAvg, expAvgSq] as const,
      from: [
        values(state, `exp_avg.${name}`, data.length),
        values(state, `exp_avg_sq.${name}`, data.length),
      ] as const,
    }));
    for (const { into, from } of moments) {
      into[0].set(from[0]);
      into[1].set(from[1]);
    }
    this.#steps = steps;
  }
}

/**
 * Scales all gradients in place so that their common L2 norm is at most `maxNorm`.
 *
 * @param maxNorm 0 = no clipping
 * @returns the norm before clipping; when it is not finite the gradients are left as they are: the caller must not step
 * Source: torch.nn.utils.clip_grad_norm_, with its 1e-6 in the denominator; the sum is taken in double.
 */
export function clipGradNorm(gradients: readonly Float32Array[], maxNorm: number): number {
  let sum = 0;
  for (const gradient of gradients) for (const value of gradient) sum += value * value;
  const norm = Math.sqrt(sum);
  const scale = maxNorm / (norm + 1e-6);
  if (maxNorm === 0 || !Number.isFinite(norm) || scale >= 1) return norm;
  for (const gradient of gradients) gradient.forEach((value, index) => (gradient[index] = value * scale));
  return norm;
}

function update(
  { parameter, expAvg, expAvgSq }: Slot,
  gradient: Float32Array,
  learningRate: number,
  steps: number,
  { beta1, beta2, epsilon, weightDecay }: Required<AdamWOptions>,
): void {
  const { data, decay } = parameter;
  const keep = decay ? 1 - learningRate * weightDecay : 1;
  const stepSize = learningRate / (1 - beta1 ** steps);
  const rootCorrection = Math.sqrt(1 - beta2 ** steps);
  for (const [index, g] of gradient.entries()) {
    const mean = (expAvg[index] = beta1 * (expAvg[index] ?? 0) + (1 - beta1) * g);
    const square = (expAvgSq[index] = beta2 * (expAvgSq[index] ?? 0) + (1 - beta2) * g * g);
    data[index] =
      (data[index] ?? 0) * keep - (stepSize * mean) / (Math.sqrt(square) / rootCorrection + epsilon);
  }
}

function gradientOf(
  { name, data }: Parameter,
  gradients: Readonly<Record<string, Float32Array>>,
): Float32Array {
  const gradient = gradients[name];
  if (gradient?.length === data.length) return gradient;
  throw new Error(
    `AdamW: the gradient of ${name} must hold ${data.length} values, got ${gradient?.length ?? 'none'}`,
  );
}

/** The values of a one-dimensional view as host bytes, copied. */
function hostTensor(array: Float32Array): HostTensor {
  return { dtype: 'float32', shape: [array.length], data: new Uint8Array(array.slice().buffer) };
}

function values(
  state: Readonly<Record<string, HostTensor>>,
  name: string,
  length: number,
  dtype: 'float32' | 'int32' = 'float32',
): Float32Array | Int32Array {
  const tensor = state[name];
  if (tensor?.dtype !== dtype || tensor.data.byteLength !== length * 4) {
    const got = tensor ? `${tensor.dtype}[${tensor.shape.join(', ')}]` : 'nothing';
    const rule = `"${name}" must be ${length} × ${dtype}, got ${got}`;
    throw new UserError(`optimizer state: ${rule} (the checkpoint belongs to another model)`);
  }
  const bytes = tensor.data.slice().buffer; // copied: aligned, and the optimizer's own
  return dtype === 'int32' ? new Int32Array(bytes) : new Float32Array(bytes);
}
