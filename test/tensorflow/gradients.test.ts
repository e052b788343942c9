/**
 * Every gradient rule against central finite differences and against tfjs's own tape, which has independent rules for
 * the same ops.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { formatShape, sizeOf, terms, type Dim, type Shape } from '../../src/tensorflow/dims.js';
import { gradientRules } from '../../src/tensorflow/gradientRules.js';
import { gradients } from '../../src/tensorflow/gradients.js';
import { Graph, type GraphTensor } from '../../src/tensorflow/graph.js';
import * as ops from '../../src/tensorflow/ops.js';
import { TensorFlow, type Session, type Values } from '../../src/tensorflow/session.js';
import { dot, relativeDifference } from '../helpers/compare.js';
import { randomNormal } from '../helpers/random.js';
import { loadTfjs, type Tfjs, type TfTensor } from '../helpers/tfjs.js';
import { cases, type Case } from './gradientCases.js';

/** Run-time sizes of the named dims. */
const SIZES: Readonly<Record<string, number>> = { B: 2, S: 3 };
/**
 * Step of the central differences. Float32 outputs of about 2 carry 1e-7, which the step makes 1e-7 / 2^-7 ≈ 2e-5; the
 * cut-off of the series is h² / 6 · f''' ≈ 1e-5 · f'''. Both lie well below the limit.
 */
const STEP = 2 ** -7;
const DIFFERENCES_LIMIT = 1e-3;
/** Two float32 computations of the same formula, sums of at most 40 terms. */
const TAPE_LIMIT = 2e-6;

let tensorflow: TensorFlow;
let tf: Tfjs;
beforeAll(async () => {
  tensorflow = await TensorFlow.open();
  tf = loadTfjs();
});
afterAll(() => tensorflow.close());

describe.each(cases)('$op: $name', (rule) => {
  it('has the gradient that the reference finds', async () => {
    const built = await build(rule);
    expect(built.kinds).toContain(rule.op);
    try {
      const got = await ourGradients(built);
      if (rule.exact) expect(got).toEqual(rule.exact(built.weights, ...inputData(built)));
      else {
        const differences = await finiteDifferences(built);
        got.forEach((gradient, i) =>
          expect(relativeDifference(gradient, differences[i] ?? [])).toBeLessThan(DIFFERENCES_LIMIT),
        );
      }
      if (rule.tape) {
        const tape = tapeGradients(rule, built);
        got.forEach((gradient, i) =>
          expect(relativeDifference(gradient, tape[i] ?? [])).toBeLessThan(TAPE_LIMIT),
        );
      }
    } finally {
      await built.session.close();
    }
  });
});

it('there is a case for each rule', () => {
  expect(new Set(cases.map(({ op }) => op))).toEqual(new Set(Object.keys(gradientRules)));
});

it('no gradient run leaves a tensor behind', async () => {
  expect(await tensorflow.tensorCount()).toBe(0);
});

