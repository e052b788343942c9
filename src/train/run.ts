/**
 * A run folder: the configuration, the lock, the metrics, the TensorBoard events and the checkpoints of one training run.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

import { RESOLVED_HEADER, resolvedYaml } from '../config/describe.js';
import { loadConfig } from '../config/load.js';
import type { Config } from '../config/schema.js';
import { UserError } from '../errors.js';
import { fileError, writeFileWhole } from '../files.js';
import { takeLock, type Lock } from '../lock.js';
import {
  latestCheckpoint,
  loadCheckpoint,
  removeLeftovers,
  saveCheckpoint,
  type Checkpoint,
  type CheckpointContents,
} from './checkpoint.js';
import { JsonLines, type Metrics } from './metrics.js';
import { EventFile } from './tensorboard.js';

/** How a run is opened. */
export interface RunOptions {
  /** Refuse to resume: a folder that holds checkpoints is an error. */
  readonly fresh?: boolean;
}

const LOCK_FILE = 'run.lock';
const CONFIG_FILE = 'config.yaml';
const METRICS_FILE = 'metrics.jsonl';
const SAMPLES_FILE = 'samples.jsonl';
const LEDGER_FILE = 'ledger.jsonl';
/** What is written whole when a run begins; a process that dies at that leaves a file of another name. */
const REWRITTEN = [LOCK_FILE, CONFIG_FILE, METRICS_FILE, SAMPLES_FILE, LEDGER_FILE];
const LOCK_WORDS = { subject: 'the run', advice: 'wait for it, stop it, or choose another --run' };

/** Fields that may change when a run resumes: they do not bear on the steps already done. A dot at the end: all below. */
const MAY_CHANGE = [
  'run.folder',
  'evaluate.',
  'data.heldOut.',
  'data.maxBadFraction',
  'data.prefetch',
  'data.workers',
  'data.featureCache',
  'data.featureCacheGB',
  'data.verifyCache',
  'model.threads',
  'model.concurrency',
  'model.identity',
  'train.steps',
  'train.preflight',
  'train.logEvery',
  'train.evalEvery',
  'train.saveEvery',
  'train.keepCheckpoints',
  'train.keepEvery',
];

/** SHA-256 of the resolved configuration, for `CheckpointState.configSha256`. */
export function configHash(config: Config): string {
  return createHash('sha256').update(resolvedYaml(config)).digest('hex');
}

/** Fields that differ between the configuration of a run and the present one and must not, a line each. */
export function forbiddenChanges(before: Config, now: Config): string[] {
  const [old, present] = [leaves(before), leaves(now)];
  const allowed = (path: string) =>
    MAY_CHANGE.some((rule) => path === rule || (rule.endsWith('.') && path.startsWith(rule)));
  return [...new Set([...old.keys(), ...present.keys()])]
    .filter((path) => !allowed(path) && old.get(path) !== present.get(path))
    .sort()
    .map(
      (path) => `${path}: ${old.get(path) ?? 'nothing'} in the run, ${present.get(path) ?? 'nothing'} now`,
    );
}

/** An open run. Whoever opened it closes it. */
export class Run {
  /** TensorBoard events, for histograms, images and texts; `log` writes the scalars. */
  readonly events: EventFile;

  private constructor(
    readonly folder: string,
    readonly config: Config,
    /** The checkpoint to resume from; undefined on a fresh run. */
    readonly checkpoint: Checkpoint | undefined,
    private readonly metrics: JsonLines,
    private readonly samples: JsonLines,
    private readonly lock: Lock,
  ) {
    this.events = new EventFile(join(folder, 'tensorboard'), {
      firstStep: checkpoint ? checkpoint.step + 1 : 0,
    });
  }

  /**
   * Opens a run folder, making it if it is missing, and loads its newest checkpoint if it has one. Lines that were
   * logged after that checkpoint are cut.
   *
   * @throws UserError if another process uses the folder, if its newest checkpoint is damaged, if the configuration
   * differs from the run's in what bears on the result, or if `fresh` is asked for and there are checkpoints
   */
  static async open(folder: string, config: Config, { fresh = false }: RunOptions = {}): Promise<Run> {
    await mkdir(folder, { recursive: true }).catch((error: unknown) => {
      throw fileError(folder, error);
    });
    const lock = await takeLock(join(folder, LOCK_FILE), LOCK_WORDS);
    try {
      await removeLeftovers(folder, REWRITTEN);
      const checkpoint = await resumable(folder, config, fresh);
      await writeFileWhole(join(folder, CONFIG_FILE), resolvedYaml(config));
      const lastStep = checkpoint?.step ?? -1;
      const redone = checkpoint?.state.evaluationDue === true ? 'eval/' : undefined;
      const metrics = await JsonLines.open(join(folder, METRICS_FILE), lastStep, redone);
      const samples = await JsonLines.open(join(folder, SAMPLES_FILE), redone ? lastStep - 1 : lastStep);
      return new Run(folder, config, checkpoint, metrics, samples, lock);
    } catch (error) {
      await lock.release();
      throw error;
    }
  }

  /** Where samples that could not be used are listed. */
  get ledgerFile(): string {
    return join(this.folder, LEDGER_FILE);
  }

  /** Logs the values of a step: a line of `metrics.jsonl` and TensorBoard scalars. */
  log(step: number, values: Metrics): void {
    this.metrics.append({ step, ...values });
    this.events.scalars(step, values);
  }

  /** Adds a line to `samples.jsonl`: a picture's caption at this step. */
  logSample(step: number, sample: Readonly<Record<string, unknown>>): void {
    this.samples.append({ step, ...sample });
  }

  /** Saves a checkpoint, after all lines logged so far. @returns its folder */
  async save(contents: CheckpointContents): Promise<string> {
    this.metrics.sync();
    this.samples.sync();
    const { keepCheckpoints: keep, keepEvery } = this.config.train;
    return saveCheckpoint(this.folder, contents, { keep, keepEvery });
  }

  /** Closes the files and gives the folder back. */
  async close(): Promise<void> {
    this.metrics.close();
    this.samples.close();
    this.events.close();
    await this.lock.release();
  }
}

/** The checkpoint to go on from, if going on is asked for and allowed. */
async function resumable(folder: string, config: Config, fresh: boolean): Promise<Checkpoint | undefined> {
  const latest = await latestCheckpoint(folder);
  const file = join(folder, CONFIG_FILE);
  if (existsSync(file) && !(await readFile(file, 'utf8')).startsWith(RESOLVED_HEADER)) {
    throw new UserError(
      `${folder}: must be a run folder or a new one, got a ${CONFIG_FILE} of another kind (choose another --run)`,
    );
  }
  if (latest === undefined) return undefined;
  if (fresh) {
    throw new UserError(
      `--fresh: ${folder} must hold no checkpoint, got ${latest} (choose another --run, or delete it)`,
    );
  }
  if (existsSync(file)) {
    const changes = forbiddenChanges(await loadConfig(file), config);
    const advice = 'undo the change, or choose another --run';
    if (changes.length > 0)
      throw new UserError(`${file}: the run must resume as it began (${advice}), got\n${changes.join('\n')}`);
  }
  return loadCheckpoint(latest);
}

/** Every value of a configuration by its dotted path, as JSON. */
function leaves(value: unknown, path = ''): Map<string, string> {
  if (typeof value !== 'object' || value === null) return new Map([[path, JSON.stringify(value)]]);
  const below = Object.entries(value).flatMap(([key, child]: [string, unknown]) => [
    ...leaves(child, path === '' ? key : `${path}.${key}`),
  ]);
  return new Map(below);
}
