/**
 * A TensorFlow graph under construction. Ops (ops.ts) add nodes to it, `gradients` (gradients.ts) adds their reverse,
 * `encodeSavedModel` (savedModel.ts) writes it for the session. Building computes nothing and owns no memory.
 */
import type { DType } from './dtypes.js';
import {
  addDims,
  formatShape,
  isName,
  multiplyDims,
  sameShape,
  terms,
  type Dim,
  type Shape,
} from './dims.js';

/** Value of a node's attribute, as in TensorFlow's AttrValue. */
export type Attribute =
  | { readonly kind: 'type'; readonly value: DType | 'resource' }
  | { readonly kind: 'bool'; readonly value: boolean }
  | { readonly kind: 'int'; readonly value: number }
  | { readonly kind: 'float'; readonly value: number }
  | { readonly kind: 'string'; readonly value: string }
  | { readonly kind: 'shape'; readonly value: Shape }
  | {
      readonly kind: 'tensor';
      readonly dtype: 'float32' | 'int32';
      readonly shape: readonly number[];
      readonly value: Float32Array | Int32Array;
    };

/** One op of the graph. `control` names nodes that must have run before it. */
export interface GraphNode {
  readonly name: string;
  readonly op: string;
  readonly inputs: readonly GraphTensor[];
  readonly attributes: Readonly<Record<string, Attribute>>;
  readonly control: readonly string[];
  readonly outputs: GraphTensor[];
}

/** A symbolic tensor: output `index` of `node`. Costs nothing and needs no disposal. */
export interface GraphTensor {
  readonly graph: Graph;
  readonly node: GraphNode;
  readonly index: number;
  readonly dtype: DType | 'resource';
  readonly shape: Shape;
}

/** What `Graph.add` needs to know of a node. */
export interface NodeSpec {
  readonly op: string;
  readonly inputs?: readonly GraphTensor[];
  readonly attributes?: Readonly<Record<string, Attribute>>;
  readonly outputs: readonly { readonly dtype: DType | 'resource'; readonly shape: Shape }[];
  readonly name?: string;
  readonly control?: readonly string[];
}

/** A frozen weight that lives in the session, and the placeholder through which it is assigned once. */
export interface Variable {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** Named inputs → named outputs of one use of the graph (encode, loss, decode …). All entry points share the variables. */
export interface EntryPoint {
  readonly inputs: Readonly<Record<string, GraphTensor>>;
  readonly outputs: Readonly<Record<string, GraphTensor>>;
}

/** Nodes, variables and entry points of one model. */
export class Graph {
  readonly nodes: GraphNode[] = [];
  readonly variables = new Map<string, Variable>();
  readonly entryPoints = new Map<string, EntryPoint>();
  readonly #names = new Set<string>();
  /** How often a name was wanted, so that thousands of equal ones take no search. */
  readonly #copies = new Map<string, number>();
  readonly #constants = new Map<string, GraphTensor>();
  readonly #reads = new Map<string, GraphTensor>();
  /** Where the run-time value of a named size is read: axis of a placeholder. */
  readonly #sizes = new Map<string, GraphTensor>();

  /**
   * @param options.widen make bfloat16 operands of matrix products float32 first, and spare memory: for large models on CPUs
   * that only emulate bfloat16's products
   */
  constructor(private readonly options: { readonly widen?: boolean } = {}) {}

  /** Whether bfloat16 is how weights are stored, not how they are multiplied. */
  get widens(): boolean {
    return this.options.widen ?? false;
  }

