/**
 * What a PyTorch file can hold here: plain values, tensors that are described but not read, and inert records of the
 * few other things that checkpoints mention. Nothing of it does anything.
 */
import { UserError } from '../../errors.js';
import type { DType, HostTensor } from '../../tensorflow/dtypes.js';

/** A key of a dict; integers beyond 2^53 are bigints. */
export type PyTorchKey = string | number | bigint | boolean | null;

/** A value of a file: `None` is null, lists, tuples and `torch.Size` are arrays, dicts are maps in the file's order. */
export type PyTorchValue =
  | PyTorchKey
  | Uint8Array
  | PyTorchTensor
  | PyTorchRecord
  | readonly PyTorchValue[]
  | ReadonlyMap<PyTorchKey, PyTorchValue>;

/** A `collections.OrderedDict`, which is what a state dict is; written as one, too. Attributes such as `_metadata` are dropped. */
export class OrderedDict<V = PyTorchValue> extends Map<PyTorchKey, V> {}

/** A tensor: its element type and shape, and its bytes on demand. */
export class PyTorchTensor {
  /** @param load little-endian bytes in row-major order, as many as dtype and shape say; called at each read */
  constructor(
    readonly dtype: DType,
    readonly shape: readonly number[],
    private readonly load: () => Promise<Uint8Array> | Uint8Array,
  ) {}

  /** Reads the tensor into memory of its own. @throws UserError if the file is closed, cut or damaged */
  async read(): Promise<HostTensor> {
    return { dtype: this.dtype, shape: this.shape, data: await this.load() };
  }
}

/** An object of one of the classes that are known, as its class's name and its fields; never an object of that class. */
export class PyTorchRecord {
  constructor(
    readonly type: 'argparse.Namespace' | 'torch.device',
    public fields: ReadonlyMap<PyTorchKey, PyTorchValue>,
  ) {}
}

/** Deepest nesting of dicts and lists; real checkpoints have about six levels. */
const MAX_DEPTH = 64;
/** Most values in all, each counted as often as a walk from the top meets it. */
const MAX_VALUES = 4_000_000;

/**
 * Holds that `root` is a tree of `PyTorchValue`s that can be walked to its end: no cycles, bounded depth, and bounded
 * size even where one list is meant many times (a list of ten times a list of ten times …).
 *
 * @throws UserError naming what else there is
 */
export function requireTree(path: string, root: unknown): PyTorchValue {
  const sizes = new Map<object, number>();
  measure(path, root, sizes, 0);
  return root as PyTorchValue; // measure saw every value below root
}

/** Number of values from `value` on, itself included; `sizes` remembers containers, and holds NaN for those around. */
function measure(path: string, value: unknown, sizes: Map<object, number>, depth: number): number {
  const children = childrenOf(path, value);
  if (children === undefined || typeof value !== 'object' || value === null) return 1;
  const known = sizes.get(value);
  if (known !== undefined && !Number.isNaN(known)) return known;
  if (known !== undefined) throw malformed(path, 'a value must not hold itself', 'a cycle');
  if (depth === MAX_DEPTH) throw malformed(path, `values must nest at most ${MAX_DEPTH} deep`, 'more');
  sizes.set(value, NaN);
  let total = 1;
  for (const child of children) {
    total += measure(path, child, sizes, depth + 1);
    if (total > MAX_VALUES) throw malformed(path, `must hold at most ${MAX_VALUES} values`, 'more');
  }
  sizes.set(value, total);
  return total;
}

/** What a container holds; undefined for other values. */
function childrenOf(path: string, value: unknown): Iterable<unknown> | undefined {
  if (Array.isArray(value)) return value as unknown[];
  if (value instanceof Map) return value.values();
  if (value instanceof PyTorchRecord) return value.fields.values();
  const plain = typeof value !== 'object' && typeof value !== 'function' && value !== undefined;
  if (plain || value === null || value instanceof PyTorchTensor || value instanceof Uint8Array)
    return undefined;
  throw malformed(path, 'values must be plain or tensors', describeValue(value));
}

/** A value in few words, for messages. */
export function describeValue(value: unknown): string {
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (value instanceof Map) return `a dict of ${value.size}`;
  if (value instanceof PyTorchTensor) return `a tensor ${value.dtype}[${value.shape.join(', ')}]`;
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  if (typeof value === 'string') return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value);
  if (value === null) return 'None';
  if (typeof value === 'number' || typeof value === 'bigint' || typeof value === 'boolean')
    return String(value);
  if (typeof value !== 'object') return typeof value;
  return 'name' in value && typeof value.name === 'string' ? `the class ${value.name}` : 'a storage';
}

/** The error for a file that breaks a rule of the format. */
export function malformed(path: string, rule: string, got: string | number): UserError {
  return new UserError(`${path}: ${rule}, got ${got} (damaged, or no PyTorch file? fetch it again)`);
}
