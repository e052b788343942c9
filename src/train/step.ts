/** One optimizer step: its micro-batches read ahead, their gradients summed in order, the weights moved or guarded. */
import type { MicroBatch, UnitGradients } from '../model/language/languageModel.js';
import { isSound, type Projection } from '../model/projection.js';
import { checkpointNames } from '../model/projectionTensors.js';
import { clipGradNorm } from './adamw.js';
import { meanGradients, type MeanGradients } from './gradientMean.js';
import type { Training } from './open.js';
import { prefetch } from './prefetch.js';
import { microBatch, type Sample } from './samples.js';

/** A step's mean gradient, and the samples it comes from. */
export interface StepGradients extends MeanGradients {
  readonly samples: readonly Sample[];
  /** How many of these stand in for bad ones. */
  readonly replaced: number;
}

/** What became of a step. */
export interface AppliedStep {
  /** Norm of the mean gradient, before it was clipped. */
  readonly gradNorm: number;
  /** Why the weights were not moved; undefined: they were. */
  readonly fault: string | undefined;
}

/** A micro-batch, and the samples it was made of. */
export interface Unit {
  readonly batch: MicroBatch;
  readonly samples: readonly Sample[];
}

/** The micro-batches from the present step on, made ahead of the steps that need them. */
export function readAhead(training: Training): AsyncGenerator<Unit, void> {
  const { config, samples, model } = training.parts;
  const { steps, batchSize, microBatchSize } = config.train;
  const units = batchSize / microBatchSize;
  return prefetch(training.step * units, steps * units, config.data.prefetch, async (unit) => {
    const first = unit * microBatchSize;
    const step = Math.floor(first / batchSize) + 1;
    const members = await Promise.all(
      Array.from({ length: microBatchSize }, (_, i) => samples.at(first + i, step)),
    );
    return { batch: microBatch(members, model.encoder.featureShape), samples: members };
  });
}

/**
 * Computes the step's units, as many at a time as the model does; their sum has one order all the same.
 *
 * @throws UserError when too many samples up to this step were bad
 */
export async function stepGradients(
  { parts: { config, model, projection, ledger }, step, replaced: before }: Training,
  batches: AsyncGenerator<Unit, void>,
  clock: StepClock,
): Promise<StepGradients> {
  const { batchSize, microBatchSize } = config.train;
  const { language } = model;
  const units = batchSize / microBatchSize;
  const computed: UnitGradients[] = [];
  const samples: Sample[] = [];
  while (computed.length < units) {
    const count = Math.min(language.concurrency, units - computed.length);
    const next = await clock.waitingForData(taken(batches, count));
    const gradients = next.map(({ batch }) => language.lossAndGradients(projection, batch));
    computed.push(...(await Promise.all(gradients)));
    samples.push(...next.flatMap((unit) => unit.samples));
  }
  const replaced = samples.filter(({ isReplacement }) => isReplacement).length;
  ledger.requireFew(before + replaced, (step + 1) * batchSize, step + 1);
  return { ...meanGradients(computed), samples, replaced };
}

async function taken(units: AsyncGenerator<Unit, void>, count: number): Promise<Unit[]> {
  const next: Unit[] = [];
  while (next.length < count) {
    const { value, done } = await units.next();
    if (done) throw new Error('train: the data ended before the steps did');
    next.push(value);
  }
  return next;
}

/** Moves the weights, unless the guard forbids it: then the batch is written to the ledger. The step counts either way. */
export function applyStep(
  training: Training,
  { loss, mean, samples, replaced }: StepGradients,
  lr: number,
): AppliedStep {
  const { config, ledger } = training.parts;
  const gradNorm = clipGradNorm(Object.values(mean), config.train.maxGradNorm);
  const fault = training.guard.judge(loss, gradNorm);
  training.step += 1;
  training.replaced += replaced;
  if (fault === undefined) training.optimizer.step(checkpointNames(mean), lr);
  else
    ledger.addSkipped({
      step: training.step,
      reason: fault,
      samples: samples.map(({ place, pair }) => ({ ...place, id: pair.id })),
    });
  return { gradNorm, fault };
}

/** Why the run stops after several steps that were not applied, and what can be done. */
export function diagnosis(
  { parts: { projection, run }, guard, step }: Training,
  last: StepGradients,
): string {
  const times = `${guard.state.skipped} steps in a row were not applied, the last one ${step}`;
  const place = `their samples are in ${run.ledgerFile}`;
  return `train: ${times}: ${finding(projection, last)}; ${place}, the median loss before them was ${guard.medianLoss.toFixed(3)}`;
}

function finding(projection: Projection, { samples }: StepGradients): string {
  if (!isSound(projection))
    return 'the projection holds numbers that are not finite (delete the newest checkpoints and start another run with a lower train.schedule.peak)';
  const spoilt = samples.find(({ features }) => !features.every(Number.isFinite));
  if (spoilt)
    return `the features of ${spoilt.pair.id} are not finite (try model.precision=float32: if they are finite then, it is the encoder's arithmetic)`;
  return `weights and features are finite, the largest weight is ${largest(projection).toPrecision(3)} (look at those samples; the same command goes on after them; if they are sound, start another run with a lower train.schedule.peak or with train.maxGradNorm)`;
}

function largest(projection: Projection): number {
  let most = 0;
  for (const values of Object.values(projection.parameters))
    for (const value of values) most = Math.max(most, Math.abs(value));
  return most;
}

/** Times a step: all of it, and the part spent waiting for data. */
export class StepClock {
  readonly #start = performance.now();
  #dataMs = 0;

  /** Waits for the work and counts the time. */
  async waitingForData<T>(work: Promise<T>): Promise<T> {
    const start = performance.now();
    const result = await work;
    this.#dataMs += performance.now() - start;
    return result;
  }

  /** The step's times in ms so far, and its samples a second. */
  metrics(samples: number): Record<'time/step_ms' | 'time/data_ms' | 'speed/samples_per_s', number> {
    const stepMs = performance.now() - this.#start;
    return {
      'time/step_ms': stepMs,
      'time/data_ms': this.#dataMs,
      'speed/samples_per_s': (samples / stepMs) * 1000,
    };
  }
}
