/** The held-out pairs with all that an evaluation needs of them, and the losses of any pairing of images and texts. */
import type { Config } from '../config/schema.js';
import { shownPlace } from '../data/bytes/remoteFile.js';
import { cleanCaption } from '../data/captions.js';
import type { ImageTextPair } from '../data/pairs.js';
import { ShardSet } from '../data/shards/shards.js';
import { UserError } from '../errors.js';
import { batchesOfOneKey } from '../model/language/batches.js';
import type { LanguageModel } from '../model/language/languageModel.js';
import type { Projection } from '../model/projection.js';
import type { Prompter } from '../model/conversation/prompt.js';
import type { Example } from '../model/language/sequence.js';
import { IMAGES_AHEAD, readableFeatures, type FeatureReader } from '../train/features.js';
import { prefetch } from '../train/prefetch.js';
import { microBatch } from '../train/samples.js';

/** A held-out pair, read, encoded and tokenized. */
export interface HeldOutItem {
  readonly pair: ImageTextPair;
  /** The text as it is trained on: cleaned or verbatim. */
  readonly caption: string;
  /** float32[Q, C] */
  readonly features: Float32Array;
  readonly example: Example;
}

/** Held-out items in shard order; unreadable ones are counted. */
export interface HeldOutSet {
  readonly items: readonly HeldOutItem[];
  readonly skipped: number;
}

/**
 * Reads and encodes the held-out pairs of a configuration. Instruction questions are dealt round robin.
 *
 * @throws UserError if the configuration names none, or fewer than two are readable
 */
export async function readHeldOut(
  config: Config,
  features: FeatureReader,
  prompter: Prompter,
  onProgress?: (done: number, total: number) => void,
): Promise<HeldOutSet> {
  const { heldOut, captions } = config.data;
  if (!heldOut)
    throw new UserError('evaluate: data.heldOut.shards must name the pairs to evaluate on, got nothing');
  const shards = await ShardSet.open(heldOut.shards);
  const rows = Math.min(shards.rows, heldOut.maxRows ?? Infinity);
  const questions = config.train.stage === 'finetune' ? config.prompt.questions : [];
  const items: HeldOutItem[] = [];
  let done = 0;
  const read = prefetch(0, rows, IMAGES_AHEAD, async (row) => {
    const pair = await shards.read(row);
    const caption = captions === 'clean' ? cleanCaption(pair.caption) : pair.caption;
    return { pair, caption, encoded: caption ? await readableFeatures(features, pair) : undefined };
  });
  for await (const { pair, caption, encoded } of read) {
    const question = questions.length ? questions[items.length % questions.length] : undefined;
    if (encoded)
      items.push({ pair, caption, features: encoded, example: prompter.example(caption, question) });
    onProgress?.(++done, rows);
  }
  shards.close();
  if (items.length < 2)
    throw new UserError(
      `evaluate: ${shownPlace(heldOut.shards)} must hold at least two readable pairs, got ${items.length} of ${rows}`,
    );
  return { items, skipped: rows - items.length };
}

/**
 * Cross-entropy of every target token of each item, read with another item's image.
 *
 * @param imageOf number of the item whose image item `i` is shown
 * @returns nats per target token, one array per item
 */
export async function tokenLosses(
  model: LanguageModel,
  projection: Projection,
  items: readonly HeldOutItem[],
  imageOf: (item: number) => number,
  { batchSize, shape }: { readonly batchSize: number; readonly shape: readonly [number, number] },
): Promise<Float32Array[]> {
  const losses: Float32Array[] = [];
  // Items that are asked the same are together: what stands before their images is then read from a cache.
  const prefixOf = ({ example }: HeldOutItem): string => JSON.stringify(example.prefix);
  for (const members of batchesOfOneKey(items, prefixOf, batchSize)) {
    const samples = members.map(({ item, index }) => ({
      example: item.example,
      features: items[imageOf(index)]?.features ?? new Float32Array(),
    }));
    const batch = microBatch(samples, shape);
    const flat = await model.losses(projection, batch);
    let from = 0;
    batch.sequence.targetCounts.forEach((count, member) => {
      const { index = 0 } = members[member] ?? {};
      losses[index] = flat.slice(from, (from += count));
    });
  }
  return losses;
}
