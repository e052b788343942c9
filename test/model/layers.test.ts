import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  batchProduct,
  gelu,
  layerNorm,
  linear,
  rmsNorm,
  silu,
  splitHeads,
  standardise,
} from '../../src/model/layers.js';
import { gradients } from '../../src/tensorflow/gradients.js';
import { Graph, only, type GraphTensor } from '../../src/tensorflow/graph.js';
import { mul, square, sum } from '../../src/tensorflow/ops.js';
import { bfloat16ToFloat32, float32ToBfloat16 } from '../../src/tensorflow/halfFloats.js';
import { TensorFlow, type Values } from '../../src/tensorflow/session.js';
import { largestDifference, relativeDifference } from '../helpers/compare.js';
import { randomNormal } from '../helpers/random.js';
import { gelu as exactGelu } from '../helpers/reference.js';

let tensorflow: TensorFlow;
beforeAll(async () => {
  tensorflow = await TensorFlow.open();
});
afterAll(() => tensorflow.close());

/** Runs `build` on x. */
async function compute(x: Values, build: (x: GraphTensor) => GraphTensor): Promise<Values> {
  const graph = new Graph();
  const input = graph.placeholder('x', 'float32', ['B', ...x.shape.slice(1)]);
  graph.entryPoint('run', { inputs: { x: input }, outputs: { y: build(input) } });
  const session = await tensorflow.load(graph);
  const { y } = await session.run('run', { x }, ['y']);
  await session.close();
  return y;
}

const [B, N] = [3, 8];
const x: Values = { shape: [B, N], data: randomNormal(B * N, 1) };
const rows = Array.from({ length: B }, (_, b) => [...x.data.subarray(b * N, (b + 1) * N)]);
const weight = [...randomNormal(N, 2)];
const bias = [...randomNormal(N, 3)];
const average = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;
/** Float32 sums of 8 terms against float64. */
const LIMIT = 1e-6;

