/**
 * The typed ops that model code calls on symbolic tensors. Each checks dtypes and shapes as the graph is built:
 * a mistake names the op, the shapes and the line of model code. Kernels and numerics are TensorFlow's own.
 * Ops whose gradient is needed have a rule in gradientRules.ts.
 */
import { addDims, formatShape, multiplyDims, sameShape, sizeOf, type Dim, type Shape } from './dims.js';
import type { DType } from './dtypes.js';
import { concatShape, graphError, only, sameSize, type Attribute, type GraphTensor } from './graph.js';

const type = (value: DType): Attribute => ({ kind: 'type', value });
const bool = (value: boolean): Attribute => ({ kind: 'bool', value });
const int = (value: number): Attribute => ({ kind: 'int', value });

/** A tensor's dtype, which must be a value type (a variable is read before it is used). */
export function valueType(x: GraphTensor): DType {
  if (x.dtype === 'resource')
    graphError(x.node.op, 'a resource handle is not a value, read the variable first');
  return x.dtype;
}

/**
 * Matrix product of two rank-2 tensors of one dtype.
 *
 * @param a [M, K], or [K, M] with `transposeA`
 * @param b [K, N], or [N, K] with `transposeB` (the layout of torch.nn.Linear)
 * @returns [M, N]
 */
export function matMul(
  a: GraphTensor,
  b: GraphTensor,
  { transposeA = false, transposeB = false } = {},
): GraphTensor {
  const [M, K] = matrixDims('matMul', a, transposeA);
  const [K2, N] = matrixDims('matMul', b, transposeB);
  if (a.shape.length !== 2 || b.shape.length !== 2 || K !== K2 || a.dtype !== b.dtype)
    mismatch('matMul', a, b);
  const attributes = { T: type(valueType(a)), transpose_a: bool(transposeA), transpose_b: bool(transposeB) };
  return a.graph.addOne({ op: 'MatMul', inputs: [a, b], attributes }, a.dtype, [M, N]);
}

/**
 * Product of stacks of matrices with equal leading dims.
 *
 * @param a [..., M, K], or [..., K, M] with `transposeA`
 * @param b [..., K, N], or [..., N, K] with `transposeB`
 * @returns [..., M, N]
 */
export function batchMatMul(
  a: GraphTensor,
  b: GraphTensor,
  { transposeA = false, transposeB = false } = {},
): GraphTensor {
  const [M, K] = matrixDims('batchMatMul', a, transposeA);
  const [K2, N] = matrixDims('batchMatMul', b, transposeB);
  const lead = a.shape.slice(0, -2);
  if (!sameShape(lead, b.shape.slice(0, -2)) || K !== K2 || a.dtype !== b.dtype)
    mismatch('batchMatMul', a, b);
  const attributes = { T: type(valueType(a)), adj_x: bool(transposeA), adj_y: bool(transposeB) };
  return a.graph.addOne({ op: 'BatchMatMulV2', inputs: [a, b], attributes }, a.dtype, [...lead, M, N]);
}

/**
 * Solves `a · x = b` by LU decomposition with pivots; no gradient rule.
 *
 * @param a float32[N, N]; where it is singular the run throws
 * @param b float32[N, K]
 * @returns x float32[N, K]
 */
export function solve(a: GraphTensor, b: GraphTensor): GraphTensor {
  const [rows, columns] = matrixDims('solve', a, false);
  const [N, K] = matrixDims('solve', b, false);
  if (a.shape.length !== 2 || b.shape.length !== 2 || rows !== columns || rows !== N || a.dtype !== b.dtype)
    mismatch('solve', a, b);
  const attributes = { T: type(valueType(a)), adjoint: bool(false) };
  return a.graph.addOne({ op: 'MatrixSolve', inputs: [a, b], attributes }, a.dtype, [N, K]);
}

/** `a + b`, broadcast as NumPy does. */
export const add = binary('AddV2');
/** `a - b`, broadcast. */
export const sub = binary('Sub');
/** `a · b`, broadcast. */
export const mul = binary('Mul');
/** `a / b`, broadcast. */
export const div = binary('RealDiv');

