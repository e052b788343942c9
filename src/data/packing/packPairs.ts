/** Packs a source's pairs into shards: read, compared and encoded several at a time, written in the source's order. */

import sharp from 'sharp';
import { BadImage } from '../images/images.js';
import type { Found, ImportProblem, Source, SourceItem } from '../importers/source.js';
import type { LeftOut, ShardManifest } from '../shards/manifest.js';
import type { ImageTextPair } from '../pairs.js';
import type { ShardLayout } from '../shards/shardLayout.js';
import { allColumns, manifestOf, writeShardFiles } from '../shards/shardWriter.js';
import { DigestSet, digestOf, type DedupBy } from './digests.js';
import { GrowingFile } from './growingFile.js';
import { inOrder } from './inOrder.js';
import { describeRecipe, recode, type Recipe } from './recode.js';
import type { PackState, Workplace } from './workplace.js';

/** How far a packing is. */
export interface PackProgress {
  /** Of the source, in `unit`. */
  readonly done: number;
  readonly total: number;
  readonly unit: 'bytes' | 'pairs';
  /** Pairs that are packed, those of an earlier process included. */
  readonly pairs: number;
}

/** How pairs are packed. */
export interface PackPairsOptions {
  readonly layout: ShardLayout;
  /** Pairs that are read, compared and encoded at the same time. */
  readonly workers: number;
  /** What is done to images; nothing if not given. */
  readonly recipe?: Recipe;
  /** Leaves out what came before. */
  readonly dedup?: DedupBy;
  /** Origin and licence of the data, kept in the manifest. */
  readonly about?: string;
  /** Called for every item of the source that is passed. */
  readonly onProgress?: (progress: PackProgress) => void;
  readonly onProblem?: (problem: ImportProblem) => void;
}

/** What was packed. */
export interface PackedPairs {
  readonly rows: number;
  readonly leftOut: LeftOut;
  /** Images whose bytes are not the source's. */
  readonly recoded: number;
}

/** An item of the source, and where it is. */
interface Placed {
  readonly item: SourceItem;
  readonly part: number;
  /** Items of the part up to this one. */
  readonly number: number;
  /** Of the whole source. */
  readonly passed: number;
}

/** What became of an item. */
interface Outcome {
  readonly placed: Placed;
  readonly found: Found;
  /** Of a pair that is to be compared. */
  readonly digest?: Uint8Array;
  readonly isDuplicate?: boolean;
  readonly isRecoded?: boolean;
}

/**
 * Packs what is left of a source into a workplace, up to the manifest.
 *
 * @throws UserError if the source has no pair, cannot be read, or there is no space; whole shards stay on record
 */
export async function packPairs(
  source: Source,
  work: Workplace,
  options: PackPairsOptions,
): Promise<PackedPairs> {
  const packing = await Packing.open(source, work, options);
  const threads = sharp.concurrency();
  sharp.concurrency(1); // several images at a time use the cores better than several threads at one image
  try {
    return await packing.run();
  } finally {
    sharp.concurrency(threads);
    await packing.close();
  }
}

/** One packing under way. */
class Packing {
  readonly #source: Source;
  readonly #work: Workplace;
  readonly #options: PackPairsOptions;
  readonly #total: number;
  #rows: number;
  #state: PackState;

  private constructor(
    source: Source,
    work: Workplace,
    options: PackPairsOptions,
    private readonly problems: GrowingFile,
    private readonly digests: GrowingFile,
    private readonly seen: DigestSet,
  ) {
    this.#source = source;
    this.#work = work;
    this.#options = options;
    this.#total = source.parts.reduce((sum, { size }) => sum + size, 0);
    this.#rows = work.shards.reduce((sum, { rows }) => sum + rows, 0);
    this.#state = work.state;
  }

  static async open(source: Source, work: Workplace, options: PackPairsOptions): Promise<Packing> {
    const { problemBytes, digestBytes } = work.state;
    const problems = await GrowingFile.open(work.problemsFile, problemBytes);
    const digests = await GrowingFile.open(work.digestsFile, digestBytes);
    const seen = await DigestSet.read(work.digestsFile, digestBytes);
    return new Packing(source, work, options, problems, digests, seen);
  }

