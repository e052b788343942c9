/** What ops compute where model code relies on it, and what they say where shapes or dtypes do not fit. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addDims, type Shape } from '../../src/tensorflow/dims.js';
import type { DType } from '../../src/tensorflow/dtypes.js';
import { Graph, type GraphTensor } from '../../src/tensorflow/graph.js';
import * as ops from '../../src/tensorflow/ops.js';
import { TensorFlow, type Values } from '../../src/tensorflow/session.js';

let tensorflow: TensorFlow;
beforeAll(async () => {
  tensorflow = await TensorFlow.open();
});
afterAll(() => tensorflow.close());

/** Runs `build` on one int32 or float32 input and gives its result back. */
async function compute(shape: Shape, value: Values, build: (x: GraphTensor) => GraphTensor): Promise<Values> {
  const graph = new Graph();
  const x = graph.placeholder('x', value.data instanceof Float32Array ? 'float32' : 'int32', shape);
  graph.entryPoint('run', { inputs: { x }, outputs: { y: build(x) } });
  const session = await tensorflow.load(graph);
  try {
    return (await session.run('run', { x: value }, ['y'])).y;
  } finally {
    await session.close();
  }
}

const matrix: Values = { shape: [2, 3], data: Float32Array.of(1, -2, 3, -4, 5, -6) };

describe('ops', () => {
  it.each<[string, (x: GraphTensor) => GraphTensor, number[], number[]]>([
    ['neg', ops.neg, [2, 3], [-1, 2, -3, 4, -5, 6]],
    ['square', ops.square, [2, 3], [1, 4, 9, 16, 25, 36]],
    ['transpose', (x) => ops.transpose(x, [1, 0]), [3, 2], [1, -4, -2, 5, 3, -6]],
    ['sum over rows', (x) => ops.sum(x, [0]), [3], [-3, 3, -3]],
    [
      'mean over columns, kept',
      (x) => ops.mean(x, [-1], { keepDims: true }),
      [2, 1],
      [2 / 3, -5 / 3].map(Math.fround),
    ],
    ['slice', (x) => ops.slice(x, [0, 1], ['B', 2]), [2, 2], [-2, 3, 5, -6]],
    ['split', (x) => ops.split(x, [1, 2], -1)[1] ?? x, [2, 2], [-2, 3, 5, -6]],
    [
      'pad',
      (x) =>
        ops.pad(x, [
          [1, 0],
          [0, 1],
        ]),
      [3, 4],
      [0, 0, 0, 0, 1, -2, 3, 0, -4, 5, -6, 0],
    ],
    ['concat with itself', (x) => ops.concat([x, x], 1), [2, 6], [1, -2, 3, 1, -2, 3, -4, 5, -6, -4, 5, -6]],
    [
      'gather',
      (x) => ops.gather(x, x.graph.constant([1, 1, 0], 'int32')),
      [3, 3],
      [-4, 5, -6, -4, 5, -6, 1, -2, 3],
    ],
    [
      'scatterAdd',
      (x) => ops.scatterAdd(x, x.graph.constant([2, 2], 'int32'), 3),
      [3, 3],
      [0, 0, 0, 0, 0, 0, -3, 3, -3],
    ],
    ['broadcastTo', (x) => ops.broadcastTo(ops.sum(x, [0, 1]), ['B', 2]), [2, 2], [-3, -3, -3, -3]],
    ['argMax', ops.argMax, [2], [2, 1]],
    [
      'select',
      (x) => ops.select(ops.greaterEqual(x, ops.scalarLike(x, 0)), x, ops.scalarLike(x, 0)),
      [2, 3],
      [1, 0, 3, 0, 5, 0],
    ],
    ['range', (x) => ops.range(x, addDims('B', 2)), [4], [0, 1, 2, 3]],
    [
      'flattenRows of three axes',
      (x) => ops.flattenRows(ops.reshape(x, ['B', 3, 1])),
      [6, 1],
      [1, -2, 3, -4, 5, -6],
    ],
  ])('%s gives the numbers it should', async (_, build, shape, data) => {
    const y = await compute(['B', 3], matrix, build);
    expect({ shape: y.shape, data: [...y.data] }).toEqual({ shape, data });
  });

  it('cast to bfloat16 rounds to nearest, ties to even', async () => {
    const ulp = 2 ** -7; // of bfloat16 at 1
    const x = Float32Array.of(1 + 0.5 * ulp, 1 + 1.5 * ulp, 1 + 0.51 * ulp, -1 - 0.49 * ulp);
    const y = await compute(['B'], { shape: [4], data: x }, (v) =>
      ops.cast(ops.cast(v, 'bfloat16'), 'float32'),
    );
    expect([...y.data]).toEqual([1, 1 + 2 * ulp, 1 + ulp, -1]);
  });

  it('solve gives the x of a · x = b, also where a pivot is 0', async () => {
    const a: Values = { shape: [2, 2], data: Float32Array.of(0, 2, 4, 8) };
    const y = await compute([2, 2], a, (x) =>
      ops.solve(x, x.graph.constant([6, 2, 20, 12], 'float32', [2, 2])),
    );
    expect({ shape: y.shape, data: [...y.data] }).toEqual({ shape: [2, 2], data: [-1, 1, 3, 1] });
  });

  it('cross-entropy is -log softmax at the label', async () => {
    const logits: Values = { shape: [2, 3], data: Float32Array.of(0, Math.log(2), Math.log(5), 1, 1, 1) };
    const y = await compute([2, 3], logits, (x) => ops.crossEntropy(x, x.graph.constant([1, 0], 'int32')));
    // 2 / (1 + 2 + 5) and 1 / 3; float32 rounding of sums of three
    expect([...y.data].map((loss) => Math.abs(Math.exp(-loss)))).toEqual([
      expect.closeTo(1 / 4, 6),
      expect.closeTo(1 / 3, 6),
    ]);
  });
});