/** `-x` */
export const neg = unary('Neg');
/** `x²` */
export const square = unary('Square');
/** `1 / √x` */
export const rsqrt = unary('Rsqrt');
/** `√x` */
export const sqrt = unary('Sqrt');
/** `eˣ` */
export const exp = unary('Exp');
/** natural logarithm */
export const log = unary('Log');
/** `tanh x` */
export const tanh = unary('Tanh');
/** `1 / (1 + e⁻ˣ)` */
export const sigmoid = unary('Sigmoid');
/** cosine, radians; no gradient rule */
export const cos = unary('Cos');
/** sine, radians; no gradient rule */
export const sin = unary('Sin');
/** error function */
export const erf = unary('Erf');
/** Softmax over the last axis; float32 in all model code. */
export const softmax = unary('Softmax');
/** The same value, through which no gradient flows. */
export const stopGradient = unary('StopGradient');

/** Sum over `axes`; `keepDims` leaves them as 1. */
export const sum = reduction('Sum');
/** Mean over `axes`; `keepDims` leaves them as 1. */
export const mean = reduction('Mean');

/** Converts the dtype; the same tensor where nothing changes. float32 → bfloat16 rounds to nearest even. */
export function cast(x: GraphTensor, dtype: DType): GraphTensor {
  if (x.dtype === dtype) return x;
  const attributes = { SrcT: type(valueType(x)), DstT: type(dtype), Truncate: bool(false) };
  return x.graph.addOne({ op: 'Cast', inputs: [x], attributes }, dtype, x.shape);
}

/**
 * `cast` that waits until `after` is computed. A weight that is widened for one product must not be so from the start of the
 * run: all layers' copies would lie in memory at once.
 */
export function castAfter(x: GraphTensor, dtype: DType, after: GraphTensor): GraphTensor {
  if (x.dtype === dtype) return x;
  const attributes = { SrcT: type(valueType(x)), DstT: type(dtype), Truncate: bool(false) };
  return x.graph.addOne({ op: 'Cast', inputs: [x], attributes, control: [after.node.name] }, dtype, x.shape);
}

/** `sigmoid` that waits until `after` is computed. */
export function sigmoidAfter(x: GraphTensor, after: GraphTensor): GraphTensor {
  const spec = {
    op: 'Sigmoid',
    inputs: [x],
    attributes: { T: type(valueType(x)) },
    control: [after.node.name],
  };
  return x.graph.addOne(spec, x.dtype, x.shape);
}

/** The same elements in another shape; element counts must agree name by name. */
export function reshape(x: GraphTensor, shape: Shape): GraphTensor {
  if (sameShape(x.shape, shape)) return x;
  if (!sameSize(x.shape, shape))
    graphError('reshape', `sizes must agree, got ${formatShape(x.shape)} → ${formatShape(shape)}`);
  const dynamic = shape.filter((dim) => typeof dim === 'string').length;
  const to =
    dynamic === 1
      ? x.graph.constant(
          shape.map((dim) => (typeof dim === 'string' ? -1 : dim)),
          'int32',
        )
      : x.graph.shapeTensor(shape);
  return x.graph.addOne(
    { op: 'Reshape', inputs: [x, to], attributes: { T: type(valueType(x)), Tshape: type('int32') } },
    x.dtype,
    shape,
  );
}

/** Reorders axes: axis `i` of the result is axis `order[i]` of `x`. */
export function transpose(x: GraphTensor, order: readonly number[]): GraphTensor {
  if ([...order].sort((a, b) => a - b).some((axis, i) => axis !== i) || order.length !== x.shape.length) {
    graphError(
      'transpose',
      `order must permute the axes of ${formatShape(x.shape)}, got [${order.join(', ')}]`,
    );
  }
  const attributes = { T: type(valueType(x)), Tperm: type('int32') };
  const inputs = [x, x.graph.constant(order, 'int32')];
  return x.graph.addOne(
    { op: 'Transpose', inputs, attributes },
    x.dtype,
    order.map((axis) => only(x.shape, axis)),
  );
}

