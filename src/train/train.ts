/**
 * The training run: one loop for both stages, told apart by their configuration alone. Everything that decides the
 * result is a function of (configuration, data, step); so a run that was killed ends as the one that was not.
 */
import type { Config } from '../config/schema.js';
import type { MiniGpt4, ModelFolders } from '../model/miniGpt4.js';
import type { Projection } from '../model/projection.js';
import { mixtureReport } from './mixtureReport.js';
import { openTraining, type Training } from './open.js';
import { preflight } from './preflight.js';
import type { Run } from './run.js';
import { UserError } from '../errors.js';
import type { FeatureReader } from './features.js';
import { learningRate, scheduleOf } from './schedule.js';
import {
  applyStep,
  diagnosis,
  isSound,
  readAhead,
  StepClock,
  stepGradients,
  type StepGradients,
} from './step.js';

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
    const waited = await (interrupted ? Promise.race([work, interrupted]) : work);
    if (waited !== undefined) reportData(training, waited);
    return { checkpoint: await training.save(), step: training.step };
  } catch (error) {
    if (signal?.aborted) throw new Interrupted(await training.save());
    throw error;
  } finally {
    await training.close({ wait: !signal?.aborted });
  }
}

/** Takes the steps that are left. @returns the share of their time that was spent waiting for data; undefined without a step */
async function loop(
  training: Training,
  { evaluate, events = {}, signal }: TrainOptions,
): Promise<number | undefined> {
  const { config, model, projection, features, run, note } = training.parts;
  const { steps, batchSize, logEvery, evalEvery, saveEvery } = config.train;
  if (training.step === 0 && config.train.preflight) await preflight(training.parts, note);
  signal?.throwIfAborted();
  const schedule = scheduleOf(config.train);
  const batches = readAhead(training);
  const spent = { stepMs: 0, dataMs: 0 };

  while (training.step < steps) {
    const clock = new StepClock();
    const gradients = await stepGradients(training, batches, clock);
    signal?.throwIfAborted();
    // From here to the end of the step nothing is awaited: an interruption finds whole steps only.
    const lr = learningRate(training.step, schedule);
    const { gradNorm, fault } = applyStep(training, gradients, lr);

    const { step } = training;
    const { loss, targetTokens } = gradients;
    const times = clock.metrics(batchSize);
    spent.stepMs += times['time/step_ms'];
    spent.dataMs += times['time/data_ms'];
    if (fault !== undefined || step % logEvery === 0 || step === 1 || step === steps) {
      run.log(step, {
        'train/loss': loss,
        'train/lr': lr,
        'train/grad_norm': gradNorm,
        'train/target_tokens': targetTokens,
        ...(fault !== undefined && { 'train/skipped': 1 }),
        ...times,
      });
    }
    events.step?.({ step, steps, loss });
    if (fault !== undefined) note(`step ${step} was not applied: ${fault}; its samples are in ledger.jsonl`);
    if (training.guard.mustStop) await stop(training, gradients);
    if (evaluate && evalEvery > 0 && step % evalEvery === 0)
      run.log(step, await evaluate({ step, model, projection, features, run }));
    if (step % saveEvery === 0 && step < steps) {
      logHistograms(run, step, projection);
      await training.saveBeside();
    }
  }
  return spent.stepMs > 0 ? spent.dataMs / spent.stepMs : undefined;
}

/** Says where the time and the samples went. @param waited share of the steps' time that data was waited for */
function reportData({ parts: { config, samples, note }, step }: Training, waited: number): void {
  note(`waited for data: ${(100 * waited).toFixed(2)} % of the time of the steps`);
  for (const line of mixtureReport(config, samples.rowsBySource, step)) note(`drawn from ${line}`);
}

/** Ends a run whose steps cannot be applied any more; what it has learnt is saved. */
async function stop(training: Training, last: StepGradients): Promise<never> {
  const text = diagnosis(training, last);
  if (isSound(training.parts.projection)) await training.save();
  throw new UserError(text);
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
