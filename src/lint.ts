/** `minigpt4 inspect --lint`: looks at every pair of a set as training would, and finds what is bad before a run does. */
import { stat } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import pLimit from 'p-limit';

import { cleanCaption } from './data/captions.js';
import { Distribution, SeenTexts } from './data/counts.js';
import { BadImage, decodeImage } from './data/images/images.js';
import type { BadSample } from './data/ledger.js';
import type { ImageTextPair } from './data/pairs.js';
import { isOfDisk } from './data/bytes/fileBytes.js';
import { ServerError } from './data/bytes/remoteRequest.js';
import { ShardSet } from './data/shards/shards.js';
import { UserError } from './errors.js';
import { writeWhole } from './files.js';
import { untilAborted } from './untilAborted.js';

/** How a set is looked at. */
export interface LintOptions {
  /** Images decoded at the same time; the machine's cores if not given. */
  readonly workers?: number;
  /** As data.captions: `clean` (the default) or `verbatim`. */
  readonly captions?: 'clean' | 'verbatim';
  /** A file that gets every bad row as a line of JSON, as ledger.jsonl has them; it appears when all rows are done. */
  readonly report?: string;
  /** Ends the work, and leaves nothing of the report. */
  readonly signal?: AbortSignal;
  /** Called after each row, in order, with the rows done and those of them that are bad. */
  readonly onProgress?: (done: number, total: number, bad: number) => void;
}

/** What was found. */
export interface LintReport {
  readonly rows: number;
  readonly bad: number;
  /** Bad rows that could not even be read: a run that draws one stops. */
  readonly unreadable: number;
  /** Bad rows by reason, the most frequent first. */
  readonly byReason: readonly (readonly [reason: string, rows: number])[];
  /** The shard with most bad rows. */
  readonly worstShard: { readonly shard: string; readonly bad: number } | undefined;
  /** The first bad rows, twenty at most. */
  readonly first: readonly BadSample[];
  /** Of the good rows: percentiles at `PARTS`. */
  readonly sizes: Readonly<Record<Measure, readonly number[]>>;
  /** Rows whose id came before, and the first such ids. */
  readonly duplicateIds: { readonly rows: number; readonly first: readonly string[] };
}

/** What is measured of a good row. */
export type Measure = (typeof MEASURES)[number];

const MEASURES = ['width', 'height', 'image bytes', 'caption words'] as const;
/** The parts of the rows at which `LintReport.sizes` has its values. */
export const PARTS: readonly number[] = [0, 0.01, 0.25, 0.5, 0.75, 0.99, 1];
/** Bad rows, ids and reasons that are named one by one, at most. */
export const LISTED = 20;
const AHEAD = 4; // rows in work for each worker, so that a slow image holds up no other

type OnBad = (bad: BadSample) => Promise<void>;

/** What one row is. */
type Finding =
  | { readonly id: string; readonly sizes: Readonly<Record<Measure, number>> }
  /** Without an id: it could not be read. */
  | { readonly id?: string; readonly reason: string };

/**
 * Reads every row of a set, decodes its image and cleans its caption. Memory holds some rows a worker and 8 to 16 bytes an id.
 *
 * @param place a folder of shards, a shard, or an address
 * @throws UserError if the set cannot be opened, its disk or server fails, or the report cannot be written; the signal's reason
 */
export async function lintShards(place: string, options: LintOptions = {}): Promise<LintReport> {
  const { report, signal } = options;
  if (report !== undefined) await refuseFolder(report);
  const set = await openSet(place, signal);
  try {
    const lint = (onBad: OnBad) => untilAborted(lintSet(set, options, onBad), signal);
    if (report === undefined) return await lint(() => Promise.resolve());
    let found: LintReport | undefined;
    await writeWhole(report, async (handle) => {
      found = await lint((bad) => handle.appendFile(`${JSON.stringify(bad)}\n`));
    });
    if (found === undefined) throw new Error('lint: the report was not written');
    return found;
  } finally {
    set.close();
  }
}

/**
 * Fails where more of the rows is bad than `maxBadFraction`, or a row cannot be read. A run judges the share as it goes, with
 * some slack for the few rows at its beginning; this is the whole set.
 *
 * @param maxBadFraction as data.maxBadFraction
 */
export function checkLint({ rows, bad, unreadable }: LintReport, maxBadFraction: number): void {
  if (unreadable > 0)
    throw new UserError(
      `inspect: ${unreadable} rows cannot be read, a run would stop at them (pack the data again)`,
    );
  if (bad === 0 || bad / rows <= maxBadFraction) return; // 100 · 0.29 is below 29, but 29 / 100 is 0.29
  throw new UserError(
    `inspect: at most ${maxBadFraction} of the rows may be bad, got ${bad} of ${rows} (repair the data, or raise data.maxBadFraction)`,
  );
}