/** Joins tensors of one dtype along `axis`. */
export function concat(parts: readonly GraphTensor[], axis: number): GraphTensor {
  const first = only(parts);
  const [at] = normalAxes('concat', first, [axis]) as [number]; // one axis, one back
  const shape = concatShape(
    parts.map((part) => part.shape),
    at,
  );
  if (parts.some((part) => part.dtype !== first.dtype))
    graphError('concat', `dtypes must agree, got ${parts.map((part) => part.dtype).join(', ')}`);
  const attributes = { N: int(parts.length), T: type(valueType(first)), Tidx: type('int32') };
  return first.graph.addOne(
    { op: 'ConcatV2', inputs: [...parts, first.graph.constant(at, 'int32')], attributes },
    first.dtype,
    shape,
  );
}

/** The window of `size` elements from `begin` on, axis by axis. Bounds are checked where both are numbers. */
export function slice(x: GraphTensor, begin: readonly Dim[], size: Shape): GraphTensor {
  const fits = x.shape.every((dim, axis) => {
    const [from, count] = [begin[axis], size[axis]];
    if (typeof dim !== 'number' || typeof from !== 'number' || typeof count !== 'number') return true;
    return from >= 0 && from + count <= dim;
  });
  if (!fits || begin.length !== x.shape.length || size.length !== x.shape.length) {
    graphError(
      'slice',
      `window must lie inside ${formatShape(x.shape)}, got begin ${formatShape(begin)} size ${formatShape(size)}`,
    );
  }
  const attributes = { T: type(valueType(x)), Index: type('int32') };
  const inputs = [x, x.graph.shapeTensor(begin), x.graph.shapeTensor(size)];
  return x.graph.addOne({ op: 'Slice', inputs, attributes }, x.dtype, size);
}

/** Cuts `axis` into parts of the given sizes, which must add up to it. */
export function split(x: GraphTensor, sizes: readonly number[], axis: number): GraphTensor[] {
  const [at] = normalAxes('split', x, [axis]) as [number]; // one axis, one back
  if (only(x.shape, at) !== sizes.reduce((a, b) => a + b, 0))
    graphError(
      'split',
      `sizes must add up to axis ${at} of ${formatShape(x.shape)}, got [${sizes.join(', ')}]`,
    );
  return x.graph.add({
    op: 'SplitV',
    inputs: [x, x.graph.constant(sizes, 'int32'), x.graph.constant(at, 'int32')],
    attributes: { num_split: int(sizes.length), T: type(valueType(x)), Tlen: type('int32') },
    outputs: sizes.map((size) => ({ dtype: x.dtype, shape: x.shape.with(at, size) })),
  });
}

/** Zeros around `x`: `paddings[axis]` = [before, after]. */
export function pad(x: GraphTensor, paddings: readonly (readonly [Dim, Dim])[]): GraphTensor {
  if (paddings.length !== x.shape.length)
    graphError('pad', `paddings must name every axis of ${formatShape(x.shape)}, got ${paddings.length}`);
  const shape = x.shape.map((dim, axis) => only(paddings, axis).reduce<Dim>(addDims, dim));
  const flat = x.graph.shapeTensor(paddings.flat());
  const table = reshape(flat, [paddings.length, 2]);
  return x.graph.addOne(
    { op: 'Pad', inputs: [x, table], attributes: { T: type(valueType(x)), Tpaddings: type('int32') } },
    x.dtype,
    shape,
  );
}

/** Rows of `table` [V, ...] at int32 `indices`: shape of indices + row shape. */
export function gather(table: GraphTensor, indices: GraphTensor): GraphTensor {
  if (indices.dtype !== 'int32') graphError('gather', `indices must be int32, got ${indices.dtype}`);
  const attributes = {
    Tparams: type(valueType(table)),
    Tindices: type('int32'),
    Taxis: type('int32'),
    batch_dims: int(0),
  };
  const inputs = [table, indices, table.graph.constant(0, 'int32')];
  return table.graph.addOne({ op: 'GatherV2', inputs, attributes }, table.dtype, [
    ...indices.shape,
    ...table.shape.slice(1),
  ]);
}

