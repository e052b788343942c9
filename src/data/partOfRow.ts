/** Which part of a whole a row lies in, where parts of any length follow each other: batches of a file, shards of a set. */

/**
 * The last part that begins at or before a row, by bisection.
 *
 * @param firstRowOf the row that a part begins with; never less than that of the part before
 * @param parts number of parts, at least 1
 * @param row not before the first part's first
 */
export function partOfRow(firstRowOf: (part: number) => number, parts: number, row: number): number {
  let low = 0;
  let high = parts - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (firstRowOf(middle) <= row) low = middle;
    else high = middle - 1;
  }
  return low;
}
