import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Graph, only } from '../../src/tensorflow/graph.js';
import * as ops from '../../src/tensorflow/ops.js';
import { bytesField, floatField, varintField } from '../../src/tensorflow/protobuf.js';
import { encodeSavedModel, tensorName } from '../../src/tensorflow/savedModel.js';
import { TensorFlow } from '../../src/tensorflow/session.js';

describe('graph', () => {
  it('gives nodes of one name different ones', () => {
    const graph = new Graph();
    const names = [1, 2, 3].map(() => graph.placeholder('x', 'float32', [2]).node.name);
    expect(names).toEqual(['x', 'x_1', 'x_2']);
    expect(tensorName(only(only(graph.nodes, 2).outputs))).toBe('x_2:0');
  });

  it('shares equal constants and equal sizes', () => {
    const graph = new Graph();
    expect(graph.constant([1, 2])).toBe(graph.constant([1, 2]));
    expect(graph.constant([1, 2])).not.toBe(graph.constant([1, 2], 'int32'));
    expect(graph.constant(1)).not.toBe(graph.constant([1]));
    graph.placeholder('x', 'float32', ['B', 'S']);
    expect(graph.size('B*S')).toBe(graph.size('B*S'));
  });

  it('finds the dim behind a size', () => {
    const graph = new Graph();
    graph.placeholder('x', 'float32', ['B', 'S']);
    expect([5, 'B', '2*B+S'].map((dim) => graph.dimOf(graph.size(dim)))).toEqual([5, 'B', '2*B+S']);
    expect(() => graph.dimOf(graph.placeholder('y', 'int32', []))).toThrow(
      'dimOf: "y" must be a size of this graph',
    );
  });

  it('gives the same variable again, and refuses it with another dtype, shape or a taken name', () => {
    const graph = new Graph();
    const read = graph.variable('w', 'bfloat16', [2, 3]);
    expect(graph.variable('w', 'bfloat16', [2, 3])).toBe(read);
    expect(() => graph.variable('w', 'float32', [2, 3])).toThrow(
      'variable: "w" must stay bfloat16[2, 3], got float32[2, 3]',
    );
    expect(() => graph.variable('w', 'bfloat16', [3, 2])).toThrow(
      'variable: "w" must stay bfloat16[2, 3], got bfloat16[3, 2]',
    );
    graph.placeholder('x', 'float32', [1]);
    expect(() => graph.variable('x', 'float32', [1])).toThrow(
      'variable: names must be unique, got "x" twice',
    );
  });

  it('refuses two entry points of one name', () => {
    const graph = new Graph();
    graph.entryPoint('run', { inputs: {}, outputs: {} });
    expect(() => graph.entryPoint('run', { inputs: {}, outputs: {} })).toThrow(
      'entryPoint: names must be unique, got "run" twice',
    );
  });
});

describe('protobuf', () => {
  // From the encoding guide of protocol buffers: field 1 = 150 is 08 96 01, field 2 = "testing" is 12 07 74 …
  it.each([
    ['varint', varintField(1, 150), '089601'],
    ['zero', varintField(1, 0), '0800'],
    ['-1 as ten bytes', varintField(3, -1), '18ffffffffffffffffff01'],
    ['beyond 32 bits', varintField(1, 2 ** 40), '088080808080' + '20'],
    ['text', bytesField(2, 'testing'), '120774657374696e67'],
    ['field number above 15', bytesField(16, new Uint8Array([7])), '82010107'],
    ['float', floatField(4, 1.5), '250000c03f'],
  ])('writes %s as the guide has it', (_, bytes, hex) => expect(bytes.toString('hex')).toBe(hex));
});

describe('saved model', () => {
  let tensorflow: TensorFlow;
  beforeAll(async () => {
    tensorflow = await TensorFlow.open();
  });
  afterAll(() => tensorflow.close());

  function rowSums(): Graph {
    const graph = new Graph();
    const x = graph.placeholder('x', 'float32', ['B', 'S']);
    const grown = ops.add(ops.broadcastTo(ops.sum(x, [1], { keepDims: true }), ['B', 'S']), x);
    const flat = ops.reshape(grown, ['B*S']);
    graph.entryPoint('run', { inputs: { x }, outputs: { flat, positions: ops.range(flat, 'B*S') } });
    return graph;
  }

  it('is the same bytes for the same graph', () => {
    expect(encodeSavedModel(rowSums()).equals(encodeSavedModel(rowSums()))).toBe(true);
  });

  it('one graph serves every size of its named dims', async () => {
    const session = await tensorflow.load(rowSums());
    for (const [B, S] of [
      [1, 1],
      [2, 3],
      [5, 2],
      [1, 64],
      [2, 3],
    ] as const) {
      const data = Float32Array.from({ length: B * S }, (_, i) => i + 1);
      const { flat, positions } = await session.run('run', { x: { shape: [B, S], data } }, [
        'flat',
        'positions',
      ]);
      const rows = Array.from({ length: B }, (_, b) =>
        data.slice(b * S, (b + 1) * S).reduce((sum, v) => sum + v, 0),
      );
      expect([...flat.data]).toEqual([...data].map((value, i) => value + (rows[Math.floor(i / S)] ?? NaN)));
      expect([...positions.data]).toEqual([...data.keys()]);
    }
    await session.close();
  });

  it('constants of many values keep every bit', async () => {
    const values = Float32Array.from({ length: 1000 }, (_, i) =>
      Math.fround(Math.sin(i) * 10 ** ((i % 60) - 30)),
    );
    const graph = new Graph();
    graph.entryPoint('run', {
      inputs: {},
      outputs: { y: graph.constant([...values], 'float32', [10, 100]) },
    });
    const session = await tensorflow.load(graph);
    const { y } = await session.run('run', {}, ['y']);
    expect(y.shape).toEqual([10, 100]);
    expect(y.data).toEqual(values);
    await session.close();
  });

  it('two sessions at once keep their variables apart', async () => {
    const graph = (): Graph => {
      const made = new Graph();
      made.entryPoint('run', { inputs: {}, outputs: { y: made.variable('w', 'float32', [1]) } });
      return made;
    };
    const sessions = [await tensorflow.load(graph()), await tensorflow.load(graph())];
    for (const [i, session] of sessions.entries())
      await session.assign('w', {
        dtype: 'float32',
        shape: [1],
        data: new Uint8Array(Float32Array.of(i + 1).buffer),
      });
    const read = await Promise.all(sessions.map((session) => session.run('run', {}, ['y'])));
    expect(read.map(({ y }) => y.data[0])).toEqual([1, 2]);
    for (const session of sessions) await session.close();
  });

  it('a graph that TensorFlow refuses is an error with its reason', async () => {
    const graph = new Graph();
    graph.addOne({ op: 'NoSuchOp' }, 'float32', []);
    await expect(tensorflow.load(graph)).rejects.toThrow(/^tensorflow: .*NoSuchOp/s);
  });
});

it('the limits of what is asked of TensorFlow stay in one place: only the worker loads the binding', async () => {
  const source = await readFile(join(import.meta.dirname, '../../src/tensorflow/session.ts'), 'utf8');
  expect(source).not.toContain("from './binding.js'");
});
