/**
 * Storages (flat runs of elements in a PyTorch file) and tensors as strided views of them, read by byte range.
 * Source: pytorch, torch/storage.py and torch/_utils.py, `_rebuild_tensor_v2`; c10/core/TensorImpl.h for strides.
 */
import { BYTES_PER_ELEMENT, elementCount, type DType } from '../../tensorflow/dtypes.js';
import { malformed, PyTorchTensor } from './pytorchValues.js';

/** How the elements of a storage class lie in the file, and what they are read as. */
export interface ElementType {
  /** The class's name in module `torch`. */
  readonly name: string;
  readonly bytes: number;
  /** The dtype that reading gives; wider or narrower than the file's where the framework has no such type. */
  readonly dtype: DType;
  /** The file's elements as elements of `dtype`; absent where they are the same. */
  readonly convert?: (bytes: Uint8Array) => Uint8Array;
}

/** The storage classes that are read. `float64` is rounded to float32, `int16` widened to int32. */
export const ELEMENT_TYPES: ReadonlyMap<string, ElementType> = new Map(
  (
    [
      { name: 'FloatStorage', bytes: 4, dtype: 'float32' },
      { name: 'HalfStorage', bytes: 2, dtype: 'float16' },
      { name: 'BFloat16Storage', bytes: 2, dtype: 'bfloat16' },
      { name: 'DoubleStorage', bytes: 8, dtype: 'float32', convert: float64ToFloat32 },
      { name: 'LongStorage', bytes: 8, dtype: 'int64' },
      { name: 'IntStorage', bytes: 4, dtype: 'int32' },
      { name: 'ShortStorage', bytes: 2, dtype: 'int32', convert: int16ToInt32 },
      { name: 'CharStorage', bytes: 1, dtype: 'int8' },
      { name: 'ByteStorage', bytes: 1, dtype: 'uint8' },
      { name: 'BoolStorage', bytes: 1, dtype: 'bool' },
    ] as const satisfies readonly ElementType[]
  ).map((type) => [type.name, type]),
);

/** A run of elements that tensors are views of. */
export interface PyTorchStorage {
  readonly key: string;
  readonly element: ElementType;
  /** Elements, which the file is known to hold. */
  readonly count: number;
  /** The bytes [position, position + length) of the storage, in memory of their own. */
  read(position: number, length: number): Promise<Uint8Array>;
}

/** Where a tensor's elements are in its storage, all in elements. */
export interface StridedView {
  readonly offset: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
}

/** Most dimensions of a tensor, as torch has it. */
export const MAX_DIMENSIONS = 64;
const SMALL_BYTES = 2 ** 20; // what a view that repeats elements may take, however small its file is

/**
 * A tensor over `storage`; nothing is read yet, but everything is checked.
 *
 * @param fileBytes size of the file; a view that repeats elements (stride 0) reads at most as much, or 1 MiB
 * @throws UserError if the shape or strides are none, or the view reaches past its storage
 */
export function viewStorage(
  path: string,
  fileBytes: number,
  storage: PyTorchStorage,
  view: StridedView,
): PyTorchTensor {
  const { element, count } = storage;
  const { offset, shape, strides } = view;
  const where = `tensor [${shape.slice(0, 8).join(', ')}] in storage ${JSON.stringify(storage.key)}`;
  const sizes = [offset, ...shape, ...strides];
  if (shape.length !== strides.length || !sizes.every(isSize)) {
    const rule = `${where} must have sizes and strides from 0, as many of the one as of the other`;
    throw malformed(path, rule, `strides [${strides.slice(0, 8).join(', ')}] from ${offset}`);
  }
  const elements = elementCount(shape);
  const end = elements === 0 ? offset : offset + span(view);
  if (!isSize(elements) || !isSize(end) || (elements > 0 && end > count)) {
    throw malformed(path, `${where} must lie in its ${count} elements`, `${end} elements wanted`);
  }
  const bytes = elements * Math.max(element.bytes, BYTES_PER_ELEMENT[element.dtype]);
  if (elements > count && bytes > Math.max(fileBytes, SMALL_BYTES)) {
    throw malformed(path, `${where} must not be larger than its file of ${fileBytes} bytes`, bytes);
  }
  return new PyTorchTensor(element.dtype, shape, () => readView(storage, view, elements));
}

/** Elements from the first of the view to its last, both included; the view is not empty. */
function span({ shape, strides }: StridedView): number {
  return shape.reduce((sum, size, i) => sum + (size - 1) * (strides[i] ?? 0), 1);
}

async function readView(storage: PyTorchStorage, view: StridedView, elements: number): Promise<Uint8Array> {
  const { bytes, convert = (same: Uint8Array) => same } = storage.element;
  if (elements === 0) return new Uint8Array(0);
  const data = await storage.read(view.offset * bytes, span(view) * bytes);
  return convert(isContiguous(view) ? data : gather(data, bytes, view, elements));
}

function isContiguous({ shape, strides }: StridedView): boolean {
  let expected = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    const size = shape[i] ?? 1;
    if (size !== 1 && strides[i] !== expected) return false;
    expected *= size;
  }
  return true;
}

/** Copies a view's elements, one by one, into row-major order; `data` begins with the view's first. */
function gather(data: Uint8Array, bytes: number, view: StridedView, elements: number): Uint8Array {
  const Unit = { 1: Uint8Array, 2: Uint16Array }[bytes] ?? Uint32Array;
  const units = bytes / Unit.BYTES_PER_ELEMENT; // an int64 is copied as two units, a dimension more
  const shape = [...view.shape, units];
  const strides = [...view.strides.map((stride) => stride * units), 1];
  const from = new Unit(data.buffer as ArrayBuffer); // RangeFile reads into memory of its own, never shared
  const to = new Unit(elements * units);
  const index = new Array<number>(shape.length).fill(0);
  for (let done = 0, start = 0; done < to.length; done += units) {
    for (let i = 0; i < units; i++) to[done + i] = from[start + i] ?? 0;
    start = nextStart(start, index, shape, strides);
  }
  return new Uint8Array(to.buffer);
}

/** Where the next element begins, in row-major order; counts `index` on. The last dimension is the element's own. */
function nextStart(
  start: number,
  index: number[],
  shape: readonly number[],
  strides: readonly number[],
): number {
  for (let d = shape.length - 2; d >= 0; d--) {
    const [at, size, stride] = [(index[d] ?? 0) + 1, shape[d] ?? 1, strides[d] ?? 0];
    index[d] = at < size ? at : 0;
    if (at < size) return start + stride;
    start -= (size - 1) * stride;
  }
  return start;
}

function float64ToFloat32(bytes: Uint8Array): Uint8Array {
  const wide = new Float64Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 8);
  return new Uint8Array(new Float32Array(wide).buffer);
}

function int16ToInt32(bytes: Uint8Array): Uint8Array {
  const narrow = new Int16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  return new Uint8Array(new Int32Array(narrow).buffer);
}

/** Whether a number counts something: from 0 to 2^53, whole. */
function isSize(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}
