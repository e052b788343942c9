/**
 * ONNX files, as far as taking weights out of one needs: the graph's initializers, read by range, and its nodes.
 * Format: onnx/onnx, onnx/onnx.proto; field numbers below are that file's.
 */
import { UserError } from '../../errors.js';
import type { DType, HostTensor } from '../../tensorflow/dtypes.js';
import { ProtobufReader, type ProtobufField } from './onnxProtobuf.js';
import { missingTensor, weightSource, type TensorInfo, type WeightSource } from './weights.js';
import { RangeFile, tensorBytes } from './weightsFile.js';

/** A node's attribute; int64 as numbers, so beyond 2^53 they are rounded (slices end at 2^63 - 1). */
export type OnnxAttribute = number | string | readonly number[] | HostTensor;

/** One operation of the graph; values are named by the edges `inputs` and `outputs`. */
export interface OnnxNode {
  /** The operation: MatMul, Add, Constant … */
  readonly type: string;
  /** torch's export puts the module's path here: `/encoder/layer.0/mlp/fc1/MatMul`. */
  readonly name: string;
  /** Empty text stands for an optional input that is left out. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Attributes of kinds other than `OnnxAttribute` (subgraphs …) are left out. */
  readonly attributes: ReadonlyMap<string, OnnxAttribute>;
}

/** An open ONNX file: the initializers are its tensors. */
export interface OnnxFile extends WeightSource {
  /** In the file's order, which is an order of execution. */
  readonly nodes: readonly OnnxNode[];
}

/** A TensorProto whose data is still in the file. */
interface OnnxTensor extends TensorInfo {
  /** 'elements': the field's bytes are the tensor's; 'varints': int64 packed as varints. */
  readonly encoding: 'elements' | 'varints';
  readonly pieces: readonly ProtobufField[];
}

/** TensorProto.DataType of the dtypes that are read. */
const DTYPES: ReadonlyMap<bigint, DType> = new Map([
  [1n, 'float32'],
  [2n, 'uint8'],
  [3n, 'int8'],
  [6n, 'int32'],
  [7n, 'int64'],
  [9n, 'bool'],
  [10n, 'float16'],
  [16n, 'bfloat16'],
]);

/**
 * Opens an ONNX file; weights stay in it until they are read.
 *
 * @throws UserError naming the file and its fault: no ONNX, truncated, a tensor kept in another file or of a dtype
 * that is not read, data that disagrees with its shape
 */
export async function openOnnx(path: string): Promise<OnnxFile> {
  return RangeFile.openWith(path, async (file) => {
    const reader = new ProtobufReader(file);
    const nodes: OnnxNode[] = [];
    const tensors: OnnxTensor[] = [];
    const graph = await findGraph(file, reader);
    for await (const { number, start, end } of reader.fields(graph.start, graph.end)) {
      if (number === 1) nodes.push(await readNode(path, reader, start, end));
      if (number === 5) tensors.push(await describeTensor(path, reader, start, end));
    }
    const source = weightSource({
      path,
      metadata: {},
      tensors,
      readBytes: (tensor) => readTensor(path, reader, tensor),
      close: () => file.close(),
    });
    return { ...source, nodes };
  });
}

/** The node that makes the value `output`, or undefined for an initializer or an input of the graph. */
export function producerOf(onnx: OnnxFile, output: string): OnnxNode | undefined {
  return onnx.nodes.find((node) => node.outputs.includes(output));
}

/** The nodes that take the value `input`. */
export function consumersOf(onnx: OnnxFile, input: string): OnnxNode[] {
  return onnx.nodes.filter((node) => node.inputs.includes(input));
}

/** The node of that name. @throws UserError naming the nearest if there is none */
export function nodeNamed(onnx: OnnxFile, name: string): OnnxNode {
  const node = onnx.nodes.find((candidate) => candidate.name === name);
  if (node === undefined)
    throw missingTensor(
      onnx.path,
      name,
      onnx.nodes.map((candidate) => candidate.name),
    );
  return node;
}

/** ModelProto.graph. */
async function findGraph(file: RangeFile, reader: ProtobufReader): Promise<ProtobufField> {
  for await (const field of reader.fields(0, file.sizeBytes)) {
    if (field.number === 7 && field.wire === 'bytes') return field;
  }
  throw new UserError(`${file.path}: must hold a graph, got none (is it an ONNX file?)`);
}

/** NodeProto: input 1, output 2, name 3, op_type 4, attribute 5. */
async function readNode(path: string, reader: ProtobufReader, start: number, end: number): Promise<OnnxNode> {
  const inputs: string[] = [];
  const outputs: string[] = [];
  const attributes = new Map<string, OnnxAttribute>();
  let [type, name] = ['', ''];
  for await (const field of reader.fields(start, end)) {
    if (field.number === 1) inputs.push(await reader.text(field.start, field.end));
    if (field.number === 2) outputs.push(await reader.text(field.start, field.end));
    if (field.number === 3) name = await reader.text(field.start, field.end);
    if (field.number === 4) type = await reader.text(field.start, field.end);
    if (field.number === 5) {
      const attribute = await readAttribute(path, reader, field.start, field.end);
      if (attribute.value !== undefined) attributes.set(attribute.name, attribute.value);
    }
  }
  return { type, name, inputs, outputs, attributes };
}

