/**
 * Keys and values of what an LLM has read, kept from one turn to the next: where the next context begins as the last one
 * did, only the rest is computed.
 */
import { prefixBatch, type GenerationInput } from './generate.js';
import type { LanguageModel, PrefixCache, Reading, Wanted } from './languageModel.js';
import type { Projection } from '../projection.js';
import type { Segment } from './sequence.js';

/** One thing that the LLM reads: a text token, or the float32[Q, C] of an image, which takes Q positions. */
type Unit = number | Float32Array;

/** A context that was read. */
export interface ContextReading {
  /** Its cache is the caller's, to release or to `keep`. */
  readonly start: Reading;
  /** Positions of the context. */
  readonly length: number;
  /** How many of them were not computed again. */
  readonly reused: number;
}

/** Remembers one context. Whoever made it calls `forget`. */
export class ContextMemory {
  #held: { readonly units: readonly Unit[]; readonly cache: PrefixCache } | undefined;

  constructor(
    private readonly model: LanguageModel,
    private readonly projection: Projection,
  ) {}

  /**
   * Reads a context: computes what follows the longest beginning that is the same as in the one held, position by position.
   * The last position is always computed, since the answer comes from it. What was held is forgotten.
   *
   * @param shape [Q, C] of the features
   */
  async read(
    input: GenerationInput,
    shape: readonly [Q: number, C: number],
    want: Wanted,
  ): Promise<ContextReading> {
    const [Q] = shape;
    const units = unitsOf(input, shape);
    const common = commonCount(units.slice(0, -1), this.#held?.units ?? []);
    const reused = positionsOf(units.slice(0, common), Q);
    const past = this.#held && reused > 0 ? await this.model.crop(this.#held.cache, reused) : undefined;
    try {
      await this.forget();
      // No stem: memory takes its place, and a question without an image would be one that nobody asks again.
      const batch = prefixBatch([inputOf(units.slice(common))], shape, []);
      const start = await this.model.prefill(this.projection, batch, want, past);
      return { start, reused, length: positionsOf(units, Q) };
    } finally {
      if (past) await this.model.release(past);
    }
  }

  /**
   * Holds a context and what was written after it.
   *
   * @param written the tokens that follow the context; those beyond the cache's length are not in it yet
   * @param cache of one row; the memory owns it from now on
   */
  async keep(
    input: GenerationInput,
    shape: readonly [Q: number, C: number],
    written: readonly number[],
    cache: PrefixCache,
  ): Promise<void> {
    await this.forget();
    const units = unitsOf(input, shape);
    const inCache = written.slice(0, cache.length - positionsOf(units, shape[0]));
    this.#held = { units: [...units, ...inCache], cache };
  }

  /** Frees what is held. */
  async forget(): Promise<void> {
    const held = this.#held;
    this.#held = undefined;
    if (held) await this.model.release(held.cache);
  }
}

function unitsOf({ prefix, features }: GenerationInput, [Q, C]: readonly [number, number]): Unit[] {
  let next = 0;
  return prefix.flatMap((segment): readonly Unit[] =>
    segment.kind === 'text' ? segment.ids : [features.subarray(next, (next += Q * C))],
  );
}

function inputOf(units: readonly Unit[]): GenerationInput {
  const prefix = units.map((unit): Segment =>
    typeof unit === 'number' ? { kind: 'text', ids: [unit] } : { kind: 'image' },
  );
  const images = units.filter((unit) => typeof unit !== 'number');
  return { prefix, features: joined(images) };
}

/** Images one after the other, float32[I·Q, C]. */
export function joined(images: readonly Float32Array[]): Float32Array {
  const features = new Float32Array(images.reduce((sum, { length }) => sum + length, 0));
  let from = 0;
  for (const image of images) {
    features.set(image, from);
    from += image.length;
  }
  return features;
}

/** How many units two contexts begin with alike. */
function commonCount(a: readonly Unit[], b: readonly Unit[]): number {
  const differs = a.findIndex((unit, i) => !isSame(unit, b[i]));
  return differs < 0 ? a.length : differs;
}

function isSame(a: Unit, b: Unit | undefined): boolean {
  if (typeof a === 'number' || typeof b === 'number' || !b) return a === b;
  return a.length === b.length && a.every((value, i) => value === b[i]);
}

function positionsOf(units: readonly Unit[], Q: number): number {
  return units.reduce<number>((sum, unit) => sum + (typeof unit === 'number' ? 1 : Q), 0);
}