  async run(): Promise<PackedPairs> {
    const { layout, recipe, about } = this.#options;
    const columns = allColumns(this.#source.columns);
    const written = this.#work.shards.length;
    for await (const shard of writeShardFiles(this.#work.shardsFolder, this.#pairs(), {
      ...layout,
      columns,
      written,
    }))
      await this.#work.record(shard, await this.#settled());
    const leftOut = leftOutOf(this.#state);
    const words = {
      ...(about !== undefined && { about }),
      ...(recipe &&
        this.#state.recoded > 0 && { recipe: `${this.#state.recoded} images: ${describeRecipe(recipe)}` }),
      ...(leftOut.problems + leftOut.duplicates > 0 && { leftOut }),
    };
    const manifest: ShardManifest = manifestOf(this.#work.shards, words);
    await this.#work.finish(manifest, await this.#settled());
    return { rows: manifest.rows, leftOut, recoded: this.#state.recoded };
  }

  async close(): Promise<void> {
    await this.problems.close();
    await this.digests.close();
  }

  /** The state behind the last pair that was taken, with all that belongs to it on disk. */
  async #settled(): Promise<PackState> {
    const [problemBytes, digestBytes] = [await this.problems.sync(), await this.digests.sync()];
    return { ...this.#state, problemBytes, digestBytes };
  }

  async *#pairs(): AsyncGenerator<ImageTextPair> {
    const { dedup, recipe, workers } = this.#options;
    const read = inOrder(this.#items(), (placed) => readItem(placed, dedup), workers);
    const compared = dedup ? this.#compare(read) : read;
    const outcomes = recipe ? inOrder(compared, (outcome) => encode(outcome, recipe), workers) : compared;
    for await (const outcome of outcomes) {
      await this.#pass(outcome);
      if (outcome.found.pair) yield outcome.found.pair;
    }
  }

  /** What the source has behind the state. */
  async *#items(): AsyncGenerator<Placed> {
    const { part: firstPart, item: firstItem } = this.#work.state;
    let before = 0;
    for (const [part, content] of this.#source.parts.entries()) {
      let number = 0;
      if (part >= firstPart) {
        for await (const item of content.items()) {
          number += 1;
          if (part > firstPart || number > firstItem)
            yield { item, part, number, passed: before + item.passed };
        }
      }
      before += content.size;
    }
  }

  async *#compare(outcomes: AsyncIterable<Outcome>): AsyncGenerator<Outcome> {
    for await (const outcome of outcomes) {
      const { placed, found, digest } = outcome;
      if (digest === undefined || this.seen.add(digest)) yield outcome;
      else yield { placed, found: { problems: found.problems ?? [] }, isDuplicate: true };
    }
  }

  /** Counts and tells what became of an item. */
  async #pass({ placed, found, digest, isDuplicate, isRecoded }: Outcome): Promise<void> {
    const { duplicates, recoded } = this.#state;
    const reasons: Record<string, number> = { ...this.#state.reasons };
    for (const problem of found.problems ?? []) {
      reasons[problem.reason] = (reasons[problem.reason] ?? 0) + 1;
      await this.problems.add(Buffer.from(`${JSON.stringify(problem)}\n`));
      this.#options.onProblem?.(problem);
    }
    if (digest) await this.digests.add(digest);
    if (found.pair) this.#rows += 1;
    this.#state = {
      ...this.#state,
      part: placed.part,
      item: placed.number,
      duplicates: duplicates + (isDuplicate === true ? 1 : 0),
      recoded: recoded + (isRecoded === true ? 1 : 0),
      reasons,
    };
    const { unit } = this.#source;
    this.#options.onProgress?.({ done: placed.passed, total: this.#total, unit, pairs: this.#rows });
  }
}

async function readItem(placed: Placed, dedup: DedupBy | undefined): Promise<Outcome> {
  const found = await placed.item.load();
  return { placed, found, ...(dedup && found.pair && { digest: digestOf(found.pair, dedup) }) };
}

async function encode(outcome: Outcome, recipe: Recipe): Promise<Outcome> {
  const { pair, problems = [] } = outcome.found;
  if (!pair) return outcome;
  try {
    const image = await recode(pair.image, recipe);
    if (image === pair.image) return outcome;
    return { ...outcome, found: { pair: { ...pair, image }, problems }, isRecoded: true };
  } catch (error) {
    if (!(error instanceof BadImage)) throw error;
    const problem = { where: pair.id, reason: 'the image cannot be decoded', detail: error.message };
    return { ...outcome, found: { problems: [...problems, problem] } };
  }
}

/** What packing left out up to a state. */
export function leftOutOf({ duplicates, reasons }: PackState): LeftOut {
  return { duplicates, problems: Object.values(reasons).reduce((sum, count) => sum + count, 0), reasons };
}