/** AttributeProto: name 1, f 2, i 3, s 4, t 5, floats 7, ints 8. */
async function readAttribute(
  path: string,
  reader: ProtobufReader,
  start: number,
  end: number,
): Promise<{ name: string; value: OnnxAttribute | undefined }> {
  let name = '';
  let value: OnnxAttribute | undefined;
  const list: number[] = [];
  for await (const field of reader.fields(start, end)) {
    if (field.number === 1) name = await reader.text(field.start, field.end);
    if (field.number === 2) [value] = await readFloats(reader, field);
    if (field.number === 3) value = signed(field.varint);
    if (field.number === 4) value = await reader.text(field.start, field.end);
    if (field.number === 5) {
      const { dtype, shape, ...tensor } = await describeTensor(path, reader, field.start, field.end);
      value = { dtype, shape, data: await readTensor(path, reader, { dtype, shape, ...tensor }) };
    }
    if (field.number === 7) list.push(...(await readFloats(reader, field)));
    if (field.number === 8) list.push(...(await readInts(reader, field)));
  }
  return { name, value: list.length > 0 ? list : value };
}

/** TensorProto: dims 1, data_type 2, float_data 4, int64_data 7, name 8, raw_data 9, data_location 14. */
async function describeTensor(
  path: string,
  reader: ProtobufReader,
  start: number,
  end: number,
): Promise<OnnxTensor> {
  let name = '';
  let type = 0n;
  const shape: number[] = [];
  const elements: ProtobufField[] = [];
  const varints: ProtobufField[] = [];
  for await (const field of reader.fields(start, end)) {
    if (field.number === 1) shape.push(...(await readInts(reader, field)));
    if (field.number === 2) type = field.varint;
    if (field.number === 4 || field.number === 9) elements.push(field);
    if (field.number === 7) varints.push(field);
    if (field.number === 8) name = await reader.text(field.start, field.end);
    if (field.number === 14 && field.varint !== 0n) {
      throw new UserError(
        `${path}: tensor "${name}" must lie in this file, got external data (merge the files)`,
      );
    }
  }
  const dtype = DTYPES.get(type);
  if (dtype === undefined) {
    const known = [...DTYPES.values()].join(', ');
    throw new UserError(`${path}: tensor "${name}" must be one of ${known}, got ONNX data type ${type}`);
  }
  const encoding = varints.length > 0 ? 'varints' : 'elements';
  const tensor = { name, dtype, shape, encoding, pieces: varints.length > 0 ? varints : elements } as const;
  if (encoding === 'elements') requireSize(path, tensor, storedBytes(elements));
  return tensor;
}

async function readTensor(path: string, reader: ProtobufReader, tensor: OnnxTensor): Promise<Uint8Array> {
  if (tensor.encoding === 'varints') {
    const values: bigint[] = [];
    for (const piece of tensor.pieces) values.push(...(await readVarints(reader, piece)));
    requireSize(path, tensor, values.length * 8);
    return new Uint8Array(BigInt64Array.from(values, (value) => BigInt.asIntN(64, value)).buffer);
  }
  const [first, ...rest] = tensor.pieces;
  if (first !== undefined && rest.length === 0) return reader.bytes(first.start, first.end);
  const data = new Uint8Array(storedBytes(tensor.pieces));
  let offset = 0;
  for (const { start, end } of tensor.pieces) {
    data.set(await reader.bytes(start, end), offset);
    offset += end - start;
  }
  return data;
}

function requireSize(path: string, { name, dtype, shape }: OnnxTensor, got: number): void {
  const expected = tensorBytes(dtype, shape);
  if (got === expected) return;
  const rule = `tensor "${name}" ${dtype}[${shape.join(', ')}] must have ${expected} bytes of data`;
  throw new UserError(`${path}: ${rule}, got ${got} (damaged, or kept in a field that is not read)`);
}

function storedBytes(pieces: readonly ProtobufField[]): number {
  return pieces.reduce((sum, { start, end }) => sum + end - start, 0);
}

/** Float fields, packed or one by one: the payload is their bytes either way. */
async function readFloats(reader: ProtobufReader, { start, end }: ProtobufField): Promise<number[]> {
  const { buffer } = await reader.bytes(start, end);
  return [...new Float32Array(buffer, 0, Math.floor((end - start) / 4))];
}

async function readInts(reader: ProtobufReader, field: ProtobufField): Promise<number[]> {
  return (await readVarints(reader, field)).map(signed);
}

async function readVarints(reader: ProtobufReader, field: ProtobufField): Promise<bigint[]> {
  return field.wire === 'varint' ? [field.varint] : reader.varints(field.start, field.end);
}

function signed(varint: bigint): number {
  return Number(BigInt.asIntN(64, varint));
}
