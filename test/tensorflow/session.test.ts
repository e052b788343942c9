/** The worker behind `TensorFlow` and `Session`: exact weights, clear errors, no leaks, a free event loop, the same bits. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { DType, HostTensor } from '../../src/tensorflow/dtypes.js';
import { Graph } from '../../src/tensorflow/graph.js';
import { float32ToBfloat16, float32ToFloat16, toFloat32 } from '../../src/tensorflow/halfFloats.js';
import * as ops from '../../src/tensorflow/ops.js';
import { TensorFlow, type Session, type Values } from '../../src/tensorflow/session.js';
import { randomNormal } from '../helpers/random.js';

let tensorflow: TensorFlow;
let session: Session;
beforeAll(async () => {
  tensorflow = await TensorFlow.open();
  session = await tensorflow.load(sessionGraph());
  await session.assign('w', float32(randomNormal(12, 1), [3, 4]));
});
afterAll(() => tensorflow.close());

/** y = x · wᵀ, and outputs of kinds that runs must refuse or keep. */
function sessionGraph(): Graph {
  const graph = new Graph();
  const x = graph.placeholder('x', 'float32', ['B', 4]);
  const rows = graph.placeholder('rows', 'int32', ['B']);
  const y = ops.matMul(x, graph.variable('w', 'float32', [3, 4]), { transposeB: true });
  const half = ops.cast(y, 'bfloat16');
  const outputs = {
    y,
    half,
    picked: ops.gather(y, rows),
    positive: ops.greaterEqual(y, ops.scalarLike(y, 0)),
  };
  graph.entryPoint('run', { inputs: { x, rows }, outputs });
  const kept = graph.placeholder('kept', 'bfloat16', ['K', 3]);
  graph.entryPoint('again', { inputs: { kept }, outputs: { wide: ops.cast(kept, 'float32') } });
  return graph;
}

function float32(values: Float32Array, shape: readonly number[]): HostTensor {
  return { dtype: 'float32', shape, data: new Uint8Array(values.slice().buffer) };
}

const x: Values = { shape: [2, 4], data: randomNormal(8, 2) };
const rows: Values = { shape: [2], data: Int32Array.of(1, 0) };

/** A session whose only entry point fetches variable `w` back. */
async function holder(dtype: DType, shape: readonly number[]): Promise<Session> {
  const graph = new Graph();
  const w = ops.cast(graph.variable('w', dtype, shape), 'float32');
  graph.entryPoint('fetch', { inputs: {}, outputs: { w } });
  return tensorflow.load(graph);
}

/** A normal, ties of bfloat16 and of float16, subnormals of float16, infinities. */
const VALUES = Float32Array.of(
  1,
  -2.5,
  1 + 2 ** -8,
  1 + 3 * 2 ** -8,
  1 + 2 ** -11,
  6e-8,
  -0,
  65504,
  Infinity,
  3e-5,
  -1e-7,
  0.1,
);
const ENCODERS: Partial<Record<DType, (values: Float32Array) => Uint8Array>> = {
  float32: (values) => new Uint8Array(values.slice().buffer),
  float16: float32ToFloat16,
  bfloat16: float32ToBfloat16,
};
const FLOATS = ['float32', 'float16', 'bfloat16'] as const;

