/**
 * Writing PyTorch's zip files without PyTorch: a pickle of protocol 2 with the opcodes and names that every
 * `torch.load(…, weights_only=True)` since 1.13 knows, and the tensors beside it, streamed one by one.
 * Source: pytorch, torch/serialization.py, `_save`; torch/_weights_only_unpickler.py.
 */
import { writeWhole } from '../../files.js';
import type { DType } from '../../tensorflow/dtypes.js';
import { ELEMENT_TYPES } from './pytorchStorage.js';
import { describeValue, OrderedDict, PyTorchTensor, type PyTorchKey } from './pytorchValues.js';
import { ZipWriter } from './pytorchZipWrite.js';
import { tensorBytes } from './weightsFile.js';

/** A number that Python sees as a float, also where it is whole: `new PyTorchFloat(1)` is `1.0`. */
export class PyTorchFloat {
  constructor(readonly value: number) {}
}

/** A list that Python sees as a tuple. */
export class PyTorchTuple {
  constructor(readonly items: readonly PyTorchTree[]) {}
}

/**
 * What can be written. Whole numbers become ints, others floats; arrays become lists, `OrderedDict`s themselves, other
 * maps and plain objects dicts (whose number-like keys JavaScript moves to the front: use a map for those).
 */
export type PyTorchTree =
  | PyTorchKey
  | PyTorchFloat
  | PyTorchTuple
  | PyTorchTensor
  | readonly PyTorchTree[]
  | ReadonlyMap<PyTorchKey, PyTorchTree>
  | { readonly [key: string]: PyTorchTree };

const FOLDER = 'archive'; // as torch.save names it when it does not know the file's name
const MAX_DEPTH = 64;

/**
 * Writes a PyTorch zip file, whole or not at all. The same tree gives the same bytes. Each tensor is read once, when its
 * turn comes, and is contiguous in the file with a storage of its own; one that occurs twice is written once.
 *
 * @throws UserError if there is no space, no permission or no such folder
 * @throws if a value is of another kind, nests deeper than 64, or a tensor's bytes are not as many as its shape says
 */
export async function writePyTorch(path: string, tree: PyTorchTree): Promise<void> {
  const pickler = new Pickler();
  const pickle = pickler.pickle(tree);
  await writeWhole(path, async (handle) => {
    const zip = new ZipWriter(handle);
    await zip.add(`${FOLDER}/data.pkl`, pickle);
    await zip.add(`${FOLDER}/byteorder`, Buffer.from('little'));
    for (const [tensor, key] of pickler.tensors) {
      await zip.add(`${FOLDER}/data/${key}`, await readChecked(path, tensor));
    }
    await zip.add(`${FOLDER}/version`, Buffer.from('3\n'));
    await zip.finish();
  });
}

async function readChecked(path: string, tensor: PyTorchTensor): Promise<Uint8Array> {
  const { data } = await tensor.read();
  const expected = tensorBytes(tensor.dtype, tensor.shape);
  if (data.byteLength === expected) return data;
  throw new Error(`${path}: ${describeValue(tensor)} must have ${expected} bytes, got ${data.byteLength}`);
}

/** Names and byte sizes of pickle opcodes, as in cpython, Lib/pickle.py. */
const OP = {
  PROTO: 0x80,
  STOP: 0x2e,
  NONE: 0x4e,
  NEWTRUE: 0x88,
  NEWFALSE: 0x89,
  BININT1: 0x4b,
  BININT2: 0x4d,
  BININT: 0x4a,
  LONG1: 0x8a,
  BINFLOAT: 0x47,
  BINUNICODE: 0x58,
  MARK: 0x28,
  EMPTY_LIST: 0x5d,
  APPENDS: 0x65,
  EMPTY_DICT: 0x7d,
  SETITEMS: 0x75,
  EMPTY_TUPLE: 0x29,
  TUPLE: 0x74,
  GLOBAL: 0x63,
  REDUCE: 0x52,
  BINPERSID: 0x51,
} as const;

/** Makes the pickle of a tree, and the storage key of each of its tensors. It uses no memo: nothing here is shared. */
class Pickler {
  readonly tensors = new Map<PyTorchTensor, string>();
  private readonly parts: Buffer[] = [];

  pickle(tree: PyTorchTree): Buffer {
    this.op(OP.PROTO, Buffer.of(2));
    this.value(tree, 0);
    this.op(OP.STOP);
    return Buffer.concat(this.parts);
  }

  private value(value: unknown, depth: number): void {
    if (depth > MAX_DEPTH)
      throw new Error(`pytorch: values must nest at most ${MAX_DEPTH} deep, got more (a cycle?)`);
    if (value instanceof PyTorchTensor) this.tensor(value);
    else if (value instanceof PyTorchFloat) this.float(value.value);
    else if (value instanceof PyTorchTuple) this.tuple(value.items, depth);
    else if (Array.isArray(value)) this.list(value as unknown[], depth);
    else if (value instanceof Map) this.dict(value as Map<unknown, unknown>, depth);
    else if (isPlainObject(value)) this.dict(new Map(Object.entries(value)), depth);
    else this.scalar(value);
  }

