/** The cases of gradients.test.ts: at least one for each rule, with the same function for tfjs's tape. */
import { addDims, type Shape } from '../../src/tensorflow/dims.js';
import type { GraphTensor } from '../../src/tensorflow/graph.js';
import { bfloat16ToFloat32, float32ToBfloat16 } from '../../src/tensorflow/halfFloats.js';
import * as ops from '../../src/tensorflow/ops.js';
import type { Tfjs, TfTensor } from '../helpers/tfjs.js';

/** A function of up to three float32 inputs, whose gradient is checked. */
export interface Case {
  /** The rule that this is a case of. */
  readonly op: string;
  /** What is special about it. */
  readonly name: string;
  /** Shapes of the inputs; at run time B = 2 and S = 3. */
  readonly inputs: readonly Shape[];
  readonly build: (a: GraphTensor, b: GraphTensor, c: GraphTensor) => GraphTensor;
  /** The same function in tfjs. */
  readonly tape?: (tf: Tfjs, a: TfTensor, b: TfTensor, c: TfTensor) => TfTensor;
  /** Maps normal deviates into the function's domain. */
  readonly domain?: (x: number) => number;
  /** Gradients of the inputs from that of the output, where differences would not find them. */
  readonly exact?: (dy: Float32Array, ...inputs: Float32Array[]) => Float32Array[];
}

/** Away from 0, where roots, logarithms and quotients are steep. */
const positive = (x: number): number => Math.abs(x) + 1;

const FLAGS = [false, true];

/** Products with either operand transposed or not, some dims known only at run time. */
const products: Case[] = FLAGS.flatMap((transposeA) =>
  FLAGS.flatMap((transposeB) => {
    const matrices = [transposeA ? [4, 'S'] : ['S', 4], transposeB ? [5, 4] : [4, 5]] as const;
    const stacks = [
      ['B', 2, ...(transposeA ? [4, 'S'] : ['S', 4])],
      ['B', 2, ...(transposeB ? ['S', 4] : [4, 'S'])],
    ];
    const name = `${transposeA ? 'aᵀ' : 'a'} · ${transposeB ? 'bᵀ' : 'b'}`;
    const tape: NonNullable<Case['tape']> = (tf, a, b) => tf.matMul(a, b, transposeA, transposeB);
    const options = { transposeA, transposeB };
    return [
      { op: 'MatMul', name, inputs: matrices, build: (a, b) => ops.matMul(a, b, options), tape },
      { op: 'BatchMatMulV2', name, inputs: stacks, build: (a, b) => ops.batchMatMul(a, b, options), tape },
    ] satisfies Case[];
  }),
);

/** Shapes that broadcast: the left one, the right one, both, to more axes, and to axes known only at run time. */
const BROADCASTS: Record<string, readonly [Shape, Shape]> = {
  'equal shapes': [
    ['B', 4],
    ['B', 4],
  ],
  'b repeated': [['B', 'S', 4], [4]],
  'a repeated': [[4], ['B', 'S', 4]],
  'both repeated': [
    ['B', 1, 4],
    ['S', 1],
  ],
  'scalar a': [[], ['B', 4]],
  'scalar b': [[3, 4], []],
};
const BINARY = {
  AddV2: [ops.add, 'add'],
  Sub: [ops.sub, 'sub'],
  Mul: [ops.mul, 'mul'],
  RealDiv: [ops.div, 'div'],
} as const;
const broadcasts: Case[] = Object.entries(BINARY).flatMap(([op, [build, twin]]) =>
  Object.entries(BROADCASTS).map(([name, inputs]) => ({
    op,
    name,
    inputs,
    build,
    tape: (tf, a, b) => tf[twin](a, b),
    ...(op === 'RealDiv' ? { domain: positive } : {}),
  })),
);

const UNARY = {
  Neg: [ops.neg, 'neg'],
  Square: [ops.square, 'square'],
  Tanh: [ops.tanh, 'tanh'],
  Sigmoid: [ops.sigmoid, 'sigmoid'],
  Exp: [ops.exp, 'exp'],
  Erf: [ops.erf, 'erf'],
  Softmax: [ops.softmax, 'softmax'],
  Rsqrt: [ops.rsqrt, 'rsqrt'],
  Sqrt: [ops.sqrt, 'sqrt'],
  Log: [ops.log, 'log'],
} as const;
const NEED_POSITIVE = new Set(['Rsqrt', 'Sqrt', 'Log']);
const unary: Case[] = Object.entries(UNARY).map(([op, [build, twin]]) => ({
  op,
  name: 'every element',
  inputs: [['B', 'S', 5]],
  build,
  tape: (tf, x) => tf[twin](x),
  ...(NEED_POSITIVE.has(op) ? { domain: positive } : {}),
}));

