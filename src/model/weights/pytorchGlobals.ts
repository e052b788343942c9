/**
 * The allow-list of the unpickler: the few classes and functions that a PyTorch file may name, and what each becomes
 * here. What is not listed is refused by name; nothing is ever imported or run.
 * Source: pytorch, torch/_utils.py and torch/_weights_only_unpickler.py.
 */
import { UserError } from '../../errors.js';
import {
  ELEMENT_TYPES,
  MAX_DIMENSIONS,
  viewStorage,
  type ElementType,
  type PyTorchStorage,
} from './pytorchStorage.js';
import {
  describeValue,
  malformed,
  OrderedDict,
  PyTorchRecord,
  PyTorchTensor,
  type PyTorchKey,
  type PyTorchValue,
} from './pytorchValues.js';

/** A class or function that a pickle may name. */
export interface AllowedGlobal {
  /** Module and name, as Python writes them. */
  readonly name: string;
  /** What calling it gives. @throws UserError if the arguments are not of its kind */
  readonly call?: (args: readonly unknown[]) => unknown;
  /** What making an object of it without calling it (`__new__`) gives. */
  readonly create?: () => unknown;
  /** Set for storage classes. */
  readonly element?: ElementType;
}

/** A storage that a pickle has named, with the size of the file that holds it. */
export class NamedStorage {
  constructor(
    readonly fileBytes: number,
    readonly storage: PyTorchStorage,
  ) {}
}

/**
 * The storages that a pickle names, each made once by `make`.
 *
 * @param make a storage of `count` elements. @throws UserError if the file has no such storage
 */
export class NamedStorages<S extends PyTorchStorage> {
  readonly byKey = new Map<string, S>();

  constructor(
    private readonly path: string,
    private readonly fileBytes: number,
    private readonly make: (key: string, element: ElementType, count: number) => S,
  ) {}

  /** The storage of `("storage", class, key, location, count)`. @throws UserError if `id` is anything else */
  find(id: unknown): NamedStorage {
    if (!Array.isArray(id) || id[0] !== 'storage') {
      throw refused(this.path, `the outside object ${describeValue(Array.isArray(id) ? id[0] : id)}`);
    }
    const [, type, key, , count, view] = id as unknown[];
    const element = isGlobal(type) ? type.element : undefined;
    const counts = typeof count === 'number' && Number.isSafeInteger(count) && count >= 0;
    if (element === undefined || typeof key !== 'string' || !counts) {
      throw malformed(this.path, 'a storage must have a class, a key and a count', describeValue(key));
    }
    if (view !== undefined && view !== null) {
      throw malformed(this.path, `storage "${key}" must be whole`, 'a view (torch < 0.4; save it anew)');
    }
    return new NamedStorage(this.fileBytes, this.known(key, element, count));
  }

  private known(key: string, element: ElementType, count: number): S {
    const known = this.byKey.get(key);
    if (known === undefined) {
      const made = this.make(key, element, count);
      this.byKey.set(key, made);
      return made;
    }
    if (known.element === element && known.count === count) return known;
    const rule = `storage "${key}" must be one ${known.element.name} of ${known.count}`;
    throw malformed(this.path, rule, `${element.name} of ${count} too`);
  }
}

/** The list, by module and name; messages name `path`. */
export function allowedGlobals(path: string): ReadonlyMap<string, AllowedGlobal> {
  const calls: [string, (args: readonly unknown[]) => unknown][] = [
    ['collections.OrderedDict', (args) => makeOrderedDict(path, args)],
    ['torch._utils._rebuild_tensor_v2', (args) => rebuildTensor(path, args)],
    ['torch._utils._rebuild_parameter', ([tensor]) => requireTensor(path, tensor)],
    ['torch.Size', ([sizes]) => Object.freeze([...requireSizes(path, sizes)])],
    ['torch.device', (args) => makeDevice(path, args)],
  ];
  const globals: AllowedGlobal[] = [
    ...calls.map(([name, call]) => ({ name, call })),
    { name: 'argparse.Namespace', create: () => new PyTorchRecord('argparse.Namespace', new Map()) },
    ...[...ELEMENT_TYPES.values()].map((element) => ({ name: `torch.${element.name}`, element })),
  ];
  return new Map(globals.map((global) => [global.name, global]));
}

/**
 * Sets the state of an object, as Python's `__setstate__` or `__dict__.update` would.
 *
 * @throws UserError for anything but a Namespace's fields and an OrderedDict's attributes (which are dropped)
 */
export function buildState(path: string, target: unknown, state: unknown): void {
  if (target instanceof OrderedDict && state instanceof Map) return;
  if (!(target instanceof PyTorchRecord) || target.type !== 'argparse.Namespace' || !(state instanceof Map)) {
    throw refused(path, `to set the state of ${describeValue(target)} to ${describeValue(state)}`);
  }
  target.fields = state as Map<PyTorchKey, PyTorchValue>; // requireTree looks at what is in it
}

/** The error for what a file wants and this reader does not do. */
export function refused(path: string, wanted: string): UserError {
  const hint = 'nothing was run; save the weights as a plain state dict, or use safetensors';
  return new UserError(
    `${path}: must hold tensors and plain values only, got a pickle that wants ${wanted} (${hint})`,
  );
}

/** `OrderedDict()`; its items follow as those of a dict. */
function makeOrderedDict(path: string, args: readonly unknown[]): OrderedDict<unknown> {
  if (args.length === 0) return new OrderedDict<unknown>();
  throw malformed(path, 'an OrderedDict must be made empty', describeValue(args));
}

/** Holds that a value can be a key of a dict here. */
export function requireKey(path: string, key: unknown): PyTorchKey {
  const type = typeof key;
  if (key === null || type === 'string' || type === 'number' || type === 'bigint' || type === 'boolean') {
    return key as PyTorchKey; // just checked
  }
  throw malformed(path, 'keys must be texts or numbers', describeValue(key));
}

/** `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks, metadata=None)`. */
function rebuildTensor(path: string, args: readonly unknown[]): PyTorchTensor {
  const [storage, offset, shape, strides] = args;
  if (!(storage instanceof NamedStorage) || typeof offset !== 'number') {
    const got = args.slice(0, 2).map(describeValue).join(' and ');
    throw malformed(path, 'tensors must be made of a storage and an offset', got);
  }
  return viewStorage(path, storage.fileBytes, storage.storage, {
    offset,
    shape: requireSizes(path, shape),
    strides: requireSizes(path, strides),
  });
}

function isGlobal(value: unknown): value is AllowedGlobal {
  return typeof value === 'object' && value !== null && 'element' in value; // only storage classes have one
}

function requireTensor(path: string, value: unknown): PyTorchTensor {
  if (value instanceof PyTorchTensor) return value;
  throw malformed(path, 'parameters must be made of a tensor', describeValue(value));
}

function requireSizes(path: string, value: unknown): readonly number[] {
  const isList = Array.isArray(value) && value.length <= MAX_DIMENSIONS;
  if (isList && value.every((size) => typeof size === 'number')) return value;
  throw malformed(path, `sizes must be lists of at most ${MAX_DIMENSIONS} numbers`, describeValue(value));
}

function makeDevice(path: string, [type, index = null]: readonly unknown[]): PyTorchRecord {
  if (typeof type !== 'string' || (index !== null && typeof index !== 'number')) {
    throw malformed(path, 'a device must be a name and a number', describeValue(type));
  }
  const fields: [PyTorchKey, PyTorchValue][] = [
    ['type', type],
    ['index', index],
  ];
  return new PyTorchRecord('torch.device', new Map(fields));
}
