/** `ledger.jsonl`: every sample that was left out, with its place and the reason, and the budget that ends a bad run. */

import { appendFile, readFile } from 'node:fs/promises';
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

/** How a ledger is opened. */
export interface LedgerOptions {
  /** Share of the samples, 0 to 1, that may be bad. */
  readonly maxBadFraction: number;
  /** On resume: the last step that is kept; what later steps recorded is cut, as they run again. */
  readonly keepThroughStep?: number;
}

/** Counts bad samples and appends them to a file of JSON lines, one sample a line. */
export class BadSampleLedger {
  private appended: Promise<void> = Promise.resolve();
  private readonly known: Set<string>;

  private constructor(
    private readonly path: string,
    private readonly maxBadFraction: number,
    private readonly samples: BadSample[],
  ) {
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
      if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return '';
      throw fileError(path, cause);
    });
    const samples = text.split('\n').flatMap(parseLine);
    const kept = samples.filter(({ step }) => (step ?? 0) <= keepThroughStep);
    const lines = kept.map((sample) => `${JSON.stringify(sample)}\n`).join('');
    if (lines !== text) await writeFileWhole(path, lines); // also drops a line that a crash cut short
    return new BadSampleLedger(path, maxBadFraction, kept);
  }

  /** Samples left out so far. */
  get count(): number {
    return this.samples.length;
  }

  /** Samples left out so far, by reason. */
  get countsByReason(): ReadonlyMap<string, number> {
    return countBy(this.samples, ({ reason }) => reason);
  }

  /** Counts one bad sample and appends it to the file; resolves when it is written. One that its step met before counts once. */
  async add(sample: BadSample): Promise<void> {
    if (this.known.has(placeOf(sample))) return;
    this.known.add(placeOf(sample));
    this.samples.push(sample);
    const line = `${JSON.stringify(sample)}\n`;
    // One after the other, whoever calls: lines never mix. An earlier failure was its own caller's to see.
    this.appended = this.appended.catch(() => undefined).then(() => appendFile(this.path, line));
    await this.appended.catch((cause: unknown) => {
      throw fileError(this.path, cause);
    });
  }

  /**
   * Ends the run when too many samples were bad. The allowance is rounded up, so that one bad sample among the first few
   * does not.
   *
   * @param total samples drawn so far, good and bad
   * @throws UserError over the budget, with the counts, the worst shard and its commonest reason
   */
  check(total: number): void {
    const allowed = Math.ceil(total * this.maxBadFraction);
    if (this.count <= allowed) return;
    const [shard, inShard] = mostCommon(this.samples, (sample) => sample.shard);
    const [reason] = mostCommon(this.samples, (sample) => sample.reason);
    throw new UserError(
      `data: at most ${this.maxBadFraction} of the samples may be bad (data.maxBadFraction), got ${this.count} of ${total}; ` +
        `worst shard ${shard} with ${inShard}, commonest reason "${reason}" (see ${this.path}, repair the data or raise the limit)`,
    );
  }
}

/** What makes two records one: the step, and the sample it met. */
function placeOf({ step, shard, row }: BadSample): string {
  return JSON.stringify([step, shard, row]);
}

function parseLine(line: string): BadSample[] {
  try {
    const value: unknown = JSON.parse(line);
    return isBadSample(value) ? [value] : [];
  } catch {
    return []; // an empty line, or one that a crash cut short: the file is our own, appended line by line
  }
}

function isBadSample(value: unknown): value is BadSample {
  if (typeof value !== 'object' || value === null) return false;
  if (!('shard' in value && 'row' in value && 'id' in value && 'reason' in value)) return false;
  const { shard, row, id, reason } = value;
  const step = 'step' in value ? value.step : 0;
  return (
    [shard, id, reason].every((text) => typeof text === 'string') &&
    typeof row === 'number' &&
    typeof step === 'number'
  );
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