describe('a mistake is named with op, shapes and the line of model code', () => {
  const graph = new Graph();
  const input = (shape: Shape, dtype: DType = 'float32'): GraphTensor => graph.placeholder('x', dtype, shape);
  const a = input(['B', 4]);
  const b = input([3, 4]);
  const ints = input(['B'], 'int32');

  it.each<[string, () => unknown, string]>([
    [
      'matMul',
      () => ops.matMul(a, b),
      'matMul: shapes and dtypes must fit, got float32[B, 4] and float32[3, 4]',
    ],
    [
      'matMul of another dtype',
      () => ops.matMul(a, input([4, 3], 'bfloat16')),
      'matMul: shapes and dtypes must fit, got float32[B, 4] and bfloat16[4, 3]',
    ],
    [
      'solve of what is not square',
      () => ops.solve(b, b),
      'solve: shapes and dtypes must fit, got float32[3, 4] and float32[3, 4]',
    ],
    [
      'matMul of stacks',
      () => ops.matMul(input([2, 3, 4]), b),
      'matMul: shapes and dtypes must fit, got float32[2, 3, 4] and float32[3, 4]',
    ],
    [
      'batchMatMul',
      () => ops.batchMatMul(input(['B', 2, 3]), input(['S', 3, 2])),
      'batchMatMul: shapes and dtypes must fit, got float32[B, 2, 3] and float32[S, 3, 2]',
    ],
    [
      'batchMatMul of vectors',
      () => ops.batchMatMul(input([3]), input([3])),
      'batchMatMul: operands must be matrices, got [3]',
    ],
    ['add', () => ops.add(a, input([3])), 'AddV2: shapes must broadcast, got [B, 4] and [3]'],
    [
      'add of a name and a number',
      () => ops.add(input(['B']), input([3])),
      'AddV2: shapes must broadcast, got [B] and [3]',
    ],
    [
      'mul',
      () => ops.mul(a, input(['B', 4], 'int32')),
      'Mul: shapes and dtypes must fit, got float32[B, 4] and int32[B, 4]',
    ],
    ['reshape', () => ops.reshape(a, ['B', 5]), 'reshape: sizes must agree, got [B, 4] → [B, 5]'],
    [
      'reshape of names',
      () => ops.reshape(input(['B', 'S']), ['S', 'T']),
      'reshape: sizes must agree, got [B, S] → [S, T]',
    ],
    [
      'transpose',
      () => ops.transpose(a, [0, 0]),
      'transpose: order must permute the axes of [B, 4], got [0, 0]',
    ],
    [
      'concat',
      () => ops.concat([a, input(['S', 4])], 1),
      'concat: shapes must agree but on axis 1, got [B, 4] [S, 4]',
    ],
    [
      'concat of dtypes',
      () => ops.concat([a, input(['B', 4], 'int32')], 1),
      'concat: dtypes must agree, got float32, int32',
    ],
    ['concat on no axis', () => ops.concat([a, a], 2), 'concat: axis must lie inside [B, 4], got 2'],
    [
      'slice',
      () => ops.slice(b, [2, 0], [2, 4]),
      'slice: window must lie inside [3, 4], got begin [2, 0] size [2, 4]',
    ],
    ['split', () => ops.split(a, [1, 2], -1), 'split: sizes must add up to axis 1 of [B, 4], got [1, 2]'],
    ['pad', () => ops.pad(a, [[0, 1]]), 'pad: paddings must name every axis of [B, 4], got 1'],
    ['gather', () => ops.gather(b, a), 'gather: indices must be int32, got float32'],
    [
      'broadcastTo',
      () => ops.broadcastTo(b, ['B', 4]),
      'broadcastTo: shapes must broadcast, got [3, 4] and [B, 4]',
    ],
    [
      'broadcastTo fewer axes',
      () => ops.broadcastTo(b, [4]),
      'broadcastTo: [3, 4] does not broadcast to [4]',
    ],
    ['sum', () => ops.sum(a, [2]), 'Sum: axis must lie inside [B, 4], got 2'],
    [
      'greaterEqual',
      () => ops.greaterEqual(ints, a),
      'greaterEqual: shapes and dtypes must fit, got int32[B] and float32[B, 4]',
    ],
    ['select', () => ops.select(a, a, a), 'select: the condition must be bool, got float32[B, 4]'],
    [
      'select of dtypes',
      () => ops.select(ops.greaterEqual(a, a), a, ints),
      'select: shapes and dtypes must fit, got float32[B, 4] and int32[B]',
    ],
    [
      'crossEntropy',
      () => ops.crossEntropy(b, ints),
      'crossEntropy: shapes and dtypes must fit, got float32[3, 4] and int32[B]',
    ],
    [
      'crossEntropy of a vector',
      () => ops.crossEntropy(input([3]), ints),
      'crossEntropy: operands must be matrices, got [3]',
    ],
    [
      'tensors of two graphs',
      () => ops.add(a, new Graph().placeholder('x', 'float32', ['B', 4])),
      'AddV2: inputs must belong to one graph, got "x" of another',
    ],
    ['a size from nowhere', () => ops.range(a, 'Z'), 'size: dim "Z" must come from a placeholder'],
  ])('%s', (_, build, message) => {
    expect(build).toThrow(message);
    expect(build).toThrow(/ \(at .*[\\/]ops\.test\.ts:\d+:\d+\)?\)$/);
  });

  it('cast to the same dtype, reshape and broadcast to the same shape add no node', () => {
    const count = graph.nodes.length;
    expect(ops.cast(a, 'float32')).toBe(a);
    expect(ops.reshape(a, ['B', 4])).toBe(a);
    expect(ops.broadcastTo(a, ['B', 4])).toBe(a);
    expect(graph.nodes).toHaveLength(count);
  });
});