  /** Adds a node and returns its outputs in order. Shapes are the caller's claim: ops.ts checks them. */
  add({ op, inputs = [], attributes = {}, outputs, name = op, control = [] }: NodeSpec): GraphTensor[] {
    const foreign = inputs.find((input) => input.graph !== this);
    if (foreign) graphError(op, `inputs must belong to one graph, got "${foreign.node.name}" of another`);
    const node: GraphNode = { name: this.#uniqueName(name), op, inputs, attributes, control, outputs: [] };
    node.outputs.push(...outputs.map((output, index) => ({ graph: this, node, index, ...output })));
    this.nodes.push(node);
    return node.outputs;
  }

  /** Like `add`, for the ops with one output. */
  addOne(spec: Omit<NodeSpec, 'outputs'>, dtype: DType | 'resource', shape: Shape): GraphTensor {
    return only(this.add({ ...spec, outputs: [{ dtype, shape }] }));
  }

  /**
   * An input of the graph. Named dims that are new here take their run-time size from it; later uses of the name
   * must agree with it, which TensorFlow checks when the ops run.
   */
  placeholder(name: string, dtype: DType, shape: Shape): GraphTensor {
    const attributes: Record<string, Attribute> = {
      dtype: { kind: 'type', value: dtype },
      shape: { kind: 'shape', value: shape },
    };
    const input = this.addOne({ op: 'Placeholder', name, attributes }, dtype, shape);
    const unknown = shape.flatMap((dim, axis) =>
      isName(dim) && !this.#sizes.has(dim) ? [{ dim, axis }] : [],
    );
    if (unknown.length) {
      const sizes = this.addOne(
        {
          op: 'Shape',
          inputs: [input],
          attributes: { T: { kind: 'type', value: dtype }, out_type: { kind: 'type', value: 'int32' } },
        },
        'int32',
        [shape.length],
      );
      for (const { dim, axis } of unknown) this.#sizes.set(dim, this.#element(sizes, axis));
    }
    return input;
  }

  /** A frozen weight, read wherever it is used; assigned through the session before the first run. */
  variable(name: string, dtype: DType, shape: readonly number[]): GraphTensor {
    const known = this.#reads.get(name);
    if (known) return this.#sameVariable(known, dtype, shape);
    const attributes: Record<string, Attribute> = {
      dtype: { kind: 'type', value: dtype },
      shape: { kind: 'shape', value: shape },
      shared_name: { kind: 'string', value: name },
      container: { kind: 'string', value: '' },
    };
    // The session finds a variable by its node's name, so it must get the very name.
    if (this.#names.has(name)) graphError('variable', `names must be unique, got "${name}" twice`);
    const handle = this.addOne({ op: 'VarHandleOp', name, attributes }, 'resource', []);
    const value = this.placeholder(`${name}/value`, dtype, shape);
    const type: Record<string, Attribute> = { dtype: { kind: 'type', value: dtype } };
    this.add({
      op: 'AssignVariableOp',
      name: `${name}/assign`,
      inputs: [handle, value],
      attributes: type,
      outputs: [],
    });
    this.addOne(
      {
        op: 'Identity',
        name: `${name}/assigned`,
        inputs: [this.constant([1])],
        attributes: { T: { kind: 'type', value: 'float32' } },
        control: [`${name}/assign`],
      },
      'float32',
      [1],
    );
    const read = this.addOne(
      { op: 'ReadVariableOp', name: `${name}/read`, inputs: [handle], attributes: type },
      dtype,
      shape,
    );
    // Fetching the weight back (fingerprints, leak and freeze tests) needs a type that the binding can copy out.
    const cast: Record<string, Attribute> = {
      SrcT: { kind: 'type', value: dtype },
      DstT: { kind: 'type', value: 'float32' },
      Truncate: { kind: 'bool', value: false },
    };
    this.addOne({ op: 'Cast', name: `${name}/fetch`, inputs: [read], attributes: cast }, 'float32', shape);
    this.variables.set(name, { name, dtype, shape });
    this.#reads.set(name, read);
    return read;
  }

  /** float32 (default) or int32 constant; equal ones are shared. */
  constant(
    values: readonly number[] | number,
    dtype: 'float32' | 'int32' = 'float32',
    shape?: readonly number[],
  ): GraphTensor {
    const list = typeof values === 'number' ? [values] : values;
    const dims = shape ?? (typeof values === 'number' ? [] : [list.length]);
    const key = list.length <= 16 ? `${dtype}${dims.join(',')}:${list.join(',')}` : undefined;
    const known = key === undefined ? undefined : this.#constants.get(key);
    if (known) return known;
    const value = dtype === 'float32' ? Float32Array.from(list) : Int32Array.from(list);
    const attributes: Record<string, Attribute> = {
      dtype: { kind: 'type', value: dtype },
      value: { kind: 'tensor', dtype, shape: dims, value },
    };
    const constant = this.addOne({ op: 'Const', attributes }, dtype, dims);
    if (key !== undefined) this.#constants.set(key, constant);
    return constant;
  }

  /** int32 scalar with the run-time size of a dim. */
  size(dim: Dim): GraphTensor {
    if (typeof dim === 'number') return this.constant(dim, 'int32');
    const known = this.#sizes.get(dim);
    if (known) return known;
    const parts = [...terms(dim)].map(([name, count]) =>
      this.#fold('Mul', [
        ...name
          .split('*')
          .filter(Boolean)
          .map((factor) => this.#named(factor)),
        ...(count === 1 && name ? [] : [this.constant(count, 'int32')]),
      ]),
    );
    const size = this.#fold('AddV2', parts);
    this.#sizes.set(dim, size);
    return size;
  }

  /** The dim whose run-time size `size` gave as this tensor. */
  dimOf(size: GraphTensor): Dim {
    const value = size.node.attributes['value'];
    if (value?.kind === 'tensor') return only([...value.value]);
    for (const [dim, tensor] of this.#sizes) if (tensor === size) return dim;
    return graphError('dimOf', `"${size.node.name}" must be a size of this graph`);
  }

  /** int32[rank] with the run-time sizes of a shape: a constant where possible. */
  shapeTensor(shape: Shape): GraphTensor {
    const dynamic = shape.filter((dim) => typeof dim === 'string').length;
    if (dynamic === 0) return this.constant(shape.map(Number), 'int32');
    const attributes: Record<string, Attribute> = {
      N: { kind: 'int', value: shape.length },
      T: { kind: 'type', value: 'int32' },
      axis: { kind: 'int', value: 0 },
    };
    return this.addOne({ op: 'Pack', inputs: shape.map((dim) => this.size(dim)), attributes }, 'int32', [
      shape.length,
    ]);
  }

  /** Declares one use of the graph. Input and output names are what `Session.run` takes. */
  entryPoint(name: string, entry: EntryPoint): void {
    if (this.entryPoints.has(name)) graphError('entryPoint', `names must be unique, got "${name}" twice`);
    this.entryPoints.set(name, entry);
  }

  #sameVariable(known: GraphTensor, dtype: DType, shape: readonly number[]): GraphTensor {
    if (known.dtype === dtype && sameShape(known.shape, shape)) return known;
    const [has, wants] = [`${known.dtype}${formatShape(known.shape)}`, `${dtype}${formatShape(shape)}`];
    return graphError(
      'variable',
      `"${known.node.name.replace(/\/read$/, '')}" must stay ${has}, got ${wants}`,
    );
  }

  #named(dim: string): GraphTensor {
    return this.#sizes.get(dim) ?? graphError('size', `dim "${dim}" must come from a placeholder`);
  }

