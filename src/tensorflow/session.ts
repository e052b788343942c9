/**
 * TensorFlow behind a worker thread, so that signals, progress and image decoding go on during a step of many seconds.
 * `TensorFlow` is the thread; a `Session` is one loaded graph with its weights.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SHARE_ENV, Worker } from 'node:worker_threads';
import { requireRuntime } from '../runtimeFolder.js';
import { formatShape, isName, type Shape } from './dims.js';
import { BYTES_PER_ELEMENT, elementCount, type HostTensor } from './dtypes.js';
import { only, type EntryPoint, type Graph, type GraphTensor, type Variable } from './graph.js';
import type {
  Assignment,
  KeptTensor,
  Parallelism,
  Replies,
  Request,
  RuntimeFacts,
  Values,
} from './protocol.js';
import { RequestQueue, type Answer } from './requestQueue.js';
import { encodeSavedModel, tensorName } from './savedModel.js';

export type { KeptTensor, Values } from './protocol.js';

/** Weights that are moved in or out by one run: few runs, and little memory beside the weights themselves. */
export const WEIGHT_GROUP_BYTES = 2 ** 26;

/** TensorFlow makes its threads once in a process: what the first one to open it asked for, whatever later ones ask for. */
let threadsOfProcess: number | undefined;

/** The thread that computes. Close it, or the process does not end. */
export class TensorFlow {
  readonly #worker: Worker;
  readonly #queue: RequestQueue;