/** Said before everything is decoded: a rename onto a folder fails at the very end. */
async function refuseFolder(report: string): Promise<void> {
  const found = await stat(report).catch(() => undefined); // mostly it is not there yet
  if (found?.isDirectory() === true)
    throw new UserError(`${report}: is a folder, not a file (name a file for the bad rows)`);
}

/** Opens a set, or throws the signal's reason; a set that comes after it is closed. */
async function openSet(place: string, signal: AbortSignal | undefined): Promise<ShardSet> {
  const opening = ShardSet.open(place);
  try {
    return await untilAborted(opening, signal);
  } catch (error) {
    void opening.then(
      (set) => set.close(),
      () => undefined, // nobody waits for it
    );
    throw error;
  }
}

async function lintSet(
  set: ShardSet,
  { workers = availableParallelism(), captions = 'clean', signal, onProgress }: LintOptions,
  onBad: OnBad,
): Promise<LintReport> {
  const tally = new Tally(set.rows);
  const limit = pLimit(workers);
  const look = (row: number) => limit(() => findingOf(set, row, captions));
  const ahead: Promise<Finding>[] = [];
  for (let row = 0; row < set.rows; row++) {
    signal?.throwIfAborted();
    for (let next = row + ahead.length; ahead.length < workers * AHEAD && next < set.rows; next++) {
      const looking = look(next);
      looking.catch(() => undefined); // it is awaited in its turn
      ahead.push(looking);
    }
    const finding = await ahead.shift();
    if (finding === undefined) throw new Error('lint: a row was not looked at');
    const bad = tally.add(row, finding, () => set.location(row));
    if (bad !== undefined) await onBad(bad);
    onProgress?.(row + 1, set.rows, tally.bad);
  }
  return tally.report();
}

async function findingOf(set: ShardSet, row: number, captions: 'clean' | 'verbatim'): Promise<Finding> {
  let pair: ImageTextPair;
  try {
    pair = await set.read(row);
  } catch (error) {
    const isOfData = error instanceof UserError && !(error instanceof ServerError) && !isOfDisk(error);
    if (!isOfData) throw error; // the rows are not to blame
    return { reason: error.message };
  }
  const { id, image } = pair;
  const caption = (captions === 'clean' ? cleanCaption(pair.caption) : pair.caption).trim();
  if (caption === '') return { id, reason: 'caption is empty' }; // as src/train/samples.ts says it
  try {
    const { width, height } = await decodeImage(image);
    const words = caption.split(/\s+/).length;
    return { id, sizes: { width, height, 'image bytes': image.length, 'caption words': words } };
  } catch (error) {
    if (error instanceof BadImage) return { id, reason: error.message };
    throw error;
  }
}

/** Adds findings up. */
class Tally {
  bad = 0;
  private unreadable = 0;
  private readonly byReason = new Map<string, number>();
  private readonly byShard = new Map<string, number>();
  private readonly first: BadSample[] = [];
  private readonly sizes = MEASURES.map((measure) => [measure, new Distribution()] as const);
  private readonly seen: SeenTexts;
  private readonly duplicates: string[] = [];
  private duplicateRows = 0;

  constructor(private readonly rows: number) {
    this.seen = new SeenTexts(rows);
  }

  /** Counts a row. @returns what the ledger would say of it, if it is bad */
  add(row: number, finding: Finding, placeOf: () => { shard: string; row: number }): BadSample | undefined {
    if (finding.id !== undefined) this.addId(finding.id);
    if ('sizes' in finding) {
      for (const [measure, distribution] of this.sizes) distribution.add(finding.sizes[measure]);
      return undefined;
    }
    const { id, reason } = finding;
    const bad = { ...placeOf(), id: id ?? String(row), reason };
    this.bad += 1;
    if (id === undefined) this.unreadable += 1;
    increment(this.byReason, reason);
    increment(this.byShard, bad.shard);
    if (this.first.length < LISTED) this.first.push(bad);
    return bad;
  }

  private addId(id: string): void {
    if (!this.seen.add(id)) return;
    this.duplicateRows += 1;
    if (this.duplicates.length < LISTED) this.duplicates.push(id);
  }

  report(): LintReport {
    const [worst] = mostFirst(this.byShard);
    const sizes = this.sizes.map(([measure, distribution]) => [measure, distribution.percentiles(PARTS)]);
    return {
      rows: this.rows,
      bad: this.bad,
      unreadable: this.unreadable,
      byReason: mostFirst(this.byReason),
      worstShard: worst && { shard: worst[0], bad: worst[1] },
      first: this.first,
      sizes: Object.fromEntries(sizes) as Record<Measure, number[]>, // of all measures
      duplicateIds: { rows: this.duplicateRows, first: this.duplicates },
    };
  }
}

function increment(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

function mostFirst(counts: ReadonlyMap<string, number>): [string, number][] {
  return [...counts].sort(([, a], [, b]) => b - a);
}