const reductions: Case[] = (['Sum', 'Mean'] as const).flatMap((op) =>
  [[0], [-1], [0, 2], [0, 1, 2]].flatMap((axes) =>
    FLAGS.map((keepDims): Case => {
      const [build, twin] = op === 'Sum' ? ([ops.sum, 'sum'] as const) : ([ops.mean, 'mean'] as const);
      return {
        op,
        name: `axes ${axes.join()}${keepDims ? ', kept' : ''}`,
        inputs: [['B', 4, 'S']],
        build: (x) => build(x, axes, { keepDims }),
        tape: (tf, x) => tf[twin](x, axes, keepDims),
      };
    }),
  ),
);

const layouts: Case[] = [
  {
    op: 'Reshape',
    name: 'one dim known at run time',
    inputs: [['B', 'S', 4]],
    build: (x) => ops.reshape(x, ['B*S', 2, 2]),
    tape: (tf, x) => tf.reshape(x, [6, 2, 2]),
  },
  {
    op: 'Reshape',
    name: 'several dims known at run time',
    inputs: [['B', 4, 'S']],
    build: (x) => ops.reshape(x, ['S', 2, 'B', 2]),
    tape: (tf, x) => tf.reshape(x, [3, 2, 2, 2]),
  },
  {
    op: 'Transpose',
    name: 'two axes exchanged',
    inputs: [['B', 'S', 4, 2]],
    build: (x) => ops.transpose(x, [0, 2, 1, 3]),
    tape: (tf, x) => tf.transpose(x, [0, 2, 1, 3]),
  },
  {
    op: 'Transpose',
    name: 'an order that is not its own inverse',
    inputs: [['B', 'S', 4]],
    build: (x) => ops.transpose(x, [2, 0, 1]),
    tape: (tf, x) => tf.transpose(x, [2, 0, 1]),
  },
  {
    op: 'ConcatV2',
    name: 'last axis, three widths',
    inputs: [
      ['B', 1],
      ['B', 4],
      ['B', 2],
    ],
    build: (a, b, c) => ops.concat([a, b, c], -1),
    tape: (tf, a, b, c) => tf.concat([a, b, c], 1),
  },
  {
    op: 'ConcatV2',
    name: 'an axis known at run time, one part twice',
    inputs: [
      ['B', 4],
      ['S', 4],
    ],
    build: (a, b) => ops.concat([a, b, a], 0),
    tape: (tf, a, b) => tf.concat([a, b, a], 0),
  },
  {
    op: 'SplitV',
    name: 'three parts, each used another way, one twice',
    inputs: [['B', 7]],
    build: (x) => {
      const [a, b, c] = ops.split(x, [2, 2, 3], 1) as [GraphTensor, GraphTensor, GraphTensor]; // three sizes
      return ops.concat([ops.mul(a, b), ops.square(c), a], 1);
    },
    tape: (tf, x) => {
      const [a, b, c] = tf.split(x, [2, 2, 3], 1) as [TfTensor, TfTensor, TfTensor]; // three sizes
      return tf.concat([tf.mul(a, b), tf.square(c), a], 1);
    },
  },
  {
    op: 'SplitV',
    name: 'a middle axis, the first part unused',
    inputs: [['B', 3, 2]],
    build: (x) => ops.square(ops.split(x, [1, 2], 1)[1] ?? x),
    tape: (tf, x) => tf.square(tf.split(x, [1, 2], 1)[1] ?? x),
  },
  {
    op: 'Slice',
    name: 'known window',
    inputs: [['B', 5, 4]],
    build: (x) => ops.slice(x, [0, 1, 2], ['B', 3, 2]),
    tape: (tf, x) => tf.slice(x, [0, 1, 2], [2, 3, 2]),
  },
  {
    op: 'Slice',
    name: 'begin and size known at run time',
    inputs: [
      ['B', 4],
      ['S', 4],
    ],
    build: (a, b) => ops.slice(ops.concat([a, b, a], 0), ['B', 1], [addDims('S', 1), 2]),
    tape: (tf, a, b) => tf.slice(tf.concat([a, b, a], 0), [2, 1], [4, 2]),
  },
  {
    op: 'GatherV2',
    name: 'repeated and unused rows',
    inputs: [[5, 3]],
    build: (x) => ops.gather(x, x.graph.constant([0, 2, 2, 1, 4, 2], 'int32', [2, 3])),
    tape: (tf, x) => tf.gather(x, tf.tensor([0, 2, 2, 1, 4, 2], [2, 3], 'int32')),
  },
  {
    op: 'GatherV2',
    name: 'rows of rank 2, their number known at run time',
    inputs: [['S', 2, 2]],
    build: (x) => ops.gather(x, x.graph.constant([2, 2, 0], 'int32')),
    tape: (tf, x) => tf.gather(x, tf.tensor([2, 2, 0], [3], 'int32')),
  },
  {
    op: 'BroadcastTo',
    name: 'new axes',
    inputs: [[4], ['B', 'S']],
    build: (x, like) => ops.add(ops.broadcastTo(x, ['B', 'S', 4]), ops.reshape(like, ['B', 'S', 1])),
    tape: (tf, x, like) => tf.add(tf.broadcastTo(x, [2, 3, 4]), tf.reshape(like, [2, 3, 1])),
  },
  {
    op: 'BroadcastTo',
    name: 'axes of one',
    inputs: [
      ['B', 1, 4],
      ['S', 1],
    ],
    build: (x, like) => ops.mul(ops.broadcastTo(x, ['B', 'S', 4]), like),
    tape: (tf, x, like) => tf.mul(tf.broadcastTo(x, [2, 3, 4]), like),
  },
];

