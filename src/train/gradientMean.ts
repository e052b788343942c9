/**
 * The gradient of a step: sums of micro-batches in float32, in unit order, divided once by the step's target tokens.
 * So 4 micro-batches of 4 weigh every token as one of 16 does, whatever their lengths.
 */
import type { UnitGradients } from '../model/language/languageModel.js';

/** A step's mean over target tokens. */
export interface StepGradients {
  /** Mean cross-entropy per target token, nats. */
  readonly loss: number;
  readonly targetTokens: number;
  /** float32[D, C] */
  readonly weight: Float32Array;
  /** float32[D] */
  readonly bias: Float32Array;
}

/**
 * Adds the units in the order given and takes the mean.
 *
 * @throws if there is no unit or no target token
 */
export function meanGradients(units: readonly UnitGradients[]): StepGradients {
  const [first, ...rest] = units;
  if (!first) throw new Error('meanGradients: a step needs at least one micro-batch');
  const weight = first.dWeight.slice();
  const bias = first.dBias.slice();
  for (const { dWeight, dBias } of rest) {
    addInto(weight, dWeight);
    addInto(bias, dBias);
  }
  const targetTokens = units.reduce((sum, unit) => sum + unit.targetTokens, 0);
  const lossSum = units.reduce((sum, unit) => sum + unit.lossSum, 0);
  if (targetTokens === 0) throw new Error('meanGradients: a step needs at least one target token');
  divide(weight, targetTokens);
  divide(bias, targetTokens);
  return { loss: lossSum / targetTokens, targetTokens, weight, bias };
}

function addInto(sum: Float32Array, term: Float32Array): void {
  for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] ?? 0) + (term[i] ?? 0);
}

function divide(values: Float32Array, by: number): void {
  for (let i = 0; i < values.length; i++) values[i] = (values[i] ?? 0) / by;
}
