/** What the training mixture came to: how many samples each set gave, against what was asked, and how often it was read. */
import type { Config } from '../config/schema.js';
import { shownPlace } from '../data/bytes/remoteFile.js';
import { realisedMixture } from '../data/order/mixture.js';

/**
 * The samples drawn from each set after some steps, a line each. Bad samples are replaced within their set, so they change
 * nothing here.
 *
 * @param rows of each set of `data.train`
 * @param steps optimizer steps, from the first
 */
export function mixtureReport(
  { data, train, run }: Config,
  rows: readonly number[],
  steps: number,
): string[] {
  const weights = data.train.map(({ weight }) => weight);
  const together = data.draw === 'batch' ? train.batchSize : 1;
  const draws = (steps * train.batchSize) / together;
  const drawn = realisedMixture(run.seed, draws, weights).map((count) => count * together);
  const total = steps * train.batchSize;
  const asked = weights.reduce((sum, weight) => sum + weight, 0);
  return data.train.map(({ shards, weight }, i) => {
    const count = drawn[i] ?? 0;
    const passes = `read ${(count / (rows[i] ?? NaN)).toFixed(2)} times over`;
    const share =
      data.train.length === 1
        ? ''
        : `, ${percent(count / total)} of all where ${percent(weight / asked)} were asked for`;
    return `${shownPlace(shards)}: ${count.toLocaleString('en')} samples${share}, ${passes}`;
  });
}

function percent(share: number): string {
  return `${(100 * share).toFixed(2)} %`;
}
