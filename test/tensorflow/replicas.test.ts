/** Several runs of one entry point as one call: the bits of one after the other, the weights once, nothing leaked. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Graph } from '../../src/tensorflow/graph.js';
import * as ops from '../../src/tensorflow/ops.js';
import { replicated } from '../../src/tensorflow/replicas.js';
import { TensorFlow, type Session, type Values } from '../../src/tensorflow/session.js';
import { randomNormal } from '../helpers/random.js';

const K = 64;
const N = 48;

/** x · 2w and rows of its softmax, an input read back, and 4w, which no input is needed for. */
function graphOf(): Graph {
  const graph = new Graph();
  const x = graph.placeholder('x', 'float32', ['B', K]);
  const rows = graph.placeholder('rows', 'int32', ['R']);
  const stored = graph.variable('w', 'float32', [K, N]);
  const doubled = ops.mul(stored, ops.scalarLike(stored, 2));
  const product = ops.matMul(x, doubled);
  graph.entryPoint('run', {
    inputs: { x, rows },
    outputs: { product, picked: ops.gather(ops.softmax(product), rows) },
  });
  const kept = graph.placeholder('kept', 'float32', ['B', N]);
  graph.entryPoint('again', { inputs: { kept }, outputs: { sum: ops.add(kept, kept) } });
  graph.entryPoint('weights', { inputs: {}, outputs: { w: ops.add(doubled, doubled) } });
  return graph;
}

const inputs = (B: number, seed: number): { x: Values; rows: Values } => ({
  x: { shape: [B, K], data: randomNormal(B * K, seed) },
  rows: { shape: [2], data: Int32Array.of(B - 1, 0) },
});

let alone: TensorFlow;
let together: TensorFlow;
let sessions: readonly [Session, Session];
beforeAll(async () => {
  together = await TensorFlow.open({ concurrency: 3 }); // the first: it decides how many threads there are
  alone = await TensorFlow.open();
  const opened = await Promise.all([alone, together].map((tensorflow) => tensorflow.load(graphOf())));
  for (const session of opened)
    await session.assign('w', {
      dtype: 'float32',
      shape: [K, N],
      data: new Uint8Array(randomNormal(K * N, 1).buffer),
    });
  sessions = opened as [Session, Session]; // two were opened
});
afterAll(() => Promise.all([alone.close(), together.close()]));

describe('replicated', () => {
  it('copies what depends on inputs, and the weights and what is made of them not', () => {
    const graph = graphOf();
    const names = replicated(graph, 3).map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    const copies = names.filter((name) => name.startsWith('replica2/')).map((name) => name.slice(9));
    expect(names.length).toBe(graph.nodes.length + 2 * copies.length);
    expect(copies).toEqual(expect.arrayContaining(['x', 'rows', 'kept', 'MatMul', 'Softmax']));
    expect(copies.filter((name) => name.startsWith('w') || name === 'Mul')).toEqual([]);
    expect(names).toContain('Mul');
    expect(replicated(graph, 1)).toEqual(graph.nodes);
  });
});

describe('runs that are asked for together', () => {
  it('give the bits of runs one after the other, whatever their shapes', async () => {
    const all = [1, 5, 2, 7].map((B, seed) => inputs(B, seed));
    const expected = [];
    for (const one of all) expected.push(await sessions[0].run('run', one, ['picked', 'product']));
    const found = await Promise.all(all.map((one) => sessions[1].run('run', one, ['picked', 'product'])));
    expect(found).toEqual(expected);
    const weights = await Promise.all([0, 1].map(() => sessions[1].run('weights', {}, ['w'])));
    const { w } = await sessions[0].run('weights', {}, ['w']);
    expect(weights).toEqual([{ w }, { w }]);
  });

  it('keep tensors of their own, and free the others', async () => {
    const before = await together.tensorCount();
    const kept = await Promise.all(
      [3, 4].map((B) => sessions[1].runKeeping('run', inputs(B, B), [], ['product'])),
    );
    expect(await together.tensorCount()).toBe(before + 2);
    const sums = await Promise.all(
      kept.map((one) => sessions[1].run('again', { kept: one.kept.product }, ['sum'])),
    );
    for (const [i, B] of [3, 4].entries()) {
      const { product } = await sessions[0].run('run', inputs(B, B), ['product']);
      expect(sums[i]?.sum.data).toEqual(product.data.map((value) => 2 * value));
    }
    await sessions[1].release(kept.map((one) => one.kept.product));
    expect(await together.tensorCount()).toBe(before);
  });

  it('fail together where one fails, and leave nothing behind', async () => {
    const before = await together.tensorCount();
    const wrong = { ...inputs(2, 1), rows: { shape: [2], data: Int32Array.of(0, 99) } };
    const settled = await Promise.allSettled(
      [inputs(2, 0), wrong].map((one) => sessions[1].runKeeping('run', one, ['picked'], ['product'])),
    );
    const reasons = settled.map((one) => (one.status === 'rejected' ? String(one.reason) : 'none'));
    expect(reasons).toEqual([0, 1].map(() => expect.stringMatching(/tensorflow: .*99/) as string));
    expect(await together.tensorCount()).toBe(before);
  });
});
