/**
 * What the frozen LLM reads, as numbers: every position of a micro-batch points either to a soft token of one of its
 * sample's images or to a text token. Any mixture of prompts, lengths and numbers of images in one micro-batch is the same
 * computation.
 */

/** A piece of a sequence: text, or the place of an image's soft tokens. */
export type Segment = { readonly kind: 'text'; readonly ids: readonly number[] } | { readonly kind: 'image' };

/** One training or scoring sample in tokens. */
export interface Example {
  /** BOS, prompt and images, before the target. */
  readonly prefix: readonly Segment[];
  /** T target tokens, end symbol included; they are predicted. */
  readonly target: readonly number[];
}

/** A micro-batch's layout: what the graph needs besides features and projection. Positions count after the stem. */
export interface SequenceBatch {
  /**
   * The text tokens that all samples begin with (BOS, `###Human: <Img>` …). No projection changes their keys and values,
   * so they are computed once and read from a cache.
   */
  readonly stem: readonly number[];
  /** I: images of all samples together. */
  readonly images: number;
  /** int32[K]: text tokens of all samples. K ≥ 1. */
  readonly tokens: Int32Array;
  /**
   * int32[B, S]: row of the pool [soft tokens I·Q; text tokens K] at each position; padding points to the first text token.
   * The images stand in the pool in the order of their places, sample after sample.
   */
  readonly layout: Int32Array;
  /** int32[M]: flat positions b·S + s that hold a token, in order: all that the linear layers compute. */
  readonly positions: Int32Array;
  /** int32[B, S]: index into `positions` of each position; 0 for padding, which nothing reads. */
  readonly places: Int32Array;
  /** int32[N]: flat position b·S + s whose next token is a target. */
  readonly targetRows: Int32Array;
  /** int32[N]: the target tokens, sample after sample. */
  readonly targetIds: Int32Array;
  /** Targets of each sample; they sum to N. */
  readonly targetCounts: readonly number[];
  /** S: the longest sample's length after the stem; the last target is never an input. */
  readonly length: number;
}

/**
 * Lays out a micro-batch, right-padded to its longest sample. Depends on these examples alone.
 *
 * @param queries Q: soft tokens of one image
 * @param stem tokens that every example begins with and that a cache stands for
 * @throws if there is no example, or one has no target or an empty prefix
 */
export function layOut(
  examples: readonly Example[],
  queries: number,
  stem: readonly number[] = commonStem(examples),
): SequenceBatch {
  if (examples.length === 0) throw new Error('sequence: a micro-batch must have at least one example');
  if (examples.some((example) => example.target.length === 0))
    throw new Error('sequence: an example must have at least one target token');
  const prefixes = examples.map(({ prefix }) => withoutStem(prefix, stem.length));
  const lengths = examples.map(
    ({ target }, b) => prefixLength(prefixes[b] ?? [], queries) + target.length - 1,
  );
  const S = Math.max(...lengths);
  const images = prefixes.flat().filter(({ kind }) => kind === 'image').length;
  const firstToken = images * queries;
  const tokens: number[] = [];
  const targetRows: number[] = [];
  const layout = new Int32Array(examples.length * S).fill(firstToken);
  const places = new Int32Array(examples.length * S);
  const positions: number[] = [];
  let softToken = 0; // of the next image
  examples.forEach(({ target }, b) => {
    const prefix = prefixes[b] ?? [];
    let at = b * S;
    for (const segment of [...prefix, { kind: 'text' as const, ids: target.slice(0, -1) }]) {
      const count = segment.kind === 'image' ? queries : segment.ids.length;
      const from = segment.kind === 'image' ? softToken : firstToken + tokens.length;
      for (let i = 0; i < count; i++) {
        places[at] = positions.length;
        positions.push(at);
        layout[at++] = from + i;
      }
      if (segment.kind === 'text') tokens.push(...segment.ids);
      else softToken += queries;
    }
    const first = b * S + prefixLength(prefix, queries) - 1;
    if (first < b * S)
      throw new Error('sequence: a prefix must have at least one position (BOS, prompt or image)');
    target.forEach((_, t) => targetRows.push(first + t));
  });
  return {
    stem,
    images,
    tokens: Int32Array.from(tokens.length ? tokens : [0]),
    layout,
    positions: Int32Array.from(positions),
    places,
    targetRows: Int32Array.from(targetRows),
    targetIds: Int32Array.from(examples.flatMap((example) => example.target)),
    targetCounts: examples.map((example) => example.target.length),
    length: S,
  };
}

/** Positions of a prefix. */
export function prefixLength(prefix: readonly Segment[], queries: number): number {
  return prefix.reduce((sum, segment) => sum + (segment.kind === 'image' ? queries : segment.ids.length), 0);
}

/** The text that all examples begin with, less what it would take to leave one without a prefix. */
function commonStem(examples: readonly Example[]): number[] {
  const starts = examples.map(({ prefix: [first, ...rest] }) =>
    first?.kind !== 'text' ? [] : rest.length ? first.ids : first.ids.slice(0, -1),
  );
  const [one = [], ...others] = starts;
  const differs = one.findIndex((id, i) => others.some((other) => other[i] !== id));
  return one.slice(0, differs < 0 ? one.length : differs);
}

/** A prefix less its first `count` tokens, which are text. */
function withoutStem(prefix: readonly Segment[], count: number): readonly Segment[] {
  const [first, ...rest] = prefix;
  if (count === 0 || first?.kind !== 'text') return prefix;
  return [{ kind: 'text', ids: first.ids.slice(count) }, ...rest];
}
