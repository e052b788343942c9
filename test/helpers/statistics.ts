/** Statistics by which tests judge random numbers. */

/** 0, 1, … below n. */
export const range = (n: number) => Array.from({ length: n }, (_, i) => i);

/** Pearson's statistic of observed counts against a uniform distribution. */
export function chiSquare(counts: readonly number[]): number {
  const mean = counts.reduce((a, b) => a + b, 0) / counts.length;
  return counts.reduce((sum, count) => sum + (count - mean) ** 2 / mean, 0);
}

/** A bound that a fair source exceeds about once in 30,000 tries: mean + 4 standard deviations of χ². */
export const bound = (cells: number) => cells - 1 + 4 * Math.sqrt(2 * (cells - 1));

/** How often each of 0, 1, … below `cells` comes. */
export function histogram(values: readonly number[], cells: number): number[] {
  const counts = range(cells).map(() => 0);
  for (const value of values) counts[value] = (counts[value] ?? 0) + 1;
  return counts;
}
