/** Work on a stream, several items at a time, results in the order of the items. */

import pLimit from 'p-limit';

const WAITING = 2; // items taken ahead for each worker: a slow one must not leave the others idle

/**
 * Maps a stream through `work`, up to `workers` at a time; at most twice as many items and results are held. What order
 * the work ends in changes nothing. When the reader stops early, the stream is closed and no work is left behind.
 *
 * @param workers at least 1
 * @throws what the stream or `work` throws, in its item's turn
 */
export async function* inOrder<T, R>(
  items: AsyncIterable<T>,
  work: (item: T) => Promise<R>,
  workers: number,
): AsyncGenerator<R> {
  const limit = pLimit(workers);
  const source = items[Symbol.asyncIterator]();
  const queue: Promise<R>[] = [];
  let failure: { readonly error: unknown } | undefined; // of the stream: told after what came before it
  let ended = false;
  try {
    for (;;) {
      while (!ended && queue.length < WAITING * workers) {
        const next = await source.next().catch((error: unknown) => {
          failure = { error };
          return { done: true } as const;
        });
        if (next.done === true) ended = true;
        else queue.push(begin(limit(() => work(next.value))));
      }
      const first = queue.shift();
      if (first === undefined) break;
      yield await first;
    }
    if (failure) throw failure.error;
  } finally {
    await Promise.allSettled(queue);
    await source.return?.();
  }
}

/** A promise whose failure is told when it is awaited, not before. */
function begin<R>(result: Promise<R>): Promise<R> {
  result.catch(() => undefined);
  return result;
}
