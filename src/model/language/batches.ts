/** Which inputs are computed together, and how they become one. */

/** An input, and its place in the list that it comes from. */
export interface Member<T> {
  readonly item: T;
  readonly index: number;
}

/**
 * Batches of items that have one key, in the order in which the keys first come.
 *
 * @param size items of a batch at most
 */
export function batchesOfOneKey<T>(
  items: readonly T[],
  keyOf: (item: T) => string | number,
  size: number,
): Member<T>[][] {
  const byKey = new Map<string | number, Member<T>[]>();
  for (const [index, item] of items.entries()) {
    const key = keyOf(item);
    const group = byKey.get(key) ?? [];
    byKey.set(key, group);
    group.push({ item, index });
  }
  return [...byKey.values()].flatMap((group) =>
    Array.from({ length: Math.ceil(group.length / size) }, (_, i) => group.slice(i * size, (i + 1) * size)),
  );
}

/** Arrays one after the other, in memory of their own. */
export function joined(parts: readonly Float32Array[]): Float32Array {
  const data = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let from = 0;
  for (const part of parts) {
    data.set(part, from);
    from += part.length;
  }
  return data;
}
