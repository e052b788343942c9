/**
 * Reverse-mode rules: for each op kind, the gradient of its inputs from the gradient of its output.
 * Each rule is tested against finite differences and against tfjs's own tape (test/tensorflow/gradients.test.ts).
 */
import { addDims, sameShape, sizeOf, subtractDims, type Dim, type Shape } from './dims.js';
import { only, type GraphNode, type GraphTensor } from './graph.js';
import * as ops from './ops.js';

/**
 * Gradients of the node's inputs, in order; `undefined` for inputs that have none (indices, shapes). `dy` is the
 * gradient of the first output, `dyOf` that of any: zeros where the loss does not depend on it.
 */
export type GradientRule = (
  node: GraphNode,
  dy: GraphTensor,
  wanted: (input: number) => boolean,
  dyOf: (output: number) => GraphTensor,
) => (GraphTensor | undefined)[];

const input = (node: GraphNode, index = 0): GraphTensor => only(node.inputs, index);
const output = (node: GraphNode, index = 0): GraphTensor => only(node.outputs, index);
const flag = (node: GraphNode, name: string): boolean =>
  node.attributes[name]?.kind === 'bool' && node.attributes[name].value;

/** The rules by TensorFlow op name. */
export const gradientRules: Readonly<Record<string, GradientRule>> = {
  MatMul: (node, dy, wanted) => matMulGradient(node, dy, wanted, ops.matMul, 'transpose_a', 'transpose_b'),
  BatchMatMulV2: (node, dy, wanted) => matMulGradient(node, dy, wanted, ops.batchMatMul, 'adj_x', 'adj_y'),
  AddV2: (node, dy) => [unbroadcast(dy, input(node).shape), unbroadcast(dy, input(node, 1).shape)],
  Sub: (node, dy) => [unbroadcast(dy, input(node).shape), unbroadcast(ops.neg(dy), input(node, 1).shape)],
  Mul: (node, dy, wanted) => [
    wanted(0) ? unbroadcast(ops.mul(dy, gateAgain(input(node, 1), dy)), input(node).shape) : undefined,
    wanted(1) ? unbroadcast(ops.mul(dy, gateAgain(input(node), dy)), input(node, 1).shape) : undefined,
  ],
  RealDiv: (node, dy, wanted) => [
    wanted(0) ? unbroadcast(ops.div(dy, input(node, 1)), input(node).shape) : undefined,
    wanted(1)
      ? unbroadcast(ops.neg(ops.div(ops.mul(dy, output(node)), input(node, 1))), input(node, 1).shape)
      : undefined,
  ],
  Neg: (_, dy) => [ops.neg(dy)],
  Square: (node, dy) => [ops.mul(dy, ops.add(input(node), input(node)))],
  // d x^-½ = -½ x^-1½ = -½ y³
  Rsqrt: (node, dy) => [
    ops.mul(dy, ops.mul(ops.scalarLike(dy, -0.5), ops.mul(output(node), ops.square(output(node))))),
  ],
  Sqrt: (node, dy) => [ops.div(ops.mul(dy, ops.scalarLike(dy, 0.5)), output(node))],
  Exp: (node, dy) => [ops.mul(dy, output(node))],
  Log: (node, dy) => [ops.div(dy, input(node))],
  Tanh: (node, dy) => [ops.mul(dy, ops.sub(ops.scalarLike(dy, 1), ops.square(output(node))))],
  Sigmoid: (node, dy) => {
    const y = gateAgain(output(node), dy);
    return [ops.mul(dy, ops.mul(y, ops.sub(ops.scalarLike(dy, 1), y)))];
  },
  Erf: (node, dy) => [
    ops.mul(
      dy,
      ops.mul(ops.scalarLike(dy, 2 / Math.sqrt(Math.PI)), ops.exp(ops.neg(ops.square(input(node))))),
    ),
  ],
  Softmax: (node, dy) => {
    const y = output(node);
    const weighted = ops.mul(dy, y);
    return [ops.sub(weighted, ops.mul(y, ops.sum(weighted, [-1], { keepDims: true })))];
  },
  StopGradient: () => [undefined],
  Identity: (_, dy) => [dy],
  Sum: (node, dy) => [spread(dy, node)],
  Mean: (node, dy) => {
    const { shape } = input(node);
    const count = ops.axesSize(shape, reducedAxes(node));
    const size = ops.cast(dy.graph.size(count), ops.valueType(dy));
    return [spread(ops.div(dy, size), node)];
  },
  Cast: (node, dy) => [isFloat(input(node)) ? ops.cast(dy, ops.valueType(input(node))) : undefined],
  Reshape: (node, dy) => [ops.reshape(dy, input(node).shape)],
  Transpose: (node, dy) => {
    const order = constantInts(input(node, 1));
    return [
      ops.transpose(
        dy,
        order.map((_, axis) => order.indexOf(axis)),
      ),
    ];
  },
  ConcatV2: concatGradient,
  SplitV: (node, _, __, dyOf) => [
    ops.concat(
      node.outputs.map((_output, index) => dyOf(index)),
      only(constantInts(input(node, 2))),
    ),
  ],
  Slice: (node, dy) => {
    const begin = shapeInputs(input(node, 1));
    const { shape } = input(node);
    const after = shape.map((dim, axis) =>
      subtractDims(subtractDims(dim, only(begin, axis)), only(dy.shape, axis)),
    );
    return [
      ops.pad(
        dy,
        begin.map((from, axis) => [from, only(after, axis)]),
      ),
    ];
  },
  GatherV2: (node, dy) => {
    const table = input(node);
    const indices = input(node, 1);
    const flat = ops.reshape(indices, [sizeOf(indices.shape)]);
    const rows = ops.reshape(dy, [only(flat.shape), ...table.shape.slice(1)]);
    return [ops.scatterAdd(rows, flat, only(table.shape))];
  },
  BroadcastTo: (node, dy) => [unbroadcast(dy, input(node).shape)],
  SelectV2: (node, dy, wanted) => {
    const zero = ops.scalarLike(dy, 0);
    const condition = input(node);
    return [
      undefined,
      wanted(1) ? unbroadcast(ops.select(condition, dy, zero), input(node, 1).shape) : undefined,
      wanted(2) ? unbroadcast(ops.select(condition, zero, dy), input(node, 2).shape) : undefined,
    ];
  },
  // The op's second output is softmax(logits) - onehot(label).
  SparseSoftmaxCrossEntropyWithLogits: (node, dy) => [
    ops.mul(ops.reshape(dy, [only(dy.shape), 1]), output(node, 1)),
    undefined,
  ],
};

