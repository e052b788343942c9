/**
 * The worker thread that owns TensorFlow: loads the binding, answers requests one after the other. Every tensor it
 * makes for a request is freed before it answers, except the ones it was asked to keep.
 */
import { createHash } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { loadTensorFlow, type Binding, type BindingTensor } from './binding.js';
import { BYTES_PER_ELEMENT, type DType, type HostTensor } from './dtypes.js';
import type {
  Assignment,
  GraphRun,
  KeptTensor,
  Parallelism,
  Replies,
  Request,
  RuntimeFacts,
  Values,
} from './protocol.js';
import { replicaName } from './replicas.js';
import type { Answer } from './requestQueue.js';
import { SERVING_TAG, TF_TYPE } from './savedModel.js';

const port = parentPort;
if (!port) throw new Error('worker: must run as a worker thread');

const { binding, ...facts } = loadTensorFlow(workerData as Parallelism); // set by TensorFlow.open
port.postMessage({ ready: facts satisfies RuntimeFacts });
port.on('message', (request: Request) => {
  try {
    const reply = answer(request);
    port.postMessage({ reply } satisfies Answer, transferable(reply));
  } catch (error) {
    port.postMessage({ error: error instanceof Error ? error.message : String(error) } satisfies Answer);
  }
});

function answer(request: Request): Replies[Request['kind']] {
  switch (request.kind) {
    case 'load':
      return binding.loadSavedModel(request.folder, SERVING_TAG);
    case 'assign':
      return assign(request.session, request.weights);
    case 'run':
      return run(request.session, request.runs);
    case 'release':
      request.tensors.forEach((tensor) => binding.deleteTensor(tensor));
      return null;
    case 'fingerprint':
      return fingerprint(request.session, request.groups);
    case 'unload':
      binding.deleteSavedModel(request.session);
      return null;
    case 'matMulRate':
      return matMulRate(binding, request.dtype, request.size);
    case 'tensorCount':
      return binding.getNumOfTensors();
  }
}

/** Uploads the tensors' bytes as they are, converts inside TensorFlow and stores the variables, in one run. */
function assign(session: number, weights: readonly Assignment[]): null {
  return scoped((own) => {
    const values = weights.map(({ tensor, dtype }) => own(converted(tensor, dtype)));
    const names = (output: string): string =>
      weights.map(({ variable }) => `${variable}/${output}:0`).join(',');
    for (const { id } of binding.runSavedModel(session, values, names('value'), names('assigned'))) own(id);
    return null;
  });
}

/** The tensor in TensorFlow, converted. Its bytes are freed at once: the next upload takes their place. */
function converted({ dtype: from, shape, data }: HostTensor, dtype: DType): number {
  return scoped((own) => {
    const bytes = own(binding.createTensor([...shape, BYTES_PER_ELEMENT[from]], TF_TYPE.uint8, data));
    const types = [
      ['T', 'uint8'],
      ['type', from],
    ] as const;
    const typed = op('Bitcast', types, [bytes]).id;
    return from === dtype ? typed : cast(own(typed), from, dtype);
  });
}

function cast(tensor: number, from: DType, to: DType): number {
  const types = [
    ['SrcT', from],
    ['DstT', to],
  ] as const;
  return op('Cast', types, [tensor]).id;
}

/** One call to TensorFlow: each run has a replica of the graph. */
function run(session: number, runs: readonly GraphRun[]): (Values | KeptTensor)[][] {
  return scoped((own) => {
    const feeds = runs.flatMap((one, i) =>
      one.feeds.map(([name, feed]) => [replicaName(name, i), fed(feed, own)] as const),
    );
    const fetches = runs.flatMap((one, i) =>
      one.fetches.map(({ name, keep }) => ({ name: replicaName(name, i), keep })),
    );
    const outputs = binding.runSavedModel(
      session,
      feeds.map(([, tensor]) => tensor),
      feeds.map(([name]) => name).join(','),
      fetches.map(({ name }) => name).join(','),
    );
    const kept = (i: number): boolean => fetches[i]?.keep ?? false;
    outputs.forEach((output, i) => kept(i) || own(output.id));
    try {
      const results = outputs.map((output, i) =>
        kept(i) ? { kept: output.id, shape: output.shape } : read(output),
      );
      return runs.map((one) => results.splice(0, one.fetches.length));
    } catch (error) {
      outputs.forEach((output, i) => kept(i) && own(output.id)); // nobody learns of them
      throw error;
    }
  });
}

function fed(feed: Values | KeptTensor, own: (id: number) => number): number {
  if ('kept' in feed) return feed.kept;
  const type = feed.data instanceof Float32Array ? TF_TYPE.float32 : TF_TYPE.int32;
  return own(binding.createTensor(feed.shape, type, feed.data));
}

function read(output: BindingTensor): Values {
  const data = binding.tensorDataSync(output.id);
  if (data instanceof Uint8Array)
    throw new Error(`worker: outputs must be float32 or int32, got type ${output.dtype}`);
  return { shape: output.shape, data };
}

function fingerprint(session: number, groups: readonly (readonly string[])[]): string {
  const hash = createHash('sha256');
  for (const group of groups) {
    scoped((own) => {
      const names = group.map((variable) => `${variable}/fetch:0`).join(',');
      const values = binding.runSavedModel(session, [], '', names);
      values.forEach(({ id }) => own(id));
      values.forEach(({ id }, i) => {
        const data = binding.tensorDataSync(id);
        hash.update(group[i] ?? '').update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      });
    });
  }
  return hash.digest('hex');
}

/** Best GFLOP/s of five products [M,K]·[K,N] after a warm-up. */
function matMulRate(tf: Binding, dtype: DType, [M, K, N]: readonly [number, number, number]): number {
  return scoped((own) => {
    const matrix = (rows: number, columns: number): number => {
      const filled = own(
        tf.createTensor([rows, columns], TF_TYPE.float32, new Float32Array(rows * columns).fill(0.5)),
      );
      return own(cast(filled, 'float32', dtype));
    };
    const [a, b] = [matrix(M, K), matrix(K, N)];
    const seconds = Array.from({ length: 6 }, () => {
      const start = process.hrtime.bigint();
      own(op('MatMul', [['T', dtype]], [a, b]).id);
      return Number(process.hrtime.bigint() - start) / 1e9;
    });
    return (2 * M * K * N) / Math.min(...seconds.slice(1)) / 1e9;
  });
}

function op(
  name: string,
  types: readonly (readonly [string, DType])[],
  inputs: readonly number[],
): BindingTensor {
  const attributes = types.map(([key, dtype]) => ({
    name: key,
    type: binding.TF_ATTR_TYPE,
    value: TF_TYPE[dtype],
  }));
  return only(binding.executeOp(name, attributes, inputs, 1));
}

/** Runs `body`, then frees every tensor that it owned, also when it throws. */
function scoped<T>(body: (own: (id: number) => number) => T): T {
  const owned: number[] = [];
  try {
    return body((id) => {
      owned.push(id);
      return id;
    });
  } finally {
    owned.forEach((id) => binding.deleteTensor(id));
  }
}

function only<T>(list: readonly T[]): T {
  const item = list[0];
  if (item === undefined) throw new Error('worker: TensorFlow must return an output, got none');
  return item;
}

function transferable(reply: Replies[Request['kind']]): ArrayBuffer[] {
  if (!Array.isArray(reply)) return [];
  return reply
    .flat()
    .flatMap((value) =>
      'data' in value && value.data.buffer instanceof ArrayBuffer ? [value.data.buffer] : [],
    );
}