const others: Case[] = [
  {
    op: 'SelectV2',
    name: 'equal shapes',
    inputs: [
      [2, 3],
      [2, 3],
    ],
    build: (a, b) => ops.select(chosen(a), a, b),
    tape: (tf, a, b) => tf.where(tf.tensor([1, 0, 0, 1, 0, 1], [2, 3], 'bool'), a, b),
  },
  {
    op: 'SelectV2',
    name: 'both operands repeated',
    inputs: [[3], [2, 1]],
    build: (a, b) => ops.select(chosen(a), a, b),
    tape: (tf, a, b) =>
      tf.where(
        tf.tensor([1, 0, 0, 1, 0, 1], [2, 3], 'bool'),
        tf.broadcastTo(a, [2, 3]),
        tf.broadcastTo(b, [2, 3]),
      ),
  },
  {
    op: 'SparseSoftmaxCrossEntropyWithLogits',
    name: 'a label twice, one never',
    inputs: [[4, 3]],
    build: (x) => ops.crossEntropy(x, x.graph.constant([2, 0, 2, 0], 'int32')),
    tape: (tf, x) => {
      const labels = tf.tensor([0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0], [4, 3]);
      return tf.neg(tf.sum(tf.mul(tf.logSoftmax(x), labels), [1]));
    },
  },
  {
    op: 'StopGradient',
    name: 'a factor that counts as constant',
    inputs: [['B', 4]],
    build: (x) => ops.mul(ops.stopGradient(x), x),
    exact: (dy, x) => [x.map((value, i) => value * (dy[i] ?? NaN))],
  },
  {
    op: 'Cast',
    name: 'the gradient takes the dtype, and so the rounding, of the value',
    inputs: [['B', 4]],
    build: (x) => ops.cast(ops.cast(x, 'bfloat16'), 'float32'),
    exact: (dy) => [bfloat16ToFloat32(float32ToBfloat16(dy))],
  },
  {
    op: 'Cast',
    name: 'none flows through integers',
    inputs: [['B', 4]],
    build: (x) => ops.mul(ops.cast(ops.cast(x, 'int32'), 'float32'), x),
    exact: (dy, x) => [x.map((value, i) => (Math.trunc(value) + 0) * (dy[i] ?? NaN))],
  },
  {
    op: 'Identity',
    name: 'the gradient as it comes',
    inputs: [['B', 4]],
    build: (x) => {
      const attributes = { T: { kind: 'type', value: 'float32' } } as const;
      return x.graph.addOne({ op: 'Identity', inputs: [x], attributes }, 'float32', x.shape);
    },
    exact: (dy) => [dy],
  },
  {
    op: 'Mul',
    name: 'a tensor times itself',
    inputs: [['B', 4]],
    build: (x) => ops.mul(x, x),
    tape: (tf, x) => tf.mul(x, x),
  },
  {
    op: 'MatMul',
    name: 'a matrix times its own transpose',
    inputs: [['B', 4]],
    build: (x) => ops.matMul(x, x, { transposeB: true }),
    tape: (tf, x) => tf.matMul(x, x, false, true),
  },
  {
    op: 'AddV2',
    name: 'two ways of unequal length from one tensor',
    inputs: [['B', 4]],
    build: (x) => ops.add(ops.tanh(x), ops.sigmoid(ops.mul(ops.exp(x), x))),
    tape: (tf, x) => tf.add(tf.tanh(x), tf.sigmoid(tf.mul(tf.exp(x), x))),
  },
];

/** Every case. */
export const cases: readonly Case[] = [
  ...products,
  ...broadcasts,
  ...unary,
  ...reductions,
  ...layouts,
  ...others,
];

/** bool[2, 3]: true false false, true false true. */
function chosen({ graph }: GraphTensor): GraphTensor {
  return ops.greaterEqual(graph.constant([1, 0, 0, 1, 0, 1], 'float32', [2, 3]), graph.constant(0.5));
}
