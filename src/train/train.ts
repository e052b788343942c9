/**
 * The training run: one loop for both stages, told apart by their configuration alone. Everything that decides the
 * result is a function of (configuration, data, step); so a run that was killed ends as the one that was not.
 */
import type { Config } from '../config/schema.js';
import type { MiniGpt4, ModelFolders } from '../model/miniGpt4.js';
import type { Projection } from '../model/projection.js';
import { checkpointNames } from '../model/projectionTensors.js';
import { clipGradNorm } from './adamw.js';
import { meanGradients, type StepGradients } from './gradientMean.js';
import { openTraining, type Training } from './open.js';
import { prefetch } from './prefetch.js';
import { preflight } from './preflight.js';
import type { Run } from './run.js';
import type { FeatureReader } from './features.js';
import { microBatch } from './samples.js';
import { learningRate, scheduleOf } from './schedule.js';
import type { MicroBatch } from '../model/language/languageModel.js';

/** What a run tells whoever watches it; the run itself prints nothing. */
export interface TrainEvents {
  /** What is frozen, what trains, where it resumes: lines worth reading. */
  readonly note?: (text: string) => void;
  /** A part is being loaded: share done, 0…1. */
  readonly loading?: (part: string, done: number) => void;
  /** After each step. */
  readonly step?: (report: StepReport) => void;
}

/** Where the run stands after a step. */
export interface StepReport {
  /** Steps taken, 1…steps. */
  readonly step: number;
  readonly steps: number;
  /** Mean loss of the step's target tokens, nats. */
  readonly loss: number;
}

/** How a run is started. */
export interface TrainOptions {
  readonly folders: ModelFolders;
  /** Refuse to resume. */
  readonly fresh?: boolean;
  readonly events?: TrainEvents;
  /** Called every `train.evalEvery` steps; what it returns is logged. Given by the caller: evaluation stands above training. */
  readonly evaluate?: (context: EvaluationContext) => Promise<Readonly<Record<string, number>>>;
  /** When it aborts, the last whole step is saved at once, also in the middle of a step, and `train` rejects with `Interrupted`. */
  readonly signal?: AbortSignal;
}

/** What an evaluation during training works with. */
export interface EvaluationContext {
  readonly step: number;
  readonly model: MiniGpt4;
  readonly projection: Projection;
  /** The run's own, so that held-out pictures share its cache. */
  readonly features: FeatureReader;
  readonly run: Run;
}

/** How a run ended. */
export interface TrainResult {
  /** Folder of the last checkpoint. */
  readonly checkpoint: string;
  readonly step: number;
}

/** The run was interrupted; its state is saved in `checkpoint`. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';

  constructor(readonly checkpoint: string) {
    super(`interrupted, saved ${checkpoint}`);
  }
}

/** Trains the projection; everything else stays frozen. Resumes by itself when the run folder holds a checkpoint. */
export async function train(config: Config, options: TrainOptions): Promise<TrainResult> {
  const training = await openTraining(config, options);
  const { signal } = options;
  try {
    const interrupted = signal && whenAborted(signal);
    const work = loop(training, options);
    work.catch(() => undefined); // reported below, unless the interruption came first
    await (interrupted ? Promise.race([work, interrupted]) : work);
    return { checkpoint: await training.save(), step: training.step };
  } catch (error) {
    if (signal?.aborted) throw new Interrupted(await training.save());
    throw error;
  } finally {
    await training.close({ wait: !signal?.aborted });
  }
}

async function loop(training: Training, { events = {}, evaluate, signal }: TrainOptions): Promise<void> {
  const { config, model, projection, features, optimizer, run } = training;
  const { steps, batchSize, microBatchSize, maxGradNorm, logEvery, evalEvery, saveEvery } = config.train;
  if (training.step === 0 && config.train.preflight)
    await preflight(training, events.note ?? (() => undefined));
  signal?.throwIfAborted();
  const schedule = scheduleOf(config.train);
  const units = batchSize / microBatchSize;
  const batches = prefetch(training.step * units, steps * units, config.data.prefetch, (unit) =>
    readUnit(training, unit),
  );

  while (training.step < steps) {
    const clock = new StepClock();
    const gradients = await stepGradients(training, batches, units, clock);
    signal?.throwIfAborted();
    // From here to the end of the step nothing is awaited: an interruption finds whole steps only.
    const gradNorm = clipGradNorm(Object.values(gradients.mean), maxGradNorm);
    checkFinite(training.step, gradients.loss, gradNorm);
    const lr = learningRate(training.step, schedule);
    optimizer.step(checkpointNames(gradients.mean), lr);
    training.step += 1;

    const { step } = training;
    const { loss, targetTokens } = gradients;
    if (step % logEvery === 0 || step === 1 || step === steps) {
      run.log(step, {
        'train/loss': loss,
        'train/lr': lr,
        'train/grad_norm': gradNorm,
        'train/target_tokens': targetTokens,
        ...clock.metrics(batchSize),
      });
    }
    events.step?.({ step, steps, loss });
    if (evaluate && evalEvery > 0 && step % evalEvery === 0)
      run.log(step, await evaluate({ step, model, projection, features, run }));
    if (step % saveEvery === 0 && step < steps) {
      logHistograms(run, step, projection);
      await training.save();
    }
  }
}

/** Computes the step's units one after the other, so that their sum has one order. */
async function stepGradients(
  { model, projection }: Training,
  batches: AsyncGenerator<MicroBatch, void>,
  units: number,
  clock: StepClock,
): Promise<StepGradients> {
  const computed = [];
  for (let unit = 0; unit < units; unit++) {
    const next = await clock.waitingForData(batches.next());
    if (next.done) throw new Error('train: the data ended before the steps did');
    computed.push(await model.language.lossAndGradients(projection, next.value));
  }
  return meanGradients(computed);
}

async function readUnit({ config, samples, model }: Training, unit: number): Promise<MicroBatch> {
  const { batchSize, microBatchSize } = config.train;
  const first = unit * microBatchSize;
  const step = Math.floor(first / batchSize) + 1;
  const members = await Promise.all(
    Array.from({ length: microBatchSize }, (_, i) => samples.at(first + i, step)),
  );
  return microBatch(members, model.encoder.featureShape);
}

function checkFinite(step: number, loss: number, gradNorm: number): void {
  if (Number.isFinite(loss) && Number.isFinite(gradNorm)) return;
  throw new Error(
    `train: step ${step + 1} gave loss ${loss} and gradient norm ${gradNorm}; the weights were not changed (lower train.schedule.peak or set train.maxGradNorm, then start again from the last checkpoint)`,
  );
}

function logHistograms(run: Run, step: number, projection: Projection): void {
  for (const [name, values] of Object.entries(projection.parameters)) {
    run.events.histogram(step, `projection/${name}`, values);
  }
}

function whenAborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const fail = (): void => reject(signal.reason as Error); // an AbortSignal's reason is an error unless the caller gave another
    if (signal.aborted) fail();
    else signal.addEventListener('abort', fail, { once: true });
  });
}

/** Times a step: all of it, and the part spent waiting for data. */
class StepClock {
  readonly #start = performance.now();
  #dataMs = 0;

  async waitingForData<T>(work: Promise<T>): Promise<T> {
    const start = performance.now();
    const result = await work;
    this.#dataMs += performance.now() - start;
    return result;
  }

  metrics(samples: number): Record<string, number> {
    const stepMs = performance.now() - this.#start;
    return {
      'time/step_ms': stepMs,
      'time/data_ms': this.#dataMs,
      'speed/samples_per_s': (samples / stepMs) * 1000,
    };
  }
}