/** Adds the rows `x` [N, ...] into `rows` zero rows at int32 `indices` [N]: the transpose of `gather`. */
export function scatterAdd(x: GraphTensor, indices: GraphTensor, rows: Dim): GraphTensor {
  const attributes = { T: type(valueType(x)), Tindices: type('int32'), Tnumsegments: type('int32') };
  const inputs = [x, indices, x.graph.size(rows)];
  return x.graph.addOne({ op: 'UnsortedSegmentSum', inputs, attributes }, x.dtype, [
    rows,
    ...x.shape.slice(1),
  ]);
}

/** `x` repeated to a larger shape by NumPy's rules. */
export function broadcastTo(x: GraphTensor, shape: Shape): GraphTensor {
  if (sameShape(x.shape, shape)) return x;
  if (!sameShape(broadcastShape('broadcastTo', x.shape, shape), shape)) {
    graphError('broadcastTo', `${formatShape(x.shape)} does not broadcast to ${formatShape(shape)}`);
  }
  const attributes = { T: type(valueType(x)), Tidx: type('int32') };
  return x.graph.addOne(
    { op: 'BroadcastTo', inputs: [x, x.graph.shapeTensor(shape)], attributes },
    x.dtype,
    shape,
  );
}

/** int32 `0, 1, … size-1`. */
export function range(like: GraphTensor, size: Dim): GraphTensor {
  const { graph } = like;
  const inputs = [graph.constant(0, 'int32'), graph.size(size), graph.constant(1, 'int32')];
  return graph.addOne({ op: 'Range', inputs, attributes: { Tidx: type('int32') } }, 'int32', [size]);
}

/** Boolean `a >= b`, broadcast. */
export function greaterEqual(a: GraphTensor, b: GraphTensor): GraphTensor {
  if (a.dtype !== b.dtype) mismatch('greaterEqual', a, b);
  const shape = broadcastShape('greaterEqual', a.shape, b.shape);
  return a.graph.addOne(
    { op: 'GreaterEqual', inputs: [a, b], attributes: { T: type(valueType(a)) } },
    'bool',
    shape,
  );
}

/** `condition ? a : b` element by element, broadcast. */
export function select(condition: GraphTensor, a: GraphTensor, b: GraphTensor): GraphTensor {
  if (condition.dtype !== 'bool')
    graphError('select', `the condition must be bool, got ${condition.dtype}${formatShape(condition.shape)}`);
  if (a.dtype !== b.dtype) mismatch('select', a, b);
  const shape = broadcastShape('select', condition.shape, broadcastShape('select', a.shape, b.shape));
  return a.graph.addOne(
    { op: 'SelectV2', inputs: [condition, a, b], attributes: { T: type(valueType(a)) } },
    a.dtype,
    shape,
  );
}

/** Index of the largest element of the last axis, int32. */
export function argMax(x: GraphTensor): GraphTensor {
  const attributes = { T: type(valueType(x)), Tidx: type('int32'), output_type: type('int32') };
  const inputs = [x, x.graph.constant(x.shape.length - 1, 'int32')];
  return x.graph.addOne({ op: 'ArgMax', inputs, attributes }, 'int32', x.shape.slice(0, -1));
}

/**
 * Cross-entropy of each row in nats: `-log softmax(logits)[label]`. TensorFlow computes its gradient in the same op.
 *
 * @param logits float32[N, V]
 * @param labels int32[N]
 * @returns float32[N]
 */
