import { describe, expect, it } from 'vitest';
import { requireMemory, weightBytes } from '../../../src/model/weights/memory.js';
import { Graph } from '../../../src/tensorflow/graph.js';
import type { Session } from '../../../src/tensorflow/session.js';

/** What `requireMemory` looks at of a session: 3,000,000 weights and 1,000 numbers in float32. */
function session(
  dtype: 'float32' | 'bfloat16',
  device: 'CPU' | 'GPU',
): Pick<Session, 'graph' | 'tensorflow'> {
  const graph = new Graph();
  graph.variable('weight', dtype, [1000, 3000]);
  graph.variable('norm', 'float32', [1000]);
  const facts: unknown = { facts: { device } }; // nothing else of it is read
  return { graph, tensorflow: facts as Session['tensorflow'] };
}

describe('requireMemory', () => {
  it('counts what the variables will hold', () => {
    expect(weightBytes(session('float32', 'CPU').graph)).toBe(12_004_000);
    expect(weightBytes(session('bfloat16', 'CPU').graph)).toBe(6_004_000);
  });

  it('refuses weights that do not fit, and says what would make them', () => {
    expect(() => requireMemory(session('float32', 'CPU'), 'language model', 12_003_999)).toThrow(
      'language model: the weights need 0.0 GB of memory, got 0.0 GB free (set model.precision=bfloat16, which halves it, or take a larger machine)',
    );
    expect(() => requireMemory(session('bfloat16', 'CPU'), 'language model', 5e6)).toThrow(
      '(end other programs, or take a larger machine)',
    );
  });

  it('lets pass what fits, and what a GPU holds', () => {
    requireMemory(session('float32', 'CPU'), 'language model', 12_004_000);
    requireMemory(session('float32', 'GPU'), 'language model', 0);
    requireMemory(session('float32', 'CPU'), 'language model'); // this machine's own memory
  });
});
