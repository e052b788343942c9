/** What every kind of weights file offers: named tensors, listed cheaply and read one at a time. */
import { UserError } from '../../errors.js';
import type { DType, HostTensor } from '../../tensorflow/dtypes.js';

/** A tensor's name, and the element type and shape in which `read` returns it. */
export interface TensorInfo {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** An open weights file, or folder of them. Whoever opened it closes it. */
export interface WeightSource {
  /** The file or folder as it was named, for messages. */
  readonly path: string;
  /** Free text the file carries; empty where it carries none. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Names of all tensors, in the file's order. */
  names(): string[];
  /** @throws UserError naming the nearest existing names if there is no such tensor */
  info(name: string): TensorInfo;
  /** Reads one tensor into memory of its own. @throws UserError as `info` does, or if the file cannot be read */
  read(name: string): Promise<HostTensor>;
  close(): Promise<void>;
}

/** How a format makes a `WeightSource` of its table of contents. */
export interface WeightTable<I extends TensorInfo> {
  readonly path: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: readonly I[];
  /** Little-endian bytes of the tensor, as many as its dtype and shape say. */
  readBytes(tensor: I): Promise<Uint8Array>;
  close(): Promise<void>;
}

/**
 * A `WeightSource` over a table of contents.
 *
 * @throws UserError if two tensors share a name
 */
export function weightSource<I extends TensorInfo>(table: WeightTable<I>): WeightSource {
  const { path, metadata, tensors } = table;
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  if (byName.size < tensors.length) {
    const repeated = tensors.find((tensor) => byName.get(tensor.name) !== tensor);
    throw new UserError(`${path}: tensor names must differ, got "${repeated?.name ?? ''}" twice`);
  }
  const find = (name: string): I => {
    const tensor = byName.get(name);
    if (tensor === undefined) throw missingTensor(path, name, [...byName.keys()]);
    return tensor;
  };
  return {
    path,
    metadata,
    names: () => [...byName.keys()],
    info: (name) => {
      const { dtype, shape } = find(name);
      return { name, dtype, shape };
    },
    read: async (name) => {
      const tensor = find(name);
      return { dtype: tensor.dtype, shape: tensor.shape, data: await table.readBytes(tensor) };
    },
    close: () => table.close(),
  };
}

/** The error for a tensor that a source lacks, naming those that it has and that are spelt most alike. */
export function missingTensor(path: string, name: string, names: readonly string[]): UserError {
  const nearest = nearestNames(name, names);
  const hint = nearest.length === 0 ? 'it holds no tensors' : `nearest are ${nearest.join(', ')}`;
  return new UserError(`${path}: there must be a tensor "${name}", got none (${hint})`);
}

/** The `count` of `names` with the fewest edits to `name`, nearest first. */
export function nearestNames(name: string, names: readonly string[], count = 3): string[] {
  return names
    .map((other) => ({ other, edits: editDistance(name, other) }))
    .sort((a, b) => a.edits - b.edits)
    .slice(0, count)
    .map(({ other }) => other);
}

/** Levenshtein distance: single-character insertions, deletions and replacements from `a` to `b`. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const replace = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(replace, (previous[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1));
    }
    previous = row;
  }
  return previous[b.length] ?? 0;
}
