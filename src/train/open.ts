/** Opens everything a training run works with, in the order in which mistakes are cheapest to find. */
import type { Config } from '../config/schema.js';
import type { FeatureStore } from '../data/features/featureStore.js';
import { BadSampleLedger } from '../data/ledger.js';
import { openMiniGpt4, projectionSizes, type MiniGpt4 } from '../model/miniGpt4.js';
import { isSound, parameterCount, type Projection } from '../model/projection.js';
import { checkpointNames, projectionTensors } from '../model/projectionTensors.js';
import { Prompter } from '../model/conversation/prompt.js';
import { UserError } from '../errors.js';
import { packageVersion } from '../version.js';
import { AdamW } from './adamw.js';
import { cpuKind, stateDifferences, type CheckpointState } from './checkpointState.js';
import { identityOf } from './identity.js';
import type { CheckpointContents } from './checkpoint.js';
import { Guard } from './guard.js';
import { configHash, Run } from './run.js';
import { Saver } from './saver.js';
import { cachePolicy } from './cachePolicy.js';
import {
  cacheLine,
  featureReader,
  noCounts,
  openStore,
  type CacheCounts,
  type FeatureReader,
} from './features.js';
import { openSources, Samples } from './samples.js';
import { startProjection } from './start.js';
import type { TrainOptions } from './options.js';

/** What a training run works with. */
export interface TrainingParts {
  readonly config: Config;
  readonly run: Run;
  readonly model: MiniGpt4;
  readonly features: FeatureReader;
  readonly samples: Samples;
  readonly ledger: BadSampleLedger;
  readonly projection: Projection;
  readonly store: FeatureStore | undefined;
  /** What came from the store. */
  readonly counts: CacheCounts;
  readonly note: (text: string) => void;
}

/** An open training run and its state: the step, the projection, the optimizer, the guard. */
export class Training {
  /** Steps done, those included that were not applied. */
  step: number;
  /** Samples of these steps that were bad and replaced. */
  replaced: number;
  readonly optimizer: AdamW;
  readonly guard: Guard;
  /** The evaluation that belongs to the last step is not done yet. */
  evaluationDue: boolean;
  readonly #saver: Saver<CheckpointContents>;
  /** The checkpoint that was loaded or saved last. */
  #saved: { readonly folder: string; readonly step: number; readonly evaluationDue: boolean } | undefined;

  constructor(readonly parts: TrainingParts) {
    const { config, run, projection, note } = parts;
    this.optimizer = new AdamW(
      Object.entries(checkpointNames(projection.parameters)).map(([name, data]) => ({
        name,
        data,
        decay: name.endsWith('weight'), // as the reference: on matrices, not on biases
      })),
      config.train.optimizer,
    );
    if (run.checkpoint) this.optimizer.importState(run.checkpoint.optimizer);
    this.guard = new Guard(config.train.guard, run.checkpoint?.state.guard);
    this.step = run.checkpoint?.step ?? 0;
    this.replaced = run.checkpoint?.state.replaced ?? 0;
    this.evaluationDue = run.checkpoint?.state.evaluationDue ?? false;
    const { evaluationDue } = this;
    this.#saved = run.checkpoint && { folder: run.checkpoint.folder, step: this.step, evaluationDue };
    this.#saver = new Saver(
      (contents) => this.#write(contents),
      ({ message }) =>
        note(`not saved: ${message}; the run goes on and tries again in ${config.train.saveEvery} steps`),
    );
  }

  /**
   * Saves the state as it is at the call; saves wait for one another.
   *
   * @returns the checkpoint's folder
   * @throws UserError if the projection is not finite, which is worth no checkpoint, or the disk does not take it
   */
  async save(): Promise<string> {
    return this.#saver.save(this.#contents());
  }

  /** As `save`, while the next steps are done; a full disk is noted and does not end the run. */
  async saveBeside(): Promise<void> {
    await this.#saver.saveBeside(this.#contents());
  }

  /** Closes all; without `wait` the thread that computes ends when it has done what it is at. */
  async close({ wait }: { wait: boolean }): Promise<void> {
    const { store, counts, model, ledger, run, note } = this.parts;
    try {
      await this.#saver.idle();
      await store?.flush();
      if (wait && store) note(cacheLine(counts));
    } finally {
      const closing = model.close(); // its thread may be in the middle of a step
      if (wait) await closing;
      else closing.catch(() => undefined);
      store?.close();
      ledger.close();
      await run.close();
    }
  }

  /** What is saved already is not replaced: for a moment there would be neither the old nor the new one. */
  async #write(contents: CheckpointContents): Promise<string> {
    const { step, state } = contents;
    const { evaluationDue = false } = state;
    const saved = this.#saved;
    if (saved?.step === step && saved.evaluationDue === evaluationDue) return saved.folder;
    this.parts.ledger.sync();
    const folder = await this.parts.run.save(contents);
    this.#saved = { folder, step, evaluationDue };
    return folder;
  }

  /** Copies: the next steps change what they are taken from. */
  #contents(): CheckpointContents {
    const { config, model, projection, run } = this.parts;
    if (!isSound(projection))
      throw new UserError(
        `train: the projection must hold finite numbers, got others after step ${this.step}; it is not saved (start another run with a lower train.schedule.peak, or from an earlier checkpoint of ${run.folder})`,
      );
    return {
      step: this.step,
      projection: projectionTensors(projection),
      optimizer: this.optimizer.exportState(),
      state: {
        ...checkpointState(config, model),
        guard: this.guard.state,
        replaced: this.replaced,
        ...(this.evaluationDue && { evaluationDue: true }),
      },
    };
  }
}

