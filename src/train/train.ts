/**
 * The training run: one loop for both stages, told apart by their configuration alone. Everything that decides the
 * result is a function of (configuration, data, step); so a run that was killed ends as the one that was not.
 */
import type { Config } from '../config/schema.js';
import type { Projection } from '../model/projection.js';
import { mixtureReport } from './mixtureReport.js';
import { openTraining, type Training } from './open.js';
import type { TrainOptions, TrainResult } from './options.js';
import { preflight } from './preflight.js';
import type { Run } from './run.js';
import { UserError } from '../errors.js';
import { untilAborted } from '../untilAborted.js';
import { learningRate, scheduleOf } from './schedule.js';
import {
  applyStep,
  diagnosis,
  readAhead,
  StepClock,
  stepGradients,
  type AppliedStep,
  type StepGradients,
} from './step.js';

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
  let finished = false;
  try {
    const work = loop(training, options);
    work.catch(() => undefined); // reported below, unless the interruption came first
    const waited = await untilAborted(work, signal);
    finished = true;
    if (waited !== undefined) reportData(training, waited);
    return { checkpoint: await training.save(), step: training.step };
  } catch (error) {
    if (finished) throw error;
    if (signal?.aborted) throw new Interrupted(await training.save());
    if (error instanceof UserError && training.step > 0) await saveWhatIsThere(training);
    throw error;
  } finally {
    await training.close({ wait: finished || !signal?.aborted });
  }
}

/** Takes the steps that are left. @returns the share of their time that was spent waiting for data; undefined without a step */
async function loop(training: Training, options: TrainOptions): Promise<number | undefined> {
  const { evaluate, events = {}, signal } = options;
  const { config, projection, run, note } = training.parts;
  const { steps, batchSize, logEvery, evalEvery, saveEvery } = config.train;
  if (training.step === 0 && config.train.preflight) await preflight(training.parts, note);
  signal?.throwIfAborted();
  const schedule = scheduleOf(config.train);
  const batches = readAhead(training);
  const spent = { stepMs: 0, dataMs: 0 };
  if (training.evaluationDue) await evaluateStep(training, options);

  while (training.step < steps) {
    const clock = new StepClock();
    const gradients = await stepGradients(training, batches, clock);
    signal?.throwIfAborted();
    // From here to the end of the step nothing is awaited: an interruption finds whole steps only.
    const lr = learningRate(training.step, schedule);
    const applied = applyStep(training, gradients, lr);

    const { step } = training;
    training.evaluationDue = evaluate !== undefined && evalEvery > 0 && step % evalEvery === 0;
    const times = clock.metrics(batchSize);
    spent.stepMs += times['time/step_ms'];
    spent.dataMs += times['time/data_ms'];
    if (applied.fault !== undefined || step % logEvery === 0 || step === 1 || step === steps)
      run.log(step, { ...stepMetrics(gradients, applied, lr), ...times });
    events.step?.({ step, steps, loss: gradients.loss });
    if (applied.fault !== undefined)
      note(`step ${step} was not applied: ${applied.fault}; its samples are in ledger.jsonl`);
    if (training.guard.mustStop) throw new UserError(diagnosis(training, gradients));
    if (training.evaluationDue) await evaluateStep(training, options);
    if (step % saveEvery === 0 && step < steps) {
      logHistograms(run, step, projection);
      await training.saveBeside();
    }
  }
  return spent.stepMs > 0 ? spent.dataMs / spent.stepMs : undefined;
}

/** The evaluation after the last step; the run has its place in its folder, so that an interrupted one is done again. */
async function evaluateStep(training: Training, { evaluate, signal }: TrainOptions): Promise<void> {
  const { model, projection, features, run } = training.parts;
  const { step } = training;
  const values = await evaluate?.({ step, model, projection, features, run });
  signal?.throwIfAborted();
  if (values) run.log(step, values);
  training.evaluationDue = false;
}

function stepMetrics(
  { loss, targetTokens }: StepGradients,
  { gradNorm, fault }: AppliedStep,
  lr: number,
): Record<string, number> {
  return {
    'train/loss': loss,
    'train/lr': lr,
    'train/grad_norm': gradNorm,
    'train/target_tokens': targetTokens,
    ...(fault !== undefined && { 'train/skipped': 1 }),
  };
}

/** Says where the time and the samples went. @param waited share of the steps' time that data was waited for */
function reportData({ parts: { config, samples, note }, step }: Training, waited: number): void {
  note(`waited for data: ${(100 * waited).toFixed(2)} % of the time of the steps`);
  for (const line of mixtureReport(config, samples.rowsBySource, step)) note(`drawn from ${line}`);
}

/** Where data or disk end a run, what it has learnt is saved; if that fails too, it is said beside the reason. */
async function saveWhatIsThere(training: Training): Promise<void> {
  await training.save().catch((error: unknown) => {
    if (!(error instanceof UserError)) throw error;
    training.parts.note(`not saved: ${error.message}`);
  });
}

function logHistograms(run: Run, step: number, projection: Projection): void {
  for (const [name, values] of Object.entries(projection.parameters)) {
    run.events.histogram(step, `projection/${name}`, values);
  }
}