  private scalar(value: unknown): void {
    if (value === null) this.op(OP.NONE);
    else if (typeof value === 'boolean') this.op(value ? OP.NEWTRUE : OP.NEWFALSE);
    else if (typeof value === 'string') this.text(value);
    else if (typeof value === 'bigint') this.integer(value);
    else if (typeof value !== 'number') throw new Error(`pytorch: cannot write ${describeValue(value)}`);
    else if (Number.isSafeInteger(value) && !Object.is(value, -0)) this.integer(value);
    else this.float(value);
  }

  private integer(value: number | bigint): void {
    if (value >= 0 && value <= 0xff) this.op(OP.BININT1, Buffer.of(Number(value)));
    else if (value >= 0 && value <= 0xffff) this.op(OP.BININT2, littleEndian(BigInt(value), 2));
    else if (value >= -(2 ** 31) && value < 2 ** 31) this.op(OP.BININT, littleEndian(BigInt(value), 4));
    else this.long(BigInt(value));
  }

  private long(value: bigint): void {
    let bytes = 5;
    while (BigInt.asIntN(8 * bytes, value) !== value) bytes += 1;
    if (bytes > 0xff) throw new Error(`pytorch: integers must have at most 255 bytes, got ${bytes}`);
    this.op(OP.LONG1, Buffer.of(bytes), littleEndian(value, bytes));
  }

  private float(value: number): void {
    const bytes = Buffer.alloc(8);
    bytes.writeDoubleBE(value);
    this.op(OP.BINFLOAT, bytes);
  }

  private text(value: string): void {
    if (/\p{Surrogate}/u.test(value))
      throw new Error(`pytorch: texts must be whole Unicode, got ${describeValue(value)}`);
    const bytes = Buffer.from(value);
    this.op(OP.BINUNICODE, littleEndian(BigInt(bytes.length), 4), bytes);
  }

  private list(items: readonly unknown[], depth: number): void {
    this.op(OP.EMPTY_LIST);
    this.op(OP.MARK);
    for (const item of items) this.value(item, depth + 1);
    this.op(OP.APPENDS);
  }

  private tuple(items: readonly unknown[], depth: number): void {
    this.op(OP.MARK);
    for (const item of items) this.value(item, depth + 1);
    this.op(OP.TUPLE);
  }

  private dict(dict: ReadonlyMap<unknown, unknown>, depth: number): void {
    if (dict instanceof OrderedDict) this.emptyOrderedDict();
    else this.op(OP.EMPTY_DICT);
    this.op(OP.MARK);
    for (const [key, value] of dict) {
      this.scalar(key);
      this.value(value, depth + 1);
    }
    this.op(OP.SETITEMS);
  }

  private emptyOrderedDict(): void {
    this.global('collections', 'OrderedDict');
    this.op(OP.EMPTY_TUPLE);
    this.op(OP.REDUCE);
  }

  /** `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks)`. */
  private tensor(tensor: PyTorchTensor): void {
    const key = this.tensors.get(tensor) ?? String(this.tensors.size);
    this.tensors.set(tensor, key);
    const { dtype, shape } = tensor;
    this.global('torch._utils', '_rebuild_tensor_v2');
    this.op(OP.MARK);
    this.storage(
      key,
      dtype,
      shape.reduce((product, size) => product * size, 1),
    );
    this.integer(0);
    this.tuple(shape, 0);
    this.tuple(contiguousStrides(shape), 0);
    this.op(OP.NEWFALSE);
    this.emptyOrderedDict();
    this.op(OP.TUPLE);
    this.op(OP.REDUCE);
  }

  /** The persistent id `("storage", class, key, location, elements)`. */
  private storage(key: string, dtype: DType, elements: number): void {
    this.op(OP.MARK);
    this.text('storage');
    this.global('torch', storageName(dtype));
    this.text(key);
    this.text('cpu');
    this.integer(elements);
    this.op(OP.TUPLE);
    this.op(OP.BINPERSID);
  }

  private global(module: string, name: string): void {
    this.op(OP.GLOBAL, Buffer.from(`${module}\n${name}\n`));
  }

  private op(opcode: number, ...argument: readonly Buffer[]): void {
    this.parts.push(Buffer.of(opcode), ...argument);
  }
}

/** Strides of a row-major tensor, in elements; those of an empty one as torch has them, with 1 for each 0. */
function contiguousStrides(shape: readonly number[]): number[] {
  const strides: number[] = [];
  let stride = 1;
  for (const size of [...shape].reverse()) {
    strides.unshift(stride);
    stride *= Math.max(size, 1);
  }
  return strides;
}

function storageName(dtype: DType): string {
  for (const { name, dtype: read, convert } of ELEMENT_TYPES.values()) {
    if (read === dtype && convert === undefined) return name;
  }
  throw new Error(`pytorch: dtype must be one of the format's, got ${dtype}`);
}

function littleEndian(value: bigint, length: number): Buffer {
  const hex = BigInt.asUintN(8 * length, value)
    .toString(16)
    .padStart(2 * length, '0');
  return Buffer.from(hex, 'hex').reverse();
}

function isPlainObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}