export function crossEntropy(logits: GraphTensor, labels: GraphTensor): GraphTensor {
  const [N, V] = matrixDims('crossEntropy', logits, false);
  const fits = logits.shape.length === 2 && sameShape(labels.shape, [N]);
  if (logits.dtype !== 'float32' || labels.dtype !== 'int32' || !fits)
    mismatch('crossEntropy', logits, labels);
  const attributes = { T: type('float32'), Tlabels: type('int32') };
  const outputs = [
    { dtype: 'float32' as const, shape: [N] },
    { dtype: 'float32' as const, shape: [N, V] },
  ];
  return only(
    logits.graph.add({
      op: 'SparseSoftmaxCrossEntropyWithLogits',
      inputs: [logits, labels],
      attributes,
      outputs,
    }),
  );
}

/** float32 scalar shaped to broadcast with anything, in the dtype of `like`. */
export function scalarLike(like: GraphTensor, value: number): GraphTensor {
  return cast(like.graph.constant(value), valueType(like));
}

/** Shape of an elementwise op's result; throws where the shapes do not broadcast. */
export function broadcastShape(op: string, a: Shape, b: Shape): Shape {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const [x, y] = [a[i - rank + a.length] ?? 1, b[i - rank + b.length] ?? 1];
    if (x !== y && x !== 1 && y !== 1)
      graphError(op, `shapes must broadcast, got ${formatShape(a)} and ${formatShape(b)}`);
    return x === 1 ? y : x;
  });
}

/** Product of the dims at `axes`. */
export function axesSize(shape: Shape, axes: readonly number[]): Dim {
  return axes.reduce<Dim>((product, axis) => multiplyDims(product, only(shape, axis)), 1);
}

/** Rank-2 view: all but the last axis flattened. */
export function flattenRows(x: GraphTensor): GraphTensor {
  const last = only(x.shape, x.shape.length - 1);
  return reshape(x, [sizeOf(x.shape.slice(0, -1)), last]);
}

function binary(op: string): (a: GraphTensor, b: GraphTensor) => GraphTensor {
  return (a, b) => {
    if (a.dtype !== b.dtype) mismatch(op, a, b);
    const shape = broadcastShape(op, a.shape, b.shape);
    return a.graph.addOne({ op, inputs: [a, b], attributes: { T: type(valueType(a)) } }, a.dtype, shape);
  };
}

function unary(op: string): (x: GraphTensor) => GraphTensor {
  return (x) => x.graph.addOne({ op, inputs: [x], attributes: { T: type(valueType(x)) } }, x.dtype, x.shape);
}

function reduction(
  op: string,
): (x: GraphTensor, axes: readonly number[], options?: { keepDims?: boolean }) => GraphTensor {
  return (x, axes, { keepDims = false } = {}) => {
    const at = normalAxes(op, x, axes);
    const kept = x.shape.map((dim, axis) => (at.includes(axis) ? 1 : dim));
    const shape = keepDims ? kept : x.shape.filter((_, axis) => !at.includes(axis));
    const attributes = { T: type(valueType(x)), Tidx: type('int32'), keep_dims: bool(keepDims) };
    return x.graph.addOne({ op, inputs: [x, x.graph.constant(at, 'int32')], attributes }, x.dtype, shape);
  };
}

/** Axes counted from the front; -1 is the last one. */
function normalAxes(op: string, x: GraphTensor, axes: readonly number[]): number[] {
  const rank = x.shape.length;
  const wrong = axes.find((axis) => !(axis >= -rank && axis < rank));
  if (wrong !== undefined) graphError(op, `axis must lie inside ${formatShape(x.shape)}, got ${wrong}`);
  return axes.map((axis) => (axis < 0 ? axis + rank : axis));
}

function matrixDims(op: string, x: GraphTensor, transposed: boolean): [Dim, Dim] {
  const [rows, columns] = x.shape.slice(-2);
  if (rows === undefined || columns === undefined)
    graphError(op, `operands must be matrices, got ${formatShape(x.shape)}`);
  return transposed ? [columns, rows] : [rows, columns];
}

function mismatch(op: string, a: GraphTensor, b: GraphTensor): never {
  return graphError(
    op,
    `shapes and dtypes must fit, got ${a.dtype}${formatShape(a.shape)} and ${b.dtype}${formatShape(b.shape)}`,
  );
}
