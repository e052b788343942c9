/** Losses of held-out items that are asked different questions, on the tiny model: together as one by one. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tokenLosses, type HeldOutItem } from '../../src/evaluate/heldOut.js';
import { LanguageModel } from '../../src/model/language/languageModel.js';
import { TensorFlow } from '../../src/tensorflow/session.js';
import { relativeDifference } from '../helpers/compare.js';
import { randomNormal } from '../helpers/random.js';
import { TINY_FEATURES, TINY_LLAMA, tinyLlama, tinyProjection } from '../helpers/tinyModels.js';

const { channels: C, queries: Q } = TINY_FEATURES;
const SHAPE = [Q, C] as const;
const QUESTIONS = [
  [1, 2, 3],
  [1, 4],
];

const projection = tinyProjection({ kind: 'linear', standardise: true, layerNorm: true });
const items = Array.from({ length: 5 }, (_, i): HeldOutItem => ({
  pair: { id: `${i}`, image: new Uint8Array(), caption: '', extra: {} },
  caption: '',
  features: randomNormal(Q * C, 60 + i),
  example: {
    prefix: [{ kind: 'text', ids: QUESTIONS[i % 2] ?? [] }, { kind: 'image' }],
    target: Array.from({ length: 1 + i }, (_unused, t) => 5 + i + t),
  },
}));
let tensorflow: TensorFlow;
let model: LanguageModel;
beforeAll(async () => {
  tensorflow = await TensorFlow.open();
  const { options } = projection;
  const spec = { llama: TINY_LLAMA, featureSize: C, precision: 'float32' as const, projection: options };
  model = await LanguageModel.open(tensorflow, spec, tinyLlama().source);
});
afterAll(() => tensorflow.close());

describe('tokenLosses', () => {
  it.each([0, 2])('are in the order of the items, with images exchanged by %i', async (shift) => {
    const imageOf = (item: number): number => (item + shift) % items.length;
    const together = await tokenLosses(model, projection, items, imageOf, { batchSize: 2, shape: SHAPE });
    expect(together.map(({ length }) => length)).toEqual([1, 2, 3, 4, 5]);
    for (const [i, item] of items.entries()) {
      const own = { ...item, features: items[imageOf(i)]?.features ?? new Float32Array() };
      const [alone] = await tokenLosses(model, projection, [own], () => 0, { batchSize: 1, shape: SHAPE });
      expect(relativeDifference(together[i] ?? [], alone ?? [])).toBeLessThan(1e-5);
    }
  });
});