describe('layers', () => {
  it('rmsNorm divides by the root mean square, eps inside the root', async () => {
    const y = await compute(x, (v) => rmsNorm(v, v.graph.constant(weight), 0.1));
    const expected = rows.flatMap((row) => {
      const scale = 1 / Math.sqrt(average(row.map((value) => value * value)) + 0.1);
      return row.map((value, i) => value * scale * (weight[i] ?? NaN));
    });
    expect(relativeDifference(y.data, expected)).toBeLessThan(LIMIT);
  });

  it.each([true, false])(
    'layerNorm takes the population variance, eps inside the root; weights %s',
    async (affine) => {
      const y = await compute(x, (v) =>
        affine ? layerNorm(v, 0.1, v.graph.constant(weight), v.graph.constant(bias)) : layerNorm(v, 0.1),
      );
      const expected = rows.flatMap((row) => {
        const centred = row.map((value) => value - average(row));
        const scale = 1 / Math.sqrt(average(centred.map((value) => value * value)) + 0.1);
        return centred.map(
          (value, i) => value * scale * (affine ? (weight[i] ?? NaN) : 1) + (affine ? (bias[i] ?? NaN) : 0),
        );
      });
      expect(relativeDifference(y.data, expected)).toBeLessThan(LIMIT);
    },
  );

  it('silu is x / (1 + e⁻ˣ), gelu the exact one', async () => {
    const silued = await compute(x, silu);
    expect(
      largestDifference(
        silued.data,
        rows.flat().map((v) => v / (1 + Math.exp(-v))),
      ),
    ).toBeLessThan(LIMIT);
    const gelued = await compute(x, gelu);
    expect(largestDifference(gelued.data, rows.flat().map(exactGelu))).toBeLessThan(LIMIT);
    // Φ(1) = 0.8413447; the tanh formula would give 0.841192 for gelu(1)
    expect(exactGelu(1)).toBeCloseTo(0.8413447461, 9);
  });

  it('linear is x · weightᵀ + bias on every leading axis', async () => {
    const stacked: Values = { shape: [1, B, N], data: Float32Array.from(x.data) };
    const kernel = [...randomNormal(2 * N, 4)];
    const y = await compute(stacked, (v) =>
      linear(v, v.graph.constant(kernel, 'float32', [2, N]), v.graph.constant([0.5, -1])),
    );
    const expected = rows.flatMap((row) =>
      [0, 1].map((out) =>
        row.reduce((sum, value, i) => sum + value * (kernel[out * N + i] ?? NaN), out ? -1 : 0.5),
      ),
    );
    expect(y.shape).toEqual([1, B, 2]);
    expect(relativeDifference(y.data, expected)).toBeLessThan(LIMIT);
  });

  it('linear with a bfloat16 weight rounds x and the product to bfloat16, and adds the bias in float32', async () => {
    const graph = new Graph();
    const input = graph.placeholder('x', 'float32', ['B', 1]);
    const y = linear(input, graph.variable('w', 'bfloat16', [1, 1]), graph.constant([2 ** -12]));
    graph.entryPoint('run', { inputs: { x: input }, outputs: { y } });
    const session = await tensorflow.load(graph);
    await session.assign('w', {
      dtype: 'float32',
      shape: [1, 1],
      data: new Uint8Array(Float32Array.of(1).buffer),
    });
    const data = Float32Array.of(1 + 2 ** -9, 1 + 2 ** -7 + 2 ** -9, 3.14159);
    const run = await session.run('run', { x: { shape: [3, 1], data } }, ['y']);
    expect(run.y.data).toEqual(bfloat16ToFloat32(float32ToBfloat16(data)).map((value) => value + 2 ** -12));
    await session.close();
  });

  it('linear in a graph that widens is float32 over the weight rounded to bfloat16, forward and backward', async () => {
    const [M, K, O] = [5, 64, 48];
    const stored = float32ToBfloat16(randomNormal(O * K, 7));
    const [values, weights] = [randomNormal(M * K, 8), bfloat16ToFloat32(stored)];
    const run = async (dtype: 'float32' | 'bfloat16', widen: boolean): Promise<Values[]> => {
      const graph = new Graph({ widen });
      const input = graph.placeholder('x', 'float32', ['M', K]);
      const y = linear(input, graph.variable('w', dtype, [O, K]));
      const dx = only(gradients(sum(square(y), [0, 1]), [input]));
      graph.entryPoint('run', { inputs: { x: input }, outputs: { y, dx } });
      const casts = graph.nodes.filter(({ op, control }) => op === 'Cast' && control.length);
      // One before each product, which waits for what it is multiplied with: no two layers' copies lie in memory at once
      expect(casts).toHaveLength(widen ? 2 : 0);
      const session = await tensorflow.load(graph);
      const data = dtype === 'float32' ? new Uint8Array(weights.slice().buffer) : stored.slice();
      await session.assign('w', { dtype, shape: [O, K], data });
      const { y: out, dx: slope } = await session.run('run', { x: { shape: [M, K], data: values } }, [
        'y',
        'dx',
      ]);
      await session.close();
      return [out, slope];
    };
    const [widened, float32, emulated] = [
      await run('bfloat16', true),
      await run('float32', false),
      await run('bfloat16', false),
    ];
    expect(widened).toEqual(float32);
    expect(widened).not.toEqual(emulated);
  });

  it('silu in a graph that widens is computed again for its gradient, and is the same', async () => {
    const run = async (widen: boolean): Promise<{ slope: Values; sigmoids: number }> => {
      const graph = new Graph({ widen });
      const [gate, up] = [
        graph.placeholder('gate', 'float32', ['B', N]),
        graph.placeholder('up', 'float32', ['B', N]),
      ];
      const dx = only(gradients(sum(mul(silu(gate), up), [0, 1]), [gate]));
      graph.entryPoint('run', { inputs: { gate, up }, outputs: { dx } });
      const session = await tensorflow.load(graph);
      const { dx: slope } = await session.run(
        'run',
        { gate: x, up: { ...x, data: randomNormal(B * N, 9) } },
        ['dx'],
      );
      await session.close();
      return { slope, sigmoids: graph.nodes.filter(({ op }) => op === 'Sigmoid').length };
    };
    const [kept, again] = [await run(false), await run(true)];
    expect(again.slope).toEqual(kept.slope);
    expect([kept.sigmoids, again.sigmoids]).toEqual([1, 2]); // once more in all, not for each of its uses
  });

  it('batchProduct gives float32 from either precision', async () => {
    const stacks: Values = { shape: [2, 2, 4], data: randomNormal(16, 6) };
    const product = (precision: 'float32' | 'bfloat16'): Promise<Values> =>
      compute(stacks, (v) => batchProduct(v, v, precision, { transposeB: true }));
    const [exact, rounded] = [await product('float32'), await product('bfloat16')];
    const row = (n: number): number[] => [...stacks.data.subarray(n * 4, n * 4 + 4)];
    const dot = (a: number[], b: number[]): number =>
      a.reduce((sum, value, i) => sum + value * (b[i] ?? NaN), 0);
    const expected = [0, 1].flatMap((s) =>
      [0, 1].flatMap((i) => [0, 1].map((j) => dot(row(2 * s + i), row(2 * s + j)))),
    );
    expect(relativeDifference(exact.data, expected)).toBeLessThan(LIMIT);
    expect(relativeDifference(rounded.data, expected)).toBeLessThan(2 ** -6); // operands and result of 2^-9 each
    expect(rounded.data).not.toEqual(exact.data);
  });

  it('standardise works channel by channel, splitHeads cuts the last axis', async () => {
    const std = weight.map((value) => Math.abs(value) + 1);
    const y = await compute(x, (v) =>
      splitHeads(standardise(v, v.graph.constant(bias), v.graph.constant(std)), 2, 4),
    );
    expect(y.shape).toEqual([B, 2, 4]);
    const expected = rows.flatMap((row) =>
      row.map((value, i) => (value - (bias[i] ?? NaN)) / (std[i] ?? NaN)),
    );
    expect(relativeDifference(y.data, expected)).toBeLessThan(LIMIT);
  });

  it('a weight of another width is named with both shapes', () => {
    const graph = new Graph();
    const input = graph.placeholder('x', 'float32', ['B', 'S', 5]);
    expect(() => linear(input, graph.constant([1, 2, 3, 4], 'float32', [1, 4]))).toThrow(
      'linear: x [B, S, 5] must end in the columns of the weight [1, 4]',
    );
  });
});
