/** Opens everything a training run works with, in the order in which mistakes are cheapest to find. */
import { join } from 'node:path';
import type { Config } from '../config/schema.js';
import type { FeatureStore } from '../data/featureStore.js';
import { BadSampleLedger } from '../data/ledger.js';
import { openMiniGpt4, type MiniGpt4 } from '../model/miniGpt4.js';
import { parameterCount, type Projection } from '../model/projection.js';
import { checkpointNames, projectionTensors } from '../model/projectionTensors.js';
import { Prompter } from '../model/conversation/prompt.js';
import { packageVersion } from '../version.js';
import { AdamW } from './adamw.js';
import { cpuKind, stateDifferences, type CheckpointState } from './checkpointState.js';
import { identityOf } from './identity.js';
import { configHash, Run } from './run.js';
import { featureReader, openStore, type FeatureReader } from './features.js';
import { openSources, Samples } from './samples.js';
import { startProjection } from './start.js';
import type { TrainEvents, TrainOptions } from './train.js';

/** Flush the feature cache after this many newly encoded images, so that a crash costs little encoding. */
const FLUSH_EVERY = 256;

/** An open training run and its state: the step, the projection, the optimizer. */
export class Training {
  /** Optimizer steps taken. */
  step: number;
  readonly optimizer: AdamW;
  #saving: Promise<string> | undefined;

  constructor(
    readonly config: Config,
    readonly run: Run,
    readonly model: MiniGpt4,
    readonly features: FeatureReader,
    readonly samples: Samples,
    readonly projection: Projection,
    readonly store: FeatureStore | undefined,
  ) {
    this.optimizer = new AdamW(
      Object.entries(checkpointNames(projection.parameters)).map(([name, data]) => ({
        name,
        data,
        decay: name.endsWith('weight'), // as the reference: on matrices, not on biases
      })),
      config.train.optimizer,
    );
    if (run.checkpoint) this.optimizer.importState(run.checkpoint.optimizer);
    this.step = run.checkpoint?.step ?? 0;
  }

  /** Saves the state as it is at the call; saves wait for one another. @returns the checkpoint's folder */
  save(): Promise<string> {
    const contents = {
      step: this.step,
      projection: projectionTensors(this.projection),
      optimizer: this.optimizer.exportState(),
      state: checkpointState(this.config, this.model),
    };
    const before = this.#saving ?? Promise.resolve('');
    this.#saving = before.then(
      () => this.run.save(contents),
      () => this.run.save(contents),
    );
    return this.#saving;
  }

  /** Closes all; without `wait` the thread that computes is left to the end of the process. */
  async close({ wait }: { wait: boolean }): Promise<void> {
    if (wait) {
      await this.store?.flush();
      await this.model.close();
    }
    this.store?.close();
    await this.run.close();
  }
}

/** Opens run folder, data, model and starting weights. @throws UserError for whatever the user can mend */
export async function openTraining(
  config: Config,
  { folders, fresh = false, events = {} }: TrainOptions,
): Promise<Training> {
  const run = await Run.open(config.run.folder, config, { fresh });
  const closers: (() => unknown)[] = [() => run.close()];
  try {
    const sources = await openSources(config);
    const model = await openMiniGpt4(config.model, folders, events.loading);
    closers.unshift(() => model.close());
    const store = await openStore(config, model);
    const ledger = await BadSampleLedger.open(join(run.folder, 'ledger.jsonl'), {
      maxBadFraction: config.data.maxBadFraction,
      keepThroughStep: run.checkpoint?.step ?? -1,
    });
    const features = featureReader(model.encoder, store, {
      workers: config.data.workers,
      flushEvery: FLUSH_EVERY,
    });
    const samples = new Samples(
      sources,
      features,
      new Prompter(model.tokenizer, config.prompt),
      config,
      ledger,
    );
    announce(config, model, run, events);
    const projection = await startProjection(config, model, samples, run.checkpoint, {
      onProgress: (done) => events.loading?.('features of the training images', done),
      ...(events.note && { note: events.note }),
    });
    return new Training(config, run, model, features, samples, projection, store);
  } catch (error) {
    for (const close of closers) await close();
    throw error;
  }
}

/** Says what is frozen, what trains, and where a resumed run differs from its beginning. */
function announce(config: Config, model: MiniGpt4, run: Run, { note = () => undefined }: TrainEvents): void {
  const { encoder, language } = model;
  const frozen = [
    ...encoder.session.graph.variables.values(),
    ...language.session.graph.variables.values(),
  ].reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  const [C, D] = [encoder.featureShape[1], language.spec.llama.hiddenSize];
  const { kind } = config.model.projection;
  note(
    `frozen: vision encoder and language model, ${frozen.toLocaleString('en')} parameters in ${language.spec.precision}`,
  );
  note(
    `trains: projection ${C} → ${D} (${kind}), ${parameterCount(kind, [C, D]).toLocaleString('en')} parameters in float32`,
  );
  if (config.data.transform === 'random-crop' && config.data.featureCache)
    note(
      'feature cache: off for training images, as each is cropped at random and encoded anew; on for those of evaluations',
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
    threads: config.model.threads,
    parts: identityOf(config, model),
  };
}