  private constructor(
    worker: Worker,
    readonly facts: RuntimeFacts,
    /** Runs of one entry point that are computed at the same time, if they are asked for at the same time. */
    readonly concurrency: number,
  ) {
    this.#worker = worker;
    this.#queue = new RequestQueue((request, transfer) => worker.postMessage(request, transfer), concurrency);
    worker.on('message', (answer: Answer) => this.#queue.answered(answer));
    worker.on('error', (error) => this.#queue.end(error));
    worker.on('exit', () => this.#queue.end(new Error('tensorflow: the worker thread has ended')));
  }

  /**
   * Starts the thread and loads TensorFlow in it.
   *
   * @param options.threads threads of one op; 0 = all cores
   * @param options.concurrency runs that are computed at the same time, 1 if left out. Both are fixed for the process by
   * whoever opens it first: later ones still compute the same, at the first one's speed
   * @throws UserError if set-up has not run
   */
  static async open({ threads = 0, concurrency = 1 }: Partial<Parallelism> = {}): Promise<TensorFlow> {
    requireRuntime();
    threadsOfProcess ??= threads;
    const worker = startWorker({ threads: threadsOfProcess, concurrency });
    const facts = await new Promise<RuntimeFacts>((resolve, reject) => {
      worker.once('message', ({ ready }: { ready: RuntimeFacts }) => resolve(ready));
      worker.once('error', reject);
    });
    return new TensorFlow(worker, facts, concurrency);
  }

  /** Loads a graph; its variables are empty until assigned. */
  async load(graph: Graph): Promise<Session> {
    const folder = await mkdtemp(join(tmpdir(), 'minigpt4-graph-'));
    try {
      await writeFile(join(folder, 'saved_model.pb'), encodeSavedModel(graph, this.concurrency));
      return new Session(this, await this.ask({ kind: 'load', folder }), graph);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }

  /** Tensors alive inside the binding; equal before and after a run that keeps nothing. */
  tensorCount(): Promise<number> {
    return this.ask({ kind: 'tensorCount' });
  }

  /** Best GFLOP/s of a matrix product [M,K]·[K,N]. */
  matMulRate(dtype: 'float32' | 'bfloat16', size: readonly [number, number, number]): Promise<number> {
    return this.ask({ kind: 'matMulRate', dtype, size });
  }

  /** Sends one request to the worker; answered in order, but that alike runs go together (requestQueue.ts). */
  ask<K extends Request['kind']>(
    request: Request & { kind: K },
    transfer?: ArrayBuffer[],
  ): Promise<Replies[K]> {
    return this.#queue.ask<K>(request, transfer);
  }

  /** Ends the thread; what was still asked is rejected. */
  async close(): Promise<void> {
    await this.#worker.terminate();
  }
}

/** One loaded graph with its weights. */
export class Session {
  constructor(
    readonly tensorflow: TensorFlow,
    readonly id: number,
    readonly graph: Graph,
  ) {}

  /**
   * Stores a frozen weight, converted to the variable's dtype inside TensorFlow. The tensor's bytes are handed over
   * (its buffer is empty afterwards) where it owns its whole buffer.
   *
   * @throws if the name is no variable, the shape differs or the bytes do not fill it
   */
  async assign(name: string, tensor: HostTensor): Promise<void> {
    await this.assignAll(new Map([[name, tensor]]));
  }

  /** As `assign`, several at once: a run of its own for each costs TensorFlow 80 ms in a large graph. */
  async assignAll(tensors: ReadonlyMap<string, HostTensor>): Promise<void> {
    const weights = [...tensors].map(([name, tensor]) => checkedAssignment(this.graph, name, tensor));
    const buffers = weights.flatMap(({ tensor: { data } }) =>
      data.buffer instanceof ArrayBuffer && data.byteLength === data.buffer.byteLength ? [data.buffer] : [],
    );
    await this.tensorflow.ask({ kind: 'assign', session: this.id, weights }, [...new Set(buffers)]);
  }

  /**
   * Runs an entry point and copies the named outputs out.
   *
   * @param inputs every input of the entry point, dense values or kept tensors
   * @param outputs names of the entry point's outputs
   * @returns the values by output name; the caller owns them
   */
  async run<Name extends string>(
    entry: string,
    inputs: Readonly<Record<string, Values | KeptTensor>>,
    outputs: readonly Name[],
  ): Promise<Record<Name, Values>> {
    const { values } = await this.runKeeping(entry, inputs, outputs, []);
    return values;
  }

  /** Like `run`, and leaves the outputs named in `keep` inside TensorFlow. The caller releases them. */
  async runKeeping<Name extends string, Kept extends string>(
    entry: string,
    inputs: Readonly<Record<string, Values | KeptTensor>>,
    outputs: readonly Name[],
    keep: readonly Kept[],
  ): Promise<{ values: Record<Name, Values>; kept: Record<Kept, KeptTensor> }> {
    const point = this.#entry(entry);
    const feeds = checkedFeeds(entry, point, inputs).map(
      ([tensor, value]) => [tensorName(tensor), value] as const,
    );
    const fetches = [...outputs, ...keep].map((name, i) => {
      const tensor = point.outputs[name];
      if (!tensor)
        throw new Error(
          `session: "${entry}" has outputs ${Object.keys(point.outputs).join(', ')}, got "${name}"`,
        );
      return { name: tensorName(tensor), keep: i >= outputs.length };
    });
    const runs = [{ feeds, fetches }];
    const results = only(await this.tensorflow.ask({ kind: 'run', session: this.id, runs }));
    const pick = (names: readonly string[], from: number): [string, Values | KeptTensor | undefined][] =>
      names.map((name, i) => [name, results[from + i]]);
    return {
      values: Object.fromEntries(pick(outputs, 0)) as Record<Name, Values>, // fetched with keep: false
      kept: Object.fromEntries(pick(keep, outputs.length)) as Record<Kept, KeptTensor>, // fetched with keep: true
    };
  }

  /** Frees kept tensors. */
  async release(tensors: Iterable<KeptTensor>): Promise<void> {
    await this.tensorflow.ask({ kind: 'release', tensors: [...tensors].map(({ kept }) => kept) });
  }

  /** SHA-256 over names and values of all variables as they are in the session now. */
  fingerprint(): Promise<string> {
    return this.tensorflow.ask({
      kind: 'fingerprint',
      session: this.id,
      groups: fetchGroups([...this.graph.variables.values()]),
    });
  }

  /** Frees the graph and its weights. */
  async close(): Promise<void> {
    await this.tensorflow.ask({ kind: 'unload', session: this.id });
  }

  #entry(name: string): EntryPoint {
    const entry = this.graph.entryPoints.get(name);
    if (!entry)
      throw new Error(
        `session: entry points are ${[...this.graph.entryPoints.keys()].join(', ')}, got "${name}"`,
      );
    return entry;
  }
}

function checkedAssignment(graph: Graph, name: string, tensor: HostTensor): Assignment {
  const variable = graph.variables.get(name);
  if (!variable) throw new Error(`session: assign must name a variable, got "${name}"`);
  if (variable.shape.join() !== tensor.shape.join()) {
    throw new Error(
      `session: variable "${name}" is ${formatShape(variable.shape)}, got a tensor ${formatShape(tensor.shape)}`,
    );
  }
  const needed = elementCount(tensor.shape) * BYTES_PER_ELEMENT[tensor.dtype];
  if (tensor.data.byteLength !== needed) {
    throw new Error(
      `session: variable "${name}" needs ${needed} bytes of ${tensor.dtype}, got ${tensor.data.byteLength}`,
    );
  }
  return { variable: name, dtype: variable.dtype, tensor };
}

/** Names in alphabetical order, in groups of at most `WEIGHT_GROUP_BYTES` of float32, or of one. */
function fetchGroups(variables: readonly Variable[]): string[][] {
  const groups: string[][] = [];
  let bytes = Infinity;
  for (const { name, shape } of [...variables].sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const size = 4 * elementCount(shape);
    if (bytes + size > WEIGHT_GROUP_BYTES) {
      groups.push([]);
      bytes = 0;
    }
    bytes += size;
    groups.at(-1)?.push(name);
  }
  return groups;
}

/**
 * Each input's placeholder with its value. TensorFlow itself takes any shape for a placeholder, and some wrong ones
 * then give wrong numbers, so names, dtypes and sizes are checked here; a named dim must have one size in all inputs.
 */
function checkedFeeds(
  entry: string,
  { inputs: placeholders }: EntryPoint,
  inputs: Readonly<Record<string, Values | KeptTensor>>,
): [GraphTensor, Values | KeptTensor][] {
  const unknown = Object.keys(inputs).find((name) => !(name in placeholders));
  if (unknown !== undefined)
    throw new Error(
      `session: "${entry}" has inputs ${Object.keys(placeholders).join(', ')}, got "${unknown}"`,
    );
  const sizes = new Map<string, number>();
  return Object.entries(placeholders).map(([name, tensor]) => {
    const value = inputs[name];
    if (!value)
      throw new Error(`session: "${entry}" needs input "${name}", got ${Object.keys(inputs).join(', ')}`);
    const dtype = 'kept' in value ? tensor.dtype : value.data instanceof Float32Array ? 'float32' : 'int32';
    if (dtype !== tensor.dtype || !fits(tensor.shape, value, sizes)) {
      const known = [...sizes].map(([dim, size]) => `${dim} = ${size}`).join(', ');
      const rule = `must be ${tensor.dtype}${formatShape(tensor.shape)}${known && ` with ${known}`}`;
      const count = 'kept' in value ? '' : ` of ${value.data.length} values`;
      throw new Error(
        `session: input "${name}" of "${entry}" ${rule}, got ${dtype}${formatShape(value.shape)}${count}`,
      );
    }
    return [tensor, value];
  });
}

/** Whether a value has a placeholder's shape; the first use of a named dim decides its size. */
function fits(shape: Shape, value: Values | KeptTensor, sizes: Map<string, number>): boolean {
  if (!('kept' in value) && elementCount(value.shape) !== value.data.length) return false;
  if (shape.length !== value.shape.length) return false;
  return shape.every((dim, axis) => {
    const size = value.shape[axis];
    if (typeof dim === 'number' || size === undefined) return dim === size;
    if (!isName(dim)) return true; // a polynomial: TensorFlow's ops find out
    if (!sizes.has(dim)) sizes.set(dim, size);
    return sizes.get(dim) === size;
  });
}

/** Tests and development run the TypeScript sources, for which the thread first registers tsx. */
function startWorker(workerData: Parallelism): Worker {
  const built = new URL('./worker.js', import.meta.url);
  if (!import.meta.url.endsWith('.ts')) return new Worker(built, { workerData, env: SHARE_ENV });
  const source = JSON.stringify(new URL('./worker.ts', import.meta.url).href);
  return new Worker(
    `import('tsx/esm/api').then(({ register }) => { register(); return import(${source}); });`,
    {
      eval: true,
      env: SHARE_ENV, // TensorFlow reads its settings from the process's environment
      workerData,
    },
  );
}
