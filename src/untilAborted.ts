/** Waiting for work that a signal may end. */

/**
 * The work's result, or the signal's reason at once; the work itself goes on until it looks at the signal.
 *
 * @throws what the work throws, or the signal's reason
 */
export async function untilAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  const aborted = new Promise<never>((_, reject) => {
    const end = (): void => reject(signal.reason as Error); // an AbortSignal's reason is an error unless the caller gave another
    if (signal.aborted) end();
    else signal.addEventListener('abort', end, { once: true });
  });
  return Promise.race([work, aborted]);
}
