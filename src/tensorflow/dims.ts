/**
 * Dimensions of symbolic tensors: a number, or a polynomial of named sizes such as `B`, `P+T+5` or `B*S`.
 * Names make shape checks exact where TensorFlow itself knows only "-1".
 */

/** A size known while the graph is built (number) or when it runs (canonical polynomial of names). */
export type Dim = number | string;

/** Shape of a symbolic tensor; `[]` is a scalar. */
export type Shape = readonly Dim[];

/** Sum of two dims, in canonical form, so that equal sizes compare with `===`. */
export function addDims(a: Dim, b: Dim): Dim {
  const sum = terms(a);
  for (const [name, count] of terms(b)) sum.set(name, (sum.get(name) ?? 0) + count);
  return canonical(sum);
}

/** Difference of two dims, in canonical form. */
export function subtractDims(a: Dim, b: Dim): Dim {
  return addDims(a, multiplyDims(b, -1));
}

/** Product of two dims, in canonical form. */
export function multiplyDims(a: Dim, b: Dim): Dim {
  const product = new Map<string, number>();
  for (const [nameA, countA] of terms(a)) {
    for (const [nameB, countB] of terms(b)) {
      const name = [...nameA.split('*'), ...nameB.split('*')].filter(Boolean).sort().join('*');
      product.set(name, (product.get(name) ?? 0) + countA * countB);
    }
  }
  return canonical(product);
}

/** Number of elements of a shape as a dim. */
export function sizeOf(shape: Shape): Dim {
  return shape.reduce<Dim>(multiplyDims, 1);
}

/**
 * The polynomial's terms: product of names (sorted, joined by `*`; '' for the constant) → coefficient.
 * `5*B+B*S` gives { B: 5, 'B*S': 1 }.
 */
export function terms(dim: Dim): Map<string, number> {
  if (typeof dim === 'number') return new Map(dim === 0 ? [] : [['', dim]]);
  return new Map(
    dim.split('+').map((term) => {
      const factors = term.split('*');
      const count = /^-?\d+$/.test(factors[0] ?? '') ? Number(factors.shift()) : 1;
      return [factors.join('*'), count];
    }),
  );
}

/** Whether two shapes are the same, name by name. */
export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((dim, axis) => dim === b[axis]);
}

/** Whether a dim is one bare name, such as `B`, rather than a number or a polynomial. */
export function isName(dim: Dim): dim is string {
  return typeof dim === 'string' && /^[A-Za-z]\w*$/.test(dim);
}

/** Shape as people read it: `[B, 5, 384]`. */
export function formatShape(shape: Shape): string {
  return `[${shape.join(', ')}]`;
}

function canonical(sum: ReadonlyMap<string, number>): Dim {
  const kept = [...sum].filter(([, count]) => count !== 0).sort(([a], [b]) => (a < b ? -1 : 1));
  if (kept.every(([name]) => name === '')) return kept[0]?.[1] ?? 0;
  return kept
    .map(([name, count]) => (name === '' ? `${count}` : count === 1 ? name : `${count}*${name}`))
    .join('+');
}