  #fold(op: 'Mul' | 'AddV2', parts: readonly GraphTensor[]): GraphTensor {
    const attributes: Record<string, Attribute> = { T: { kind: 'type', value: 'int32' } };
    return parts.reduce((left, right) => this.addOne({ op, inputs: [left, right], attributes }, 'int32', []));
  }

  #element(sizes: GraphTensor, axis: number): GraphTensor {
    const int = (value: number): GraphTensor => this.constant([value], 'int32');
    const mask = (value: number): Attribute => ({ kind: 'int', value });
    const attributes: Record<string, Attribute> = {
      T: { kind: 'type', value: 'int32' },
      Index: { kind: 'type', value: 'int32' },
      begin_mask: mask(0),
      end_mask: mask(0),
      ellipsis_mask: mask(0),
      new_axis_mask: mask(0),
      shrink_axis_mask: mask(1),
    };
    return this.addOne(
      { op: 'StridedSlice', inputs: [sizes, int(axis), int(axis + 1), int(1)], attributes },
      'int32',
      [],
    );
  }

  #uniqueName(wanted: string): string {
    let name = wanted;
    let copy = this.#copies.get(wanted) ?? 0;
    while (this.#names.has(name)) name = `${wanted}_${++copy}`;
    this.#copies.set(wanted, copy);
    this.#names.add(name);
    return name;
  }
}

/** A stack frame of this layer, or of the engine (`at Array.map (<anonymous>)`). */
const OWN_FRAME = /[\\/]tensorflow[\\/](graph|ops|gradients|dims|gradientRules)\.[jt]s|\(<anonymous>\)$/;

/** Throws with the op, the rule broken and the line of model code that asked for it. */
export function graphError(op: string, rule: string): never {
  const line = (new Error().stack ?? '')
    .split('\n')
    .slice(1)
    .find((frame) => !OWN_FRAME.test(frame));
  throw new Error(`${op}: ${rule}${line ? ` (${line.trim()})` : ''}`);
}

/** Element `index` of a list that is known to be long enough. */
export function only<T>(list: readonly T[], index = 0): T {
  const item = list[index];
  if (item === undefined) throw new Error(`graph: item ${index} must exist, got a list of ${list.length}`);
  return item;
}

/** Shape after concatenating along `axis`. */
export function concatShape(shapes: readonly Shape[], axis: number): Shape {
  const first = only(shapes);
  for (const shape of shapes) {
    const fits = shape.length === first.length && shape.every((dim, i) => i === axis || dim === first[i]);
    if (!fits)
      graphError('concat', `shapes must agree but on axis ${axis}, got ${shapes.map(formatShape).join(' ')}`);
  }
  const sum = shapes.reduce<Dim>((total, shape) => addDims(total, only(shape, axis)), 0);
  return first.map((dim, i) => (i === axis ? sum : dim));
}

/** Whether `to` has as many elements as `from`; unknown only through names, so the comparison is exact. */
export function sameSize(from: Shape, to: Shape): boolean {
  const product = (shape: Shape): Dim => shape.reduce<Dim>(multiplyDims, 1);
  return product(from) === product(to);
}
