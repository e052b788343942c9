/**
 * `ledger.jsonl`: every sample that was left out, with its place and the reason, and the budget that ends a bad run; and every
 * step that was not applied, with the samples of its batch.
 */

import { readFile } from 'node:fs/promises';
import { AppendFile } from '../appendFile.js';
import { UserError } from '../errors.js';
import { fileError, writeFileWhole } from '../files.js';

/** One sample that could not be used. */
export interface BadSample {
  /** Optimizer step that wanted it, if one did. */
  readonly step?: number;
  readonly shard: string;
  /** Row within the shard. */
  readonly row: number;
  readonly id: string;
  /** Few words, such as `no bytes` or `caption is empty`. */
  readonly reason: string;
}

/** A step that was not applied, with the samples of its batch. */
export interface SkippedStep {
  readonly step: number;
  /** Few words, such as `loss NaN`. */
  readonly reason: string;
  readonly samples: readonly Pick<BadSample, 'shard' | 'row' | 'id'>[];
}

/** How a ledger is opened. */
export interface LedgerOptions {
  /** Share of the samples, 0 to 1, that may be bad. */
  readonly maxBadFraction: number;
  /** On resume: the last step that is kept; what later steps recorded is cut, as they run again. */
  readonly keepThroughStep?: number;
}

/** Counts bad samples and appends them to a file of JSON lines, one sample a line. */
export class BadSampleLedger {
  private readonly file: AppendFile;
  private readonly known: Set<string>;
  /** Of the samples, those that a step wanted. */
  private inSteps: number;

  private constructor(
    private readonly path: string,
    private readonly maxBadFraction: number,
    private readonly samples: BadSample[],
  ) {
    this.file = new AppendFile(path);
    this.known = new Set(samples.map(placeOf));
    this.inSteps = samples.filter(isInStep).length;
  }

  /**
   * Opens a ledger; what it holds already counts on.
   *
   * @throws UserError if the file cannot be read or written
   */
  static async open(
    path: string,
    { maxBadFraction, keepThroughStep = Infinity }: LedgerOptions,
  ): Promise<BadSampleLedger> {
    const text = await readFile(path, 'utf8').catch((cause: unknown) => {
      if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return '';
      throw fileError(path, cause);
    });
    const entries = text.split('\n').flatMap(parseLine);
    const kept = entries.filter(({ step }) => (step ?? 0) <= keepThroughStep);
    const lines = kept.map((entry) => `${JSON.stringify(entry)}\n`).join('');
    if (lines !== text) await writeFileWhole(path, lines); // also drops a line that a crash cut short
    return new BadSampleLedger(path, maxBadFraction, kept.filter(isBadSample));
  }

  /** Samples left out so far. */
  get count(): number {
    return this.samples.length;
  }

  /** Samples left out so far, by reason. */
  get countsByReason(): ReadonlyMap<string, number> {
    return countBy(this.samples, ({ reason }) => reason);
  }

  /** Counts one bad sample and appends it to the file. One that its step met before counts once. */
  add(sample: BadSample): void {
    if (this.known.has(placeOf(sample))) return;
    this.known.add(placeOf(sample));
    this.samples.push(sample);
    if (isInStep(sample)) this.inSteps += 1;
    this.append(sample);
  }

  /** Appends a step that was not applied; it does not count as bad samples. */
  addSkipped(step: SkippedStep): void {
    this.append(step);
  }

  private append(entry: BadSample | SkippedStep): void {
    this.file.write(Buffer.from(`${JSON.stringify(entry)}\n`));
  }

  /** Puts what was appended on disk. @throws UserError if there is no space */
  sync(): void {
    this.file.sync();
  }

  /** Closes the file. */
  close(): void {
    this.file.close();
  }

  /**
   * Ends the run when too many samples were bad. The allowance is rounded up, so that one bad sample among the first few
   * does not. What the run looks at before its first step (step 0: statistics, preflight) has a budget of its own, as it
   * begins with the same samples.
   *
   * @param good good samples before this one
   * @param step that wants the sample
   * @throws UserError over the budget, with the counts, the worst shard and its commonest reason
   */
  check(good: number, step: number): void {
    const bad = step > 0 ? this.inSteps : this.samples.length - this.inSteps;
    const total = good + bad;
    if (bad <= Math.ceil(total * this.maxBadFraction)) return;
    const counted = this.samples.filter((sample) => isInStep(sample) === step > 0);
    const [shard, inShard] = mostCommon(counted, (sample) => sample.shard);
    const [reason] = mostCommon(counted, (sample) => sample.reason);
    throw new UserError(
      `data: at most ${this.maxBadFraction} of the samples may be bad (data.maxBadFraction), got ${bad} of ${total}; ` +
        `worst shard ${shard} with ${inShard}, commonest reason "${reason}" (see ${this.path}, repair the data or raise the limit)`,
    );
  }
}

/** What makes two records one: the step, and the sample it met. */
function placeOf({ step, shard, row }: BadSample): string {
  return JSON.stringify([step, shard, row]);
}

/** Whether a step wanted it, and not what comes before the first one. */
function isInStep({ step = 0 }: BadSample): boolean {
  return step > 0;
}

function parseLine(line: string): (BadSample | SkippedStep)[] {
  try {
    const value: unknown = JSON.parse(line);
    return isBadSample(value) || isSkippedStep(value) ? [value] : [];
  } catch {
    return []; // an empty line, or one that a crash cut short: the file is our own, appended line by line
  }
}

function isBadSample(value: unknown): value is BadSample {
  const { step = 0, row, shard, id, reason } = fieldsOf(value);
  return areTexts(shard, id, reason) && typeof row === 'number' && typeof step === 'number';
}

function isSkippedStep(value: unknown): value is SkippedStep {
  const { step, reason, samples } = fieldsOf(value);
  return typeof step === 'number' && areTexts(reason) && Array.isArray(samples);
}

function fieldsOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? { ...value } : {};
}

function areTexts(...values: readonly unknown[]): boolean {
  return values.every((value) => typeof value === 'string');
}

function countBy(samples: readonly BadSample[], name: (sample: BadSample) => string): Map<string, number> {
  const counts = new Map<string, number>();
  for (const sample of samples) counts.set(name(sample), (counts.get(name(sample)) ?? 0) + 1);
  return counts;
}

function mostCommon(samples: readonly BadSample[], name: (sample: BadSample) => string): [string, number] {
  const sorted = [...countBy(samples, name)].sort(([, a], [, b]) => b - a);
  return sorted[0] ?? ['none', 0];
}
