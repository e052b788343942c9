/** Whether frozen weights fit into memory: asked before gigabytes are read, since running out kills the process. */
import { freemem } from 'node:os';
import { UserError } from '../../errors.js';
import { BYTES_PER_ELEMENT, elementCount } from '../../tensorflow/dtypes.js';
import type { Graph } from '../../tensorflow/graph.js';
import type { Session } from '../../tensorflow/session.js';

/** Bytes of a graph's variables: what a session holds once they are assigned. */
export function weightBytes({ variables }: Graph): number {
  return [...variables.values()]
    .map(({ dtype, shape }) => elementCount(shape) * BYTES_PER_ELEMENT[dtype])
    .reduce((a, b) => a + b, 0);
}

/**
 * Refuses a graph whose weights are larger than the free memory of the CPU that computes it.
 *
 * @param what their name in the message
 * @param freeBytes memory that this process may still take
 * @throws UserError naming both sizes, and the precision that would halve the need
 */
export function requireMemory(
  { graph, tensorflow }: Pick<Session, 'graph' | 'tensorflow'>,
  what: string,
  freeBytes: number = availableBytes(),
): void {
  if (tensorflow.facts.device !== 'CPU') return; // a GPU's memory is TensorFlow's own to watch
  const needed = weightBytes(graph);
  if (needed <= freeBytes) return;
  const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`;
  const half = [...graph.variables.values()].some(({ dtype }) => dtype === 'bfloat16');
  const advice = half
    ? 'end other programs, or take a larger machine'
    : 'set model.precision=bfloat16, which halves it, or take a larger machine';
  throw new UserError(
    `${what}: the weights need ${gigabytes(needed)} of memory, got ${gigabytes(freeBytes)} free (${advice})`,
  );
}

/** Free memory of the machine, or of the container where that is less. */
function availableBytes(): number {
  const { availableMemory } = process as { availableMemory?: () => number }; // from Node 20.13 on
  return Math.min(freemem(), availableMemory?.call(process) ?? Infinity);
}
