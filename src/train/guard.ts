/**
 * The guard of the weights: a step whose loss is no number, or lies far above the last ones, is not applied. What it compares
 * with is part of the checkpoint, so a resumed run judges as the unbroken one does.
 */
import type { Config } from '../config/schema.js';

/** What the guard knows; kept in `state.json`. */
export interface GuardState {
  /** Losses of the last applied steps, nats, oldest first. */
  readonly losses: number[];
  /** Steps in a row, up to now, that were not applied. */
  readonly skipped: number;
}

const SAME_AS_DEVIATION = 1.4826; // times the median deviation: the standard deviation, of a normal distribution
/** A loss below this multiple of the median is never far out: batches of two sets may differ that much by nature. */
const LEAST_RATIO = 2;

/** Judges the steps of a run, one after the other. */
export class Guard {
  readonly #options: Config['train']['guard'];
  readonly #losses: number[];
  #skipped: number;

  /** @param state of the checkpoint that is resumed from; left out on a fresh run */
  constructor(
    options: Config['train']['guard'],
    { losses, skipped }: GuardState = { losses: [], skipped: 0 },
  ) {
    this.#options = options;
    this.#losses = [...losses];
    this.#skipped = skipped >= options.stopAfter ? 0 : skipped; // who resumes a stopped run wants it to go on
  }

  /** Of the last applied steps, nats; 0 before the first. */
  get medianLoss(): number {
    return median(this.#losses);
  }

  /** To be saved with the step. */
  get state(): GuardState {
    return { losses: [...this.#losses], skipped: this.#skipped };
  }

  /** True once so many steps in a row were not applied that the run must stop. */
  get mustStop(): boolean {
    return this.#skipped >= this.#options.stopAfter;
  }

  /**
   * Judges a step and remembers it.
   *
   * @param loss mean over the step's target tokens, nats
   * @param gradNorm L2 norm of the gradient
   * @returns why the step must not be applied, in few words; undefined if it may be
   */
  judge(loss: number, gradNorm: number): string | undefined {
    const reason = this.#fault(loss, gradNorm);
    if (reason !== undefined) {
      this.#skipped += 1;
      return reason;
    }
    this.#skipped = 0;
    this.#losses.push(loss);
    if (this.#losses.length > this.#options.window) this.#losses.shift();
    return undefined;
  }

  #fault(loss: number, gradNorm: number): string | undefined {
    if (!Number.isFinite(loss)) return `loss ${loss}`;
    if (!Number.isFinite(gradNorm)) return `gradient norm ${gradNorm} at loss ${loss.toFixed(3)}`;
    const limit = this.#limit();
    if (loss <= limit) return undefined;
    const usual = this.medianLoss.toFixed(3);
    return `loss ${loss.toFixed(3)}, at most ${limit.toFixed(3)} by the last ${this.#losses.length} with median ${usual}`;
  }

  /** The highest loss that is applied; any, while fewer than half a window is known. */
  #limit(): number {
    const { deviations, window } = this.#options;
    if (deviations === 0 || this.#losses.length < window / 2) return Infinity;
    const middle = median(this.#losses);
    const deviation = SAME_AS_DEVIATION * median(this.#losses.map((loss) => Math.abs(loss - middle)));
    return Math.max(middle + deviations * deviation, LEAST_RATIO * middle);
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return ((sorted[Math.ceil(middle) - 1] ?? 0) + (sorted[Math.floor(middle)] ?? 0)) / 2;
}
