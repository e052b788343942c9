/** The learning rate as a pure function of the step. */
import type { TrainConfig } from '../config/schema.js';

interface Ramp {
  /** Highest rate. */
  readonly peak: number;
  /** Rate at the end. */
  readonly floor: number;
  /** Rate at step 0 of the warm-up. */
  readonly start: number;
  readonly warmupSteps: number;
  /** Step at which the cosine reaches the floor. */
  readonly totalSteps: number;
}

/** A warm-up and a cosine: counted from its end, or as MiniGPT-4 counts them. */
export type Schedule =
  | ({ readonly kind: 'cosine' } & Ramp)
  | ({ readonly kind: 'reference'; readonly stepsPerEpoch: number } & Ramp);

/** The schedule that a configuration asks for. */
export function scheduleOf({ schedule, steps }: Pick<TrainConfig, 'schedule' | 'steps'>): Schedule {
  const { kind, peak, floor, start, warmupSteps, totalSteps = steps, stepsPerEpoch } = schedule;
  const ramp = { peak, floor, start, warmupSteps, totalSteps };
  if (kind === 'cosine') return { kind, ...ramp };
  if (stepsPerEpoch === undefined)
    throw new Error('schedule: kind "reference" must have stepsPerEpoch, got none');
  return { kind, stepsPerEpoch, ...ramp };
}

/**
 * Learning rate of a schedule.
 *
 * @param step optimizer steps taken so far, from 0
 * @returns the rate to use for the next step
 */
export function learningRate(step: number, schedule: Schedule): number {
  return schedule.kind === 'reference' ? referenceRate(step, schedule) : cosineRate(step, schedule);
}

/** Linear from `start` (step 0) to `peak` (step `warmupSteps`), then half a cosine to `floor` at `totalSteps`. */
function cosineRate(step: number, { peak, floor, start, warmupSteps, totalSteps }: Ramp): number {
  if (step < warmupSteps) return start + ((peak - start) * step) / warmupSteps;
  const progress = Math.min(1, (step - warmupSteps) / Math.max(totalSteps - warmupSteps, 1));
  return floor + (peak - floor) * 0.5 * (1 + Math.cos(Math.PI * progress));
}

/**
 * Reference quirk: the cosine counts from step 0, not from the end of warm-up, so the rate drops there;
 * and warm-up counts steps within the epoch, so it restarts if `warmupSteps` > `stepsPerEpoch`.
 * Source: Vision-CAIR/MiniGPT-4, minigpt4/common/optims.py, `LinearWarmupCosineLRScheduler.step`.
 */
function referenceRate(step: number, s: Ramp & { readonly stepsPerEpoch: number }): number {
  if (step < s.warmupSteps) {
    const inEpoch = step % s.stepsPerEpoch;
    return Math.min(s.peak, s.start + ((s.peak - s.start) * inEpoch) / Math.max(s.warmupSteps, 1));
  }
  return s.floor + (s.peak - s.floor) * 0.5 * (1 + Math.cos((Math.PI * step) / s.totalSteps));
}
