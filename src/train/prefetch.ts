/** Work done ahead of the step that needs it, in a bounded queue. */

/**
 * Yields `make(from)`, `make(from + 1)` … below `to`, with up to `ahead` of them under way. The order of results is the
 * order of numbers; an error surfaces when its turn comes.
 */
export async function* prefetch<T>(
  from: number,
  to: number,
  ahead: number,
  make: (index: number) => Promise<T>,
): AsyncGenerator<T, void> {
  const queue: Promise<T>[] = [];
  let next = from;
  const fill = (): void => {
    while (queue.length < ahead && next < to) {
      const made = make(next++);
      made.catch(() => undefined); // reported when awaited below; until then it is not unhandled
      queue.push(made);
    }
  };
  fill();
  while (queue.length > 0) {
    const result = await queue[0]; // stays in the queue until it is made, so that the bound holds
    void queue.shift(); // the very promise that was awaited
    fill();
    yield result as T; // the queue was not empty
  }
}