describe('assign', () => {
  it.each(FLOATS.flatMap((from) => FLOATS.map((to) => [from, to] as const)))(
    'takes the bytes of %s into a %s variable exactly, or rounded to nearest even',
    async (from, to) => {
      const data = ENCODERS[from]?.(VALUES) ?? new Uint8Array();
      const source: HostTensor = { dtype: from, shape: [3, 4], data: data.slice() };
      const rounded = ENCODERS[to]?.(toFloat32(source).slice()) ?? new Uint8Array();
      const expected = toFloat32({ dtype: to, shape: [3, 4], data: rounded }).slice();
      const held = await holder(to, [3, 4]);
      await held.assign('w', source);
      const { w } = await held.run('fetch', {}, ['w']);
      expect(w).toEqual({ shape: [3, 4], data: expected });
      await held.close();
    },
  );

  it('hands a whole buffer over and copies a part of one', async () => {
    const held = await holder('float32', [2]);
    const whole = float32(Float32Array.of(1, 2), [2]);
    await held.assign('w', whole);
    expect(whole.data.byteLength).toBe(0);
    const buffer = Float32Array.of(0, 5, 6, 0).buffer;
    await held.assign('w', { dtype: 'float32', shape: [2], data: new Uint8Array(buffer, 4, 8) });
    expect(buffer.byteLength).toBe(16);
    expect([...(await held.run('fetch', {}, ['w'])).w.data]).toEqual([5, 6]);
    await held.close();
  });

  it('stores several at once, and none where one is wrong', async () => {
    const graph = new Graph();
    const names = ['a', 'b', 'c'];
    const outputs = Object.fromEntries(names.map((name) => [name, graph.variable(name, 'float32', [1])]));
    graph.entryPoint('fetch', { inputs: {}, outputs });
    const held = await tensorflow.load(graph);
    const values = (from: number): [string, HostTensor][] =>
      names.map((name, i) => [name, float32(Float32Array.of(from + i), [1])]);
    await held.assignAll(new Map(values(1)));
    const wrong = new Map([...values(5), ['d', float32(Float32Array.of(0), [1])] as const]);
    await expect(held.assignAll(wrong)).rejects.toThrow('session: assign must name a variable, got "d"');
    const run = await held.run('fetch', {}, names);
    expect(names.map((name) => run[name]?.data[0])).toEqual([1, 2, 3]);
    await held.close();
  });

  it.each<[string, string, HostTensor, string]>([
    [
      'an unknown name',
      'v',
      float32(new Float32Array(12), [3, 4]),
      'session: assign must name a variable, got "v"',
    ],
    [
      'another shape',
      'w',
      float32(new Float32Array(12), [4, 3]),
      'session: variable "w" is [3, 4], got a tensor [4, 3]',
    ],
    [
      'too few bytes',
      'w',
      float32(new Float32Array(11), [3, 4]),
      'session: variable "w" needs 48 bytes of float32, got 44',
    ],
  ])('refuses %s', async (_, name, tensor, message) => {
    await expect(session.assign(name, tensor)).rejects.toThrow(message);
  });

  it('a variable that was not assigned is an error that names it', async () => {
    const held = await holder('float32', [3, 4]);
    await expect(held.run('fetch', {}, ['w'])).rejects.toThrow(/^tensorflow: .*\bw\b/s);
    await held.close();
  });

  it('the fingerprint is of names and values, whatever the order of assignment', async () => {
    const [a, b] = [await holder('bfloat16', [3, 4]), await holder('bfloat16', [3, 4])];
    const values = randomNormal(12, 3);
    for (const held of [a, b]) await held.assign('w', float32(values, [3, 4]));
    const before = await a.fingerprint();
    expect(before).toMatch(/^[0-9a-f]{64}$/);
    expect(await b.fingerprint()).toBe(before);
    values[11] = (values[11] ?? 0) + 0.5;
    await b.assign('w', float32(values, [3, 4]));
    expect(await b.fingerprint()).not.toBe(before);
    for (const held of [a, b]) await held.close();
  });
});