function matMulGradient(
  node: GraphNode,
  dy: GraphTensor,
  wanted: (input: number) => boolean,
  product: typeof ops.matMul,
  flagA: string,
  flagB: string,
): (GraphTensor | undefined)[] {
  const [a, b] = [widenedAgain(input(node), dy), widenedAgain(input(node, 1), dy)];
  const [ta, tb] = [flag(node, flagA), flag(node, flagB)];
  const dA = (): GraphTensor =>
    ta ? product(b, dy, { transposeA: tb, transposeB: true }) : product(dy, b, { transposeB: !tb });
  const dB = (): GraphTensor =>
    tb ? product(dy, a, { transposeA: true, transposeB: ta }) : product(a, dy, { transposeA: !ta });
  return [wanted(0) ? dA() : undefined, wanted(1) ? dB() : undefined];
}

/** Gates that the reverse pass computes again, by the forward pass's own. */
const gatesAgain = new WeakMap<GraphTensor, GraphTensor>();

/**
 * A sigmoid, or what one gates, computed anew where memory is short: of a 7B decoder's activations these are a third, and
 * they cost next to nothing. They wait for the gradient, or TensorFlow would merge them with the forward pass's.
 */
function gateAgain(value: GraphTensor, dy: GraphTensor): GraphTensor {
  const { graph, node } = value;
  const gated = node.op === 'Mul' && input(node, 1).node.op === 'Sigmoid';
  if (!graph.widens || !(gated || node.op === 'Sigmoid')) return value;
  const known = gatesAgain.get(value);
  if (known) return known;
  const again = gated
    ? ops.mul(input(node), gateAgain(input(node, 1), dy))
    : ops.sigmoidAfter(input(node), dy);
  gatesAgain.set(value, again);
  return again;
}

/** An operand that was widened for the product is widened anew, so that no layer's copy lives from forward to backward. */
function widenedAgain(operand: GraphTensor, dy: GraphTensor): GraphTensor {
  const { op, inputs, control } = operand.node;
  return op === 'Cast' && control.length ? ops.castAfter(only(inputs), ops.valueType(operand), dy) : operand;
}

function concatGradient(
  node: GraphNode,
  dy: GraphTensor,
  wanted: (input: number) => boolean,
): (GraphTensor | undefined)[] {
  const axis = only(constantInts(only(node.inputs, node.inputs.length - 1)));
  let from: Dim = 0;
  return node.inputs.slice(0, -1).map((part, index) => {
    const begin = dy.shape.map((_, i) => (i === axis ? from : 0));
    from = addDims(from, only(part.shape, axis));
    return wanted(index) ? ops.slice(dy, begin, part.shape) : undefined;
  });
}

/** Sums a gradient over the axes along which its input was repeated. */
function unbroadcast(dy: GraphTensor, shape: Shape): GraphTensor {
  if (sameShape(dy.shape, shape)) return dy;
  const lead = dy.shape.length - shape.length;
  const axes = dy.shape.flatMap((dim, axis) =>
    axis < lead || (shape[axis - lead] === 1 && dim !== 1) ? [axis] : [],
  );
  return ops.reshape(axes.length ? ops.sum(dy, axes) : dy, shape);
}

/** Repeats the gradient of a reduction over the axes that it removed. */
function spread(dy: GraphTensor, node: GraphNode): GraphTensor {
  const { shape } = input(node);
  const axes = reducedAxes(node);
  const kept = shape.map((dim, axis) => (axes.includes(axis) ? 1 : dim));
  return ops.broadcastTo(ops.reshape(dy, kept), shape);
}

function reducedAxes(node: GraphNode): number[] {
  return constantInts(input(node, 1));
}

function constantInts(tensor: GraphTensor): number[] {
  const value = tensor.node.attributes['value'];
  if (value?.kind !== 'tensor')
    throw new Error(`gradients: ${tensor.node.name} must be a constant, got ${tensor.node.op}`);
  return [...value.value];
}

/** Dims behind an int32 shape tensor that `Graph.shapeTensor` made. */
function shapeInputs(tensor: GraphTensor): Dim[] {
  if (tensor.node.op === 'Const') return constantInts(tensor);
  return tensor.node.inputs.map((size) => tensor.graph.dimOf(size));
}

function isFloat(tensor: GraphTensor): boolean {
  return tensor.dtype === 'float32' || tensor.dtype === 'bfloat16' || tensor.dtype === 'float16';
}
