/** Distances between lists of numbers. NaN anywhere makes every distance NaN, which no limit accepts. */

/** Largest absolute difference; the lists must be equally long. */
export function largestDifference(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (got.length !== expected.length)
    throw new Error(`compare: lists must be equally long, got ${got.length} and ${expected.length}`);
  return Array.from(got, (value, i) => Math.abs(value - (expected[i] ?? NaN))).reduce(larger, 0);
}

/** Largest absolute difference over the largest absolute expected value: single values may cancel to nothing. */
export function relativeDifference(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  return largestDifference(got, expected) / largest(expected);
}

/** Largest absolute value. */
export function largest(values: ArrayLike<number>): number {
  return Array.from(values, Math.abs).reduce(larger, 0);
}

/** Cosine of the angle between two vectors. */
export function cosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

/** Sum of products, in float64. */
export function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return Array.from(a, (value, i) => value * (b[i] ?? NaN)).reduce((sum, term) => sum + term, 0);
}

/** Keeps NaN, unlike a comparison. */
function larger(a: number, b: number): number {
  return Math.max(a, b);
}
