/**
 * `ledger.jsonl`: every sample that was left out, with its place and the reason, and the budget that ends a bad run; and every
 * step that was not applied, with the samples of its batch.
 */

import { readFile } from 'node:fs/promises';
import { AppendFile } from '../appendFile.js';
import { UserError } from '../errors.js';
import { fileError, hasCode, writeFileWhole } from '../files.js';

/** One sample that could not be used. */
export interface BadSample {
  /** Optimizer step that wanted it, if one did. */
  readonly step?: number;
  /** The set as `data.train` names it, where there are several. */
  readonly set?: string;
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

  private constructor(
    private readonly path: string,
    private readonly maxBadFraction: number,
    private readonly samples: BadSample[],
  ) {
    this.file = new AppendFile(path);
    this.known = new Set(samples.map(placeOf));
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
      if (hasCode(cause, 'ENOENT')) return '';
      throw fileError(path, cause);
    });
    const entries = text.split('\n').flatMap(parseLine);
    const kept = entries.filter(({ step }) => (step ?? 0) <= keepThroughStep);
    const lines = kept.map((entry) => `${JSON.stringify(entry)}\n`).join('');
    if (lines !== text) await writeFileWhole(path, lines); // also drops a line that a crash cut short
    return new BadSampleLedger(path, maxBadFraction, kept.filter(isBadSample));
  }

  /** Counts one bad sample and appends it to the file. One that its step met before counts once. */
  add(sample: BadSample): void {
    if (this.known.has(placeOf(sample))) return;
    this.known.add(placeOf(sample));
    this.samples.push(sample);
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
   * Ends the run when too many samples were bad: more than `allowedBad`. Given by the caller, in the order of the samples,
   * so that it does not depend on which images are decoded first whether a run ends.
   *
   * @param bad of the first `total` samples drawn, those that were bad
   * @param step that drew the last of them; 0 before the first step, whose samples come again in the steps
   * @throws UserError over the budget, with the counts, the worst shard and its commonest reason
   */
  requireFew(bad: number, total: number, step: number): void {
    if (bad <= allowedBad(total, this.maxBadFraction)) return;
    const counted = this.samples.filter((sample) => isCounted(sample, step));
    const [shard, inShard] = mostCommon(counted, shardOf);
    const [reason] = mostCommon(counted, (sample) => sample.reason);
    throw new UserError(
      `data: at most ${this.maxBadFraction} of the samples may be bad (data.maxBadFraction), got ${bad} of ${total}; ` +
        `worst shard ${shard} with ${inShard}, commonest reason "${reason}" (see ${this.path}, repair the data or raise the limit)`,
    );
  }
}

/**
 * Bad samples allowed among the first `total`: the fraction, three standard deviations of its count, and one. A set that is
 * within the limit must not end a run because two of its bad samples happen to come first.
 */
export function allowedBad(total: number, fraction: number): number {
  const expected = total * fraction;
  return fraction === 0 ? 0 : expected + 3 * Math.sqrt(expected) + 1;
}

/** What makes two records one: the step, and the sample it met. */
function placeOf(sample: BadSample): string {
  return JSON.stringify([sample.step, shardOf(sample), sample.row]);
}

/** A shard's name is its own in its set only. */
function shardOf({ set, shard }: BadSample): string {
  return set === undefined ? shard : `${set}/${shard}`;
}

function isCounted({ step = 0 }: BadSample, until: number): boolean {
  return until === 0 ? step === 0 : step > 0 && step <= until;
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
