/** `minigpt4 inspect --lint`: looks at every pair of a set as training would, and says what is bad before a run does. */
import { availableParallelism } from 'node:os';
import pLimit from 'p-limit';

import { cleanCaption } from './data/captions.js';
import { Distribution, SeenTexts } from './data/counts.js';
import { BadImage, decodeImage } from './data/images/images.js';
import type { BadSample } from './data/ledger.js';
import type { ImageTextPair } from './data/pairs.js';
import { isAddress } from './data/bytes/remoteFile.js';
import { ShardSet } from './data/shards/shards.js';
import { UserError } from './errors.js';
import { writeWhole } from './files.js';

/** How a set is looked at. */
export interface LintOptions {
  /** Images decoded at the same time; the machine's cores if not given. */
  readonly workers?: number;
  /** As data.captions: `clean` (the default) or `verbatim`. */
  readonly captions?: 'clean' | 'verbatim';
  /** A file that gets every bad row as a line of JSON, as ledger.jsonl has them; it appears when all rows are done. */
  readonly report?: string;
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
const LISTED = 20;
const AHEAD = 4; // rows in work for each worker, so that a slow image holds up no other

/** What one row is. */
type Finding = { readonly id: string } & (
  | { readonly sizes: Readonly<Record<Measure, number>> }
  | { readonly reason: string; readonly unread: boolean }
);

/**
 * Reads every row of a set, decodes its image and cleans its caption. Memory holds some rows a worker and 8 to 16 bytes an id.
 *
 * @param place a folder of shards, a shard, or an address
 * @throws UserError if the set cannot be opened, its server fails, or the report cannot be written
 */
export async function lintShards(place: string, options: LintOptions = {}): Promise<LintReport> {
  const set = await ShardSet.open(place);
  const { report } = options;
  try {
    if (report === undefined) return await lintSet(set, place, options, () => Promise.resolve());
    let found: LintReport | undefined;
    await writeWhole(report, async (handle) => {
      found = await lintSet(set, place, options, async (bad) => {
        await handle.write(`${JSON.stringify(bad)}\n`);
      });
    });
    if (found === undefined) throw new Error('lint: the report was not written');
    return found;
  } finally {
    set.close();
  }
}

/** Fails if a run with this set would stop. @param maxBadFraction as data.maxBadFraction */
export function checkLint({ rows, bad, unreadable }: LintReport, maxBadFraction: number): void {
  if (unreadable > 0)
    throw new UserError(
      `inspect: ${unreadable} rows cannot be read, a run would stop at them (pack the data again)`,
    );
  if (bad <= Math.ceil(rows * maxBadFraction)) return;
  throw new UserError(
    `inspect: at most ${maxBadFraction} of the rows may be bad, got ${bad} of ${rows} (repair the data, or raise data.maxBadFraction)`,
  );
}

async function lintSet(
  set: ShardSet,
  place: string,
  { workers = availableParallelism(), captions = 'clean', onProgress }: LintOptions,
  onBad: (bad: BadSample) => Promise<void>,
): Promise<LintReport> {
  const tally = new Tally(set.rows);
  const limit = pLimit(workers);
  const look = (row: number) => limit(() => findingOf(set, row, captions, isAddress(place)));
  const ahead: Promise<Finding>[] = [];
  for (let row = 0; row < set.rows; row++) {
    for (let next = row + ahead.length; ahead.length < workers * AHEAD && next < set.rows; next++) {
      const looking = look(next);
      looking.catch(() => undefined); // it is awaited in its turn
      ahead.push(looking);
    }
    const finding = await ahead.shift();
    if (finding === undefined) throw new Error('lint: a row was not looked at');
    const bad = tally.add(finding, () => set.location(row));
    if (bad !== undefined) await onBad(bad);
    onProgress?.(row + 1, set.rows, tally.bad);
  }
  return tally.report();
}

async function findingOf(
  set: ShardSet,
  row: number,
  captions: 'clean' | 'verbatim',
  remote: boolean,
): Promise<Finding> {
  let pair: ImageTextPair;
  try {
    pair = await set.read(row);
  } catch (error) {
    if (remote || !(error instanceof UserError)) throw error; // of a server that fails, the rows are not to blame
    return { id: String(row), reason: error.message, unread: true };
  }
  const { id, image } = pair;
  const caption = (captions === 'clean' ? cleanCaption(pair.caption) : pair.caption).trim();
  if (caption === '') return { id, reason: 'caption is empty', unread: false }; // as src/train/samples.ts says it
  try {
    const { width, height } = await decodeImage(image);
    const words = caption.split(/\s+/).length;
    return { id, sizes: { width, height, 'image bytes': image.length, 'caption words': words } };
  } catch (error) {
    if (error instanceof BadImage) return { id, reason: error.message, unread: false };
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
  add(finding: Finding, placeOf: () => { shard: string; row: number }): BadSample | undefined {
    if (this.seen.add(finding.id)) {
      this.duplicateRows += 1;
      if (this.duplicates.length < LISTED) this.duplicates.push(finding.id);
    }
    if ('sizes' in finding) {
      for (const [measure, distribution] of this.sizes) distribution.add(finding.sizes[measure]);
      return undefined;
    }
    const { id, reason, unread } = finding;
    const bad = { ...placeOf(), id, reason };
    this.bad += 1;
    if (unread) this.unreadable += 1;
    increment(this.byReason, reason);
    increment(this.byShard, bad.shard);
    if (this.first.length < LISTED) this.first.push(bad);
    return bad;
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

/** The report in lines of text. @param maxBadFraction that a run would allow, to compare with */
export function lintLines(report: LintReport, maxBadFraction: number): string[] {
  const { rows, bad, byReason, worstShard, first, sizes, duplicateIds } = report;
  const lines = [
    `${rows} rows, ${bad} bad: ${percent(bad / rows)} (data.maxBadFraction allows ${percent(maxBadFraction)})`,
    ...byReason.slice(0, LISTED).map(([reason, count]) => `  ${count} ${reason}`),
  ];
  if (byReason.length > LISTED) lines.push(`  and ${byReason.length - LISTED} reasons more`);
  if (worstShard) lines.push(`worst shard: ${worstShard.shard} with ${worstShard.bad}`);
  if (first.length > 0) {
    lines.push(`bad rows${bad > first.length ? `, the first ${first.length}` : ''}:`);
    lines.push(...first.map(({ shard, row, id, reason }) => `  ${shard} row ${row}, ${id}: ${reason}`));
  }
  if (bad < rows) {
    const header = ['good rows', ...PARTS.map((part) => percentileName(part))];
    const body = Object.entries(sizes).map(([measure, values]) => [measure, ...values.map(String)]);
    lines.push(...alignRight([header, ...body]));
  }
  lines.push(
    duplicateIds.rows === 0
      ? 'no id comes twice'
      : `${duplicateIds.rows} rows have an id that came before: ${duplicateIds.first.slice(0, 5).join(', ')}${duplicateIds.rows > 5 ? ' …' : ''}`,
  );
  return lines;
}

function percent(part: number): string {
  return `${Number((part * 100).toPrecision(2))} %`;
}

function percentileName(part: number): string {
  if (part === 0) return 'least';
  if (part === 1) return 'most';
  return part === 0.5 ? 'median' : `${part * 100} %`;
}

function alignRight(table: readonly (readonly string[])[]): string[] {
  const widths = (table[0] ?? []).map((_, i) => Math.max(...table.map((cells) => cells[i]?.length ?? 0)));
  return table.map((cells) =>
    cells
      .map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
      .join('  '),
  );
}