describe('run', () => {
  it.each<[string, string, Record<string, Values>, string, string]>([
    ['an unknown entry point', 'walk', {}, 'y', 'session: entry points are run, again, got "walk"'],
    ['a missing input', 'run', { x }, 'y', 'session: "run" needs input "rows", got x'],
    ['an unknown input', 'run', { x, rows, z: x }, 'y', 'session: "run" has inputs x, rows, got "z"'],
    [
      'an unknown output',
      'run',
      { x, rows },
      'z',
      'session: "run" has outputs y, half, picked, positive, got "z"',
    ],
    [
      'another width',
      'run',
      { x: { shape: [2, 3], data: new Float32Array(6) }, rows },
      'y',
      'session: input "x" of "run" must be float32[B, 4] with B = 2, got float32[2, 3] of 6 values',
    ],
    [
      'another rank',
      'run',
      { x: { shape: [4], data: new Float32Array(4) }, rows },
      'y',
      'session: input "x" of "run" must be float32[B, 4], got float32[4] of 4 values',
    ],
    [
      'another dtype',
      'run',
      { x: { shape: [2, 4], data: new Int32Array(8) }, rows },
      'y',
      'session: input "x" of "run" must be float32[B, 4], got int32[2, 4] of 8 values',
    ],
    [
      'too few values',
      'run',
      { x: { shape: [2, 4], data: new Float32Array(7) }, rows },
      'y',
      'session: input "x" of "run" must be float32[B, 4], got float32[2, 4] of 7 values',
    ],
    [
      'two sizes of one dim',
      'run',
      { x, rows: { shape: [3], data: new Int32Array(3) } },
      'y',
      'session: input "rows" of "run" must be int32[B] with B = 2, got int32[3] of 3 values',
    ],
  ])('refuses %s', async (_, entry, inputs, output, message) => {
    await expect(session.run(entry, inputs, [output])).rejects.toThrow(message);
  });

  it('an error inside TensorFlow arrives as an Error with its reason, and frees what the run had made', async () => {
    const before = await tensorflow.tensorCount();
    const beyond: Values = { shape: [2], data: Int32Array.of(0, 9) };
    for (let i = 0; i < 5; i++) {
      const failing = session.run('run', { x, rows: beyond }, ['picked']);
      await expect(failing).rejects.toThrow(/^tensorflow: .*indices\[1\] = 9 is not in \[0, 2\)/s);
    }
    expect(await tensorflow.tensorCount()).toBe(before);
    const { y } = await session.run('run', { x, rows }, ['y']);
    expect(y.shape).toEqual([2, 3]);
  });

  it('an output that cannot be copied out is an error, and kept ones of that run are freed', async () => {
    const before = await tensorflow.tensorCount();
    await expect(session.runKeeping('run', { x, rows }, ['positive'], ['half'])).rejects.toThrow(
      'tensorflow: worker: outputs must be float32 or int32, got type 10',
    );
    expect(await tensorflow.tensorCount()).toBe(before);
  });

  it('a kept tensor stays inside with its dtype, feeds later runs and goes when released', async () => {
    const before = await tensorflow.tensorCount();
    const { values, kept } = await session.runKeeping('run', { x, rows }, ['y'], ['half']);
    expect(kept.half.shape).toEqual([2, 3]);
    expect(await tensorflow.tensorCount()).toBe(before + 1);
    const rounded = toFloat32({
      dtype: 'bfloat16',
      shape: [2, 3],
      data: float32ToBfloat16(Float32Array.from(values.y.data)),
    });
    for (let i = 0; i < 2; i++) {
      const { wide } = await session.run('again', { kept: kept.half }, ['wide']);
      expect(wide.data).toEqual(rounded);
    }
    await session.release([kept.half]);
    expect(await tensorflow.tensorCount()).toBe(before);
    await expect(session.run('again', { kept: kept.half }, ['wide'])).rejects.toThrow(/^tensorflow: /);
    expect(await tensorflow.tensorCount()).toBe(before);
  });

  it('1000 runs leave no tensor behind and the process no larger', async () => {
    const wide: Values = { shape: [5000, 4], data: randomNormal(20_000, 5) };
    const many: Values = { shape: [5000], data: new Int32Array(5000) };
    const runs = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i++) {
        const { kept } = await session.runKeeping('run', { x: wide, rows: many }, ['y', 'picked'], ['half']);
        await session.release([kept.half]);
      }
    };
    await runs(1500); // both heaps and the allocator reach their size: flat to 10 MB over the next 7000 runs (measured)
    const [tensors, resident] = [await tensorflow.tensorCount(), process.memoryUsage.rss()];
    await runs(1000);
    expect(await tensorflow.tensorCount()).toBe(tensors);
    // Each run moves 0.25 MB in and out: a leak of all would be 250 MB, of the largest tensor alone 120 MB.
    expect(process.memoryUsage.rss() - resident).toBeLessThan(40e6);
  });

  it('the same inputs give the same bits, five times over', async () => {
    const graph = new Graph();
    const a = graph.placeholder('a', 'float32', ['M', 512]);
    const product = ops.matMul(a, a, { transposeA: true });
    const half = ops.cast(
      ops.matMul(ops.cast(a, 'bfloat16'), ops.cast(a, 'bfloat16'), { transposeA: true }),
      'float32',
    );
    graph.entryPoint('run', {
      inputs: { a },
      outputs: { product, half, total: ops.sum(ops.softmax(product), [0]) },
    });
    const big = await tensorflow.load(graph);
    const value: Values = { shape: [300, 512], data: randomNormal(300 * 512, 6) };
    const first = await big.run('run', { a: value }, ['product', 'half', 'total']);
    for (let i = 1; i < 5; i++) {
      const other = await big.run('run', { a: value }, ['product', 'half', 'total']);
      for (const name of ['product', 'half', 'total'] as const)
        expect(bits(other[name])).toBe(bits(first[name]));
    }
    await big.close();
  });

  it('timers fire while a long graph runs', async () => {
    const graph = new Graph();
    const a = graph.placeholder('a', 'float32', [1024, 1024]);
    let product = a;
    for (let i = 0; i < 40; i++) product = ops.matMul(product, a);
    graph.entryPoint('run', { inputs: { a }, outputs: { total: ops.sum(product, [0, 1]) } });
    const long = await tensorflow.load(graph);
    const zeros: Values = { shape: [1024, 1024], data: new Float32Array(1024 * 1024) };
    await long.run('run', { a: zeros }, ['total']);
    let ticks = 0;
    const timer = setInterval(() => ticks++, 5);
    const start = performance.now();
    await long.run('run', { a: zeros }, ['total']); // 40 products of 2.1 GFLOP: 0.1 s at the very least
    const elapsedMs = performance.now() - start;
    clearInterval(timer);
    expect(elapsedMs).toBeGreaterThan(50);
    expect(ticks).toBeGreaterThan(elapsedMs / 5 / 4); // a quarter of the due ones: a blocked loop has one at most
    await long.close();
  });
});

describe('closing', () => {
  it('a closed session is an error, and the thread goes on', async () => {
    const held = await holder('float32', [2]);
    await held.close();
    await expect(held.run('fetch', {}, ['w'])).rejects.toThrow(/^tensorflow: SavedModel ID not found/);
    expect((await session.run('run', { x, rows }, ['y'])).y.shape).toEqual([2, 3]);
  });

  it('a closed thread rejects what is asked of it, then and later', async () => {
    const other = await TensorFlow.open({ threads: 1 }); // too late: the first to open decides
    expect(other.facts).toEqual(tensorflow.facts);
    const loading = other.load(sessionGraph()).then(
      () => 'loaded',
      (error: unknown) => String(error),
    );
    await other.close();
    expect(await loading).toMatch(/loaded|tensorflow: the worker thread has ended/);
    await expect(other.tensorCount()).rejects.toThrow('tensorflow: the worker thread has ended');
  });
});

function bits({ data }: Values): string {
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64');
}