describe('gradients', () => {
  const inputOf = (graph: Graph): GraphTensor => graph.placeholder('x', 'float32', ['B', 4]);

  it('refuses a loss that is no scalar', () => {
    const x = inputOf(new Graph());
    expect(() => gradients(x, [x])).toThrow(
      /^gradients: the loss must be a scalar, got \[B, 4\] \(at .*gradients\.test\.ts/,
    );
  });

  it('refuses an op that has no rule, and names it', () => {
    const graph = new Graph();
    const x = inputOf(graph);
    const loss = sumAll(ops.cos(x));
    expect(() => gradients(loss, [x])).toThrow('gradients: op Cos of "Cos" has no rule (gradientRules.ts)');
  });

  it('refuses a tensor that the loss does not depend on', () => {
    const graph = new Graph();
    const x = inputOf(graph);
    const other = graph.placeholder('other', 'float32', [3]);
    expect(() => gradients(sumAll(x), [x, other])).toThrow('gradients: the loss must depend on "other"');
  });

  it('goes through a wanted tensor on to the ones behind it', async () => {
    const graph = new Graph();
    const x = graph.placeholder('x', 'float32', [2]);
    const y = ops.square(x);
    const [dy, dx] = gradients(sumAll(ops.square(y)), [y, x]) as [GraphTensor, GraphTensor]; // as wanted
    graph.entryPoint('run', { inputs: { x }, outputs: { dx, dy } });
    const session = await tensorflow.load(graph);
    const input: Values = { shape: [2], data: Float32Array.of(1, 3) };
    const run = await session.run('run', { x: input }, ['dx', 'dy']);
    expect([...run.dy.data]).toEqual([2, 18]); // 2 y
    expect([...run.dx.data]).toEqual([4, 108]); // 4 x³
    await session.close();
  });

  it('adds no node towards inputs that are not wanted', () => {
    const graph = new Graph();
    const x = inputOf(graph);
    const frozen = graph.variable('frozen', 'float32', [3, 4]);
    const loss = sumAll(ops.matMul(x, frozen, { transposeB: true }));
    gradients(loss, [x]);
    expect(graph.nodes.filter(({ op }) => op === 'MatMul')).toHaveLength(2); // forward, and dx alone
  });
});

interface Built {
  readonly session: Session;
  /** Op kinds of the forward graph. */
  readonly kinds: readonly string[];
  readonly inputs: Record<string, Values>;
  /** Random gradient of the output. */
  readonly weights: Float32Array;
  readonly outputShape: readonly number[];
}

async function build(rule: Case): Promise<Built> {
  const graph = new Graph();
  const placeholders = rule.inputs.map((shape, i) => graph.placeholder(`x${i}`, 'float32', shape));
  const output = rule.build(...(placeholders as [GraphTensor, GraphTensor, GraphTensor])); // a case takes as many as it lists
  const kinds = graph.nodes.map(({ op }) => op);
  const weights = graph.placeholder('weights', 'float32', output.shape);
  const loss = sumAll(ops.mul(output, weights));
  const found = gradients(loss, placeholders);
  found.forEach((gradient, i) => expect(formatShape(gradient.shape)).toBe(formatShape(rule.inputs[i] ?? [])));
  const inputs = Object.fromEntries(placeholders.map((x) => [x.node.name, x]));
  const outputs = Object.fromEntries(found.map((gradient, i) => [`d${i}`, gradient]));
  graph.entryPoint('run', { inputs: { ...inputs, weights }, outputs: { ...outputs, output } });
  const values = rule.inputs.map((shape, i) => randomValues(shape, i + 1, rule.domain));
  const outputShape = output.shape.map(sizeAt);
  return {
    session: await tensorflow.load(graph),
    kinds,
    inputs: Object.fromEntries(values.map((value, i) => [`x${i}`, value])),
    weights: randomNormal(sizeAt(sizeOf(output.shape)), 99),
    outputShape,
  };
}

function randomValues(shape: Shape, seed: number, domain = (x: number): number => x): Values {
  const sizes = shape.map(sizeAt);
  return { shape: sizes, data: randomNormal(sizeAt(sizeOf(shape)), seed).map(domain) };
}

/** Size of a dim when B = 2 and S = 3. */
function sizeAt(dim: Dim): number {
  return [...terms(dim)].reduce(
    (sum, [name, count]) =>
      sum +
      name
        .split('*')
        .filter(Boolean)
        .reduce((product, factor) => product * (SIZES[factor] ?? NaN), count),
    0,
  );
}

function inputData({ inputs }: Built): Float32Array[] {
  return Object.values(inputs).map(({ data }) => Float32Array.from(data));
}

async function ourGradients({ session, inputs, weights, outputShape }: Built): Promise<Float32Array[]> {
  const names = Object.keys(inputs).map((_, i) => `d${i}`);
  const dy = { shape: outputShape, data: weights };
  const run = await session.run('run', { ...inputs, weights: dy }, names);
  return names.map((name) => Float32Array.from(run[name]?.data ?? []));
}

/** Σ weights · (y(x + h) - y(x - h)) / 2h for each element, summed in float64. */
async function finiteDifferences({ session, inputs, weights, outputShape }: Built): Promise<number[][]> {
  const dy = { shape: outputShape, data: weights };
  const weighted = async (name: string, { shape }: Values, data: Float32Array): Promise<number> => {
    const { output } = await session.run('run', { ...inputs, weights: dy, [name]: { shape, data } }, [
      'output',
    ]);
    return dot(output.data, weights);
  };
  const gradientOf = ([name, values]: [string, Values]): Promise<number[]> =>
    Promise.all(
      Array.from(values.data, async (value, i) => {
        const [up, down] = [Math.fround(value + STEP), Math.fround(value - STEP)];
        const at = (x: number): Float32Array => Float32Array.from(values.data).fill(x, i, i + 1);
        const rise = (await weighted(name, values, at(up))) - (await weighted(name, values, at(down)));
        return rise / (up - down);
      }),
    );
  return Promise.all(Object.entries(inputs).map(gradientOf));
}

function tapeGradients({ tape }: Case, { inputs, weights, outputShape }: Built): Float32Array[] {
  return tf.tidy(() => {
    const xs = Object.values(inputs).map(({ shape, data }) => tf.tensor(data, shape));
    const f = (...args: TfTensor[]): TfTensor =>
      tape?.(tf, ...(args as [TfTensor, TfTensor, TfTensor])) ?? tf.tensor([]); // as many as the case lists
    return tf
      .grads(f)(xs, tf.tensor(weights, outputShape))
      .map((gradient) => gradient.dataSync().slice());
  });
}

function sumAll(x: GraphTensor): GraphTensor {
  return ops.sum(x, [...x.shape.keys()]);
}
