/**
 * The gradient of a step: sums of micro-batches in float32, in unit order, divided once by the step's target tokens.
 * So 4 micro-batches of 4 weigh every token as one of 16 does, whatever their lengths.
 */
import type { ProjectionArrays } from '../model/projection.js';
import type { UnitGradients } from '../model/language/languageModel.js';

/** A step's mean over target tokens. */
export interface MeanGradients {
  /** Mean cross-entropy per target token, nats. */
  readonly loss: number;
  readonly targetTokens: number;
  /** By parameter of the projection. */
  readonly mean: ProjectionArrays;
}

/**
 * Adds the units in the order given and takes the mean.
 *
 * @throws if there is no unit or no target token
 */
export function meanGradients(units: readonly UnitGradients[]): MeanGradients {
  const [first] = units;
  if (!first) throw new Error('meanGradients: a step needs at least one micro-batch');
  const targetTokens = units.reduce((sum, unit) => sum + unit.targetTokens, 0);
  const lossSum = units.reduce((sum, unit) => sum + unit.lossSum, 0);
  if (targetTokens === 0) throw new Error('meanGradients: a step needs at least one target token');
  const mean = Object.keys(first.gradients).map((name) => [name, meanOf(units, name, targetTokens)] as const);
  return { loss: lossSum / targetTokens, targetTokens, mean: Object.fromEntries(mean) };
}

function meanOf(units: readonly UnitGradients[], name: string, targetTokens: number): Float32Array {
  const [first = new Float32Array(), ...rest] = units.map(({ gradients }) => gradients[name]);
  const sum = first.slice();
  for (const term of rest) addInto(sum, term ?? new Float32Array());
  return sum.map((value) => value / targetTokens);
}

function addInto(sum: Float32Array, term: Float32Array): void {
  for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] ?? 0) + (term[i] ?? 0);
}
