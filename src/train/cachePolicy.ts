/** Whether it pays to keep the features of training images on disk: only where they come again. */
import type { Config } from '../config/schema.js';

/** A set of the mixture, as far as the policy asks. */
export interface CachedSource {
  /** Rows in use. */
  readonly rows: number;
  /** Share in the mixture, to the sum of all. */
  readonly weight: number;
  /** The shards as the configuration names them: sets of the same shards draw the same images. */
  readonly shards: string;
}

/** What is kept of the images that training draws. Those of evaluations are kept wherever there is a cache. */
export interface CachePolicy {
  readonly keepsTraining: boolean;
  /** One line for the log; undefined where the configuration says that there is no cache. */
  readonly line: string | undefined;
}

/** Share of the draws that must be of an image drawn before: below it, encoding saved is not worth the disk. */
const WORTH_KEEPING = 0.05;

/**
 * Decides from the configuration alone, so that a resumed run decides as its beginning did.
 *
 * @param stored images whose features are there already; they are used in any case
 */
export function cachePolicy(config: Config, sources: readonly CachedSource[], stored: number): CachePolicy {
  const { featureCache, transform } = config.data;
  if (featureCache === false) return { keepsTraining: false, line: undefined };
  if (transform === 'random-crop')
    return {
      keepsTraining: false,
      line: 'feature cache: off for training images, as each is cropped at random and encoded anew; on for those of evaluations',
    };
  const draws = config.train.steps * config.train.batchSize;
  const repeated = repeatedShare(config, sources);
  const known = stored > 0 ? `; ${stored.toLocaleString('en')} images are there already` : '';
  if (featureCache === 'always' || repeated >= WORTH_KEEPING)
    return {
      keepsTraining: true,
      line: `feature cache: on, ${percent(repeated)} of the ${draws.toLocaleString('en')} samples are images seen before${known}`,
    };
  return {
    keepsTraining: false,
    line: `feature cache: off for training images from the first step on, as only ${percent(repeated)} of the ${draws.toLocaleString('en')} samples are images seen before (data.featureCache=always keeps them for other runs); on for those of evaluations${known}`,
  };
}

/**
 * Share of a run's draws that are expected to be of an image drawn before, 0…1. Rows are taken for different images.
 */
export function repeatedShare({ data, train }: Config, sources: readonly CachedSource[]): number {
  const draws = train.steps * train.batchSize;
  const weights = sources.reduce((sum, { weight }) => sum + weight, 0);
  const missed = new Map<string, { rows: number; share: number }>(); // of each shards' rows: how many, and the share never drawn
  for (const { rows, weight, shards } of sources) {
    const perRow = (draws * weight) / weights / rows;
    const never = data.order === 'replacement' ? Math.exp(-perRow) : Math.max(0, 1 - perRow);
    const before = missed.get(shards) ?? { rows, share: 1 };
    const all = Math.max(before.rows, rows); // the smaller of two sets of the same shards is the beginning of the larger
    missed.set(shards, { rows: all, share: before.share * (1 - (1 - never) * (rows / all)) });
  }
  const distinct = [...missed.values()].reduce((sum, { rows, share }) => sum + rows * (1 - share), 0);
  return Math.max(0, 1 - distinct / draws);
}

function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}
