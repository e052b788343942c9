/** Moves the frozen weights from their files into a session, a few at a time: no model is held twice in memory. */
import { UserError } from '../../errors.js';
import { elementCount, type DType, type HostTensor } from '../../tensorflow/dtypes.js';
import type { Graph } from '../../tensorflow/graph.js';
import { WEIGHT_GROUP_BYTES, type Session } from '../../tensorflow/session.js';
import type { WeightSource } from './weights.js';

/** How one variable of a graph is filled. */
export interface FrozenWeight {
  readonly variable: string;
  /** Tensors of the weight files, joined along axis 0 in this order. */
  readonly sources: readonly string[];
  /** Changes the joined tensor before it is assigned, e.g. resizes position embeddings. */
  readonly prepare?: (tensor: HostTensor) => HostTensor;
}

/**
 * Reads and assigns every weight, the largest first, in groups of `WEIGHT_GROUP_BYTES`.
 *
 * @param onProgress called after each group with the share done, 0…1
 * @throws UserError if the file lacks a tensor or has it in another shape than the graph
 */
export async function assignWeights(
  session: Session,
  source: WeightSource,
  weights: readonly FrozenWeight[],
  onProgress?: (done: number) => void,
): Promise<void> {
  let group = new Map<string, HostTensor>();
  let bytes = 0;
  for (const [index, weight] of largestFirst(session.graph, weights).entries()) {
    const tensor = await readWeight(session.graph, source, weight);
    group.set(weight.variable, tensor);
    bytes += tensor.data.byteLength;
    if (bytes < WEIGHT_GROUP_BYTES && index + 1 < weights.length) continue;
    await session.assignAll(group);
    group = new Map();
    bytes = 0;
    onProgress?.((index + 1) / weights.length);
  }
}

/**
 * Equal sizes one after the other: TensorFlow's allocator gives the place of an upload to the next one of its size, but
 * gives a larger place away whole. In the files' order a 7B model wastes 1.9 GB so (measured).
 */
function largestFirst({ variables }: Graph, weights: readonly FrozenWeight[]): FrozenWeight[] {
  const size = ({ variable }: FrozenWeight): number => elementCount(variables.get(variable)?.shape ?? []);
  return [...weights].sort((a, b) => size(b) - size(a));
}

async function readWeight(graph: Graph, source: WeightSource, weight: FrozenWeight): Promise<HostTensor> {
  const parts: HostTensor[] = [];
  for (const name of weight.sources) parts.push(await source.read(name));
  const joined = joinRows(weight, parts);
  const tensor = weight.prepare ? weight.prepare(joined) : joined;
  const wanted = graph.variables.get(weight.variable)?.shape;
  if (!wanted || wanted.join() === tensor.shape.join()) return tensor;
  throw new UserError(
    `weights: "${weight.sources.join('", "')}" in ${source.path} must make [${wanted.join(', ')}], got [${tensor.shape.join(', ')}] (does config.json belong to these weights?)`,
  );
}

function joinRows(weight: FrozenWeight, parts: readonly HostTensor[]): HostTensor {
  const first = parts[0];
  if (!first) throw new Error(`weights: variable "${weight.variable}" needs a source`);
  if (parts.length === 1) return first;
  const dtype: DType = first.dtype;
  if (
    parts.some((part) => part.dtype !== dtype || part.shape.slice(1).join() !== first.shape.slice(1).join())
  ) {
    throw new UserError(
      `weights: "${weight.sources.join('", "')}" must agree in dtype and width, got ${parts.map((part) => `${part.dtype}[${part.shape.join(', ')}]`).join(' ')}`,
    );
  }
  const rows = parts.reduce((sum, part) => sum + (part.shape[0] ?? 0), 0);
  return {
    dtype,
    shape: [rows, ...first.shape.slice(1)],
    data: new Uint8Array(Buffer.concat(parts.map((part) => part.data))),
  };
}
