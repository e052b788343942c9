import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../../../src/errors.js';
import { assignWeights, type FrozenWeight } from '../../../src/model/weights/frozenWeights.js';
import type { HostTensor } from '../../../src/tensorflow/dtypes.js';
import { Graph } from '../../../src/tensorflow/graph.js';
import { float32ToBfloat16 } from '../../../src/tensorflow/halfFloats.js';
import { TensorFlow, type Session } from '../../../src/tensorflow/session.js';
import { memorySource } from '../../helpers/tinyModels.js';

let tensorflow: TensorFlow;
let session: Session;
beforeAll(async () => {
  tensorflow = await TensorFlow.open();
  const graph = new Graph();
  const outputs = {
    joined: graph.variable('joined', 'float32', [3, 2]),
    scaled: graph.variable('scaled', 'float32', [2]),
  };
  graph.entryPoint('fetch', { inputs: {}, outputs });
  session = await tensorflow.load(graph);
});
afterAll(() => tensorflow.close());

function tensor(values: readonly number[], shape: readonly number[]): HostTensor {
  return { dtype: 'float32', shape, data: new Uint8Array(Float32Array.from(values).buffer) };
}

const source = memorySource({
  top: tensor([1, 2], [1, 2]),
  bottom: tensor([3, 4, 5, 6], [2, 2]),
  vector: tensor([7, 8], [2]),
  half: { dtype: 'bfloat16', shape: [2, 2], data: float32ToBfloat16(Float32Array.of(3, 4, 5, 6)) },
  narrow: tensor([1, 2], [2, 1]),
});
const doubled = ({ shape }: HostTensor): HostTensor => tensor([14, 16], shape);
const weights: readonly FrozenWeight[] = [
  { variable: 'joined', sources: ['bottom', 'top'] },
  { variable: 'scaled', sources: ['vector'], prepare: doubled },
];

describe('assignWeights', () => {
  it('joins sources in their order, prepares what is to be prepared, and tells how far it is', async () => {
    const progress: number[] = [];
    await assignWeights(session, source, weights, (done) => progress.push(done));
    const { joined, scaled } = await session.run('fetch', {}, ['joined', 'scaled']);
    expect([...joined.data]).toEqual([3, 4, 5, 6, 1, 2]);
    expect([...scaled.data]).toEqual([14, 16]);
    expect(progress).toEqual([1]); // small enough for one group
  });

  it('reads the largest first, and what is equally large in the order given', async () => {
    const read: string[] = [];
    const watched = { ...source, read: (name: string) => (read.push(name), source.read(name)) };
    const vector: FrozenWeight = { variable: 'scaled', sources: ['vector'] };
    await assignWeights(session, watched, [
      vector,
      { variable: 'joined', sources: ['top', 'bottom'] },
      vector,
    ]);
    expect(read).toEqual(['top', 'bottom', 'vector', 'vector']);
  });

  it.each<[string, FrozenWeight, string]>([
    [
      'a missing tensor',
      { variable: 'joined', sources: ['topp', 'bottom'] },
      'memory: there must be a tensor "topp", got none (nearest are top',
    ],
    [
      'another shape than the graph’s',
      { variable: 'joined', sources: ['bottom'] },
      'weights: "bottom" in memory must make [3, 2], got [2, 2] (does config.json belong to these weights?)',
    ],
    [
      'sources of two dtypes',
      { variable: 'joined', sources: ['top', 'half'] },
      'weights: "top", "half" must agree in dtype and width, got float32[1, 2] bfloat16[2, 2]',
    ],
    [
      'sources of two widths',
      { variable: 'joined', sources: ['top', 'narrow'] },
      'weights: "top", "narrow" must agree in dtype and width, got float32[1, 2] float32[2, 1]',
    ],
  ])('refuses %s', async (_, weight, message) => {
    const assigning = assignWeights(session, source, [weight]);
    await expect(assigning).rejects.toThrow(UserError);
    await expect(assignWeights(session, source, [weight])).rejects.toThrow(message);
  });

  it('a variable that no weight fills is our bug, named', async () => {
    await expect(
      assignWeights(session, source, [{ variable: 'other', sources: ['vector'] }]),
    ).rejects.toThrow('session: assign must name a variable, got "other"');
  });
});
