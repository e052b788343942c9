/** `minigpt4 inspect --shuffle`: how well each order mixes the shards of a set, in lines of text. */
import type { Order } from './data/order/order.js';
import { shuffleQuality } from './data/order/shuffleQuality.js';
import { ShardSet } from './data/shards/shards.js';

/** What is measured. */
export interface ShuffleOptions {
  /** Rows that order `local` mixes with each other. */
  readonly window: number;
  readonly batchSize: number;
}

const SEED = 0; // quality is a property of the order; another seed moves its last digit

/**
 * Measures the orders of `data.order` on a set, from its numbers of rows alone: no row is read.
 *
 * @param place a folder of shards, a shard, or an address
 * @throws UserError if the set cannot be opened
 */
export async function shuffleLines(place: string, { window, batchSize }: ShuffleOptions): Promise<string[]> {
  const set = await ShardSet.open(place);
  const { shardRows, rows } = set;
  set.close();
  const kinds: Order['kind'][] = ['shuffle', 'local', 'replacement'];
  const measured = kinds.map((kind) => shuffleQuality({ kind, window }, SEED, shardRows, batchSize));
  const { samples = 0, groups = 0, neighbourEntropy: full = 0 } = measured[0] ?? {};
  const areTooFew = groups === 1 && shardRows.length > 1; // an entropy of 0 would say that nothing is mixed
  const lines = kinds.map((kind, i) => {
    const { neighbourEntropy = 0, shardsPerBatch = 0, drift = 0 } = measured[i] ?? {};
    const share = full > 0 ? `${((100 * neighbourEntropy) / full).toFixed(1)} %` : '–';
    const bits = areTooFew ? '–' : neighbourEntropy.toFixed(3);
    const cells = [bits, share, shardsPerBatch.toFixed(2), drift.toFixed(3)];
    const name = kind === 'local' ? `local, window ${window}` : kind;
    return `  ${name.padEnd(22)}${cells.map((cell) => cell.padStart(15)).join('')}`;
  });
  const heads = ['entropy, bits', 'of a shuffle', 'shards a batch', 'drift'];
  const part =
    groups < shardRows.length ? `group of neighbouring shards, of ${groups} such groups,` : 'shard';
  const entropy = areTooFew
    ? 'too few rows to tell shards apart'
    : `of the ${part} that a sample is from, when that of the sample before is known`;
  return [
    `${rows} rows in ${shardRows.length} shards; first ${samples} samples, batches of ${batchSize}`,
    `  ${'data.order'.padEnd(22)}${heads.map((head) => head.padStart(15)).join('')}`,
    ...lines,
    `entropy: ${entropy}; drift: rank correlation of place and row`,
  ];
}