/** Opens run folder, data, model and starting weights. @throws UserError for whatever the user can mend */
export async function openTraining(
  config: Config,
  { folders, fresh = false, events = {} }: TrainOptions,
): Promise<Training> {
  const { note = () => undefined } = events;
  const run = await Run.open(config.run.folder, config, { fresh });
  const closers: (() => unknown)[] = [() => run.close()];
  try {
    const sources = await openSources(config);
    const model = await openMiniGpt4(config.model, folders, events.loading);
    closers.unshift(() => model.close());
    const store = await openStore(config, model, note);
    if (store) closers.unshift(() => store.close());
    const ledger = await BadSampleLedger.open(run.ledgerFile, {
      maxBadFraction: config.data.maxBadFraction,
      keepThroughStep: run.checkpoint?.step ?? -1,
    });
    closers.unshift(() => ledger.close());
    const shards = config.data.train.map((set, i) => ({ ...set, rows: sources[i]?.rows ?? 0 }));
    const policy = cachePolicy(config, shards, store?.size ?? 0);
    const counts = noCounts();
    const reading = { workers: config.data.workers, verify: config.data.verifyCache, counts };
    const features = featureReader(model.encoder, store, reading);
    let keepsTraining = true; // what is read before the first step, for statistics or first weights, comes again in the first steps
    const samples = new Samples(
      sources,
      featureReader(model.encoder, store, { ...reading, keep: () => keepsTraining }),
      new Prompter(model.tokenizer, config.prompt),
      config,
      ledger,
    );
    announce(config, model, run, note);
    if (policy.line) note(policy.line);
    const projection = await startProjection(config, model, samples, ledger, run.checkpoint, {
      onProgress: (done) => events.loading?.('features of the training images', done),
      note,
    });
    keepsTraining = policy.keepsTraining;
    return new Training({ config, run, model, features, samples, ledger, projection, store, counts, note });
  } catch (error) {
    for (const close of closers) await close();
    throw error;
  }
}

/** Says what is frozen, what trains, and where a resumed run differs from its beginning. */
function announce(config: Config, model: MiniGpt4, run: Run, note: (text: string) => void): void {
  const { encoder, language } = model;
  const frozen = [
    ...encoder.session.graph.variables.values(),
    ...language.session.graph.variables.values(),
  ].reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  const [C, D] = projectionSizes(model);
  const { kind } = config.model.projection;
  note(
    `frozen: vision encoder and language model, ${frozen.toLocaleString('en')} parameters in ${language.spec.precision}`,
  );
  note(
    `trains: projection ${C} → ${D} (${kind}), ${parameterCount(kind, [C, D]).toLocaleString('en')} parameters in float32`,
  );
  if (!run.checkpoint) return;
  note(`resumes after step ${run.checkpoint.step} from ${run.checkpoint.folder}`);
  for (const difference of stateDifferences(run.checkpoint.state, checkpointState(config, model)))
    note(`differs from the saved run, so the last bits may too: ${difference}`);
}

function checkpointState(config: Config, model: MiniGpt4): CheckpointState {
  const { tensorflow, language } = model;
  return {
    seed: config.run.seed,
    configSha256: configHash(config),
    versions: { node: process.versions.node, package: packageVersion, tensorflow: tensorflow.facts.version },
    cpu: cpuKind(),
    precision: language.spec.precision,
    threads: tensorflow.facts.threads,
    parts: identityOf(config, model),
  };
}
