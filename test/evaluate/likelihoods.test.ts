/** Log-likelihoods of texts under images, on the tiny model, against the losses of whole sequences. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { likelihoods } from '../../src/evaluate/retrieval.js';
import { LanguageModel } from '../../src/model/language/languageModel.js';
import { layOut } from '../../src/model/language/sequence.js';
import { TensorFlow } from '../../src/tensorflow/session.js';
import { relativeDifference } from '../helpers/compare.js';
import { randomNormal } from '../helpers/random.js';
import { TINY_FEATURES, TINY_LLAMA, tinyLlama, tinyProjection } from '../helpers/tinyModels.js';

const { channels: C, queries: Q } = TINY_FEATURES;
const IMAGES = 11; // more than are read at once
const PREFIX = [{ kind: 'text' as const, ids: [1, 2] }, { kind: 'image' as const }];
const TEXTS = [[5], [6, 7, 8], [5, 9], [10]];

const projection = tinyProjection({ kind: 'linear', standardise: true, layerNorm: true });
const images = Array.from({ length: IMAGES }, (_, i) => randomNormal(Q * C, 50 + i));
let tensorflow: TensorFlow;
let model: LanguageModel;
beforeAll(async () => {
  tensorflow = await TensorFlow.open({ concurrency: 2 });
  const spec = {
    llama: TINY_LLAMA,
    featureSize: C,
    precision: 'float32' as const,
    projection: projection.options,
  };
  model = await LanguageModel.open(tensorflow, spec, tinyLlama().source);
});
afterAll(() => tensorflow.close());

describe('likelihoods', () => {
  it('two at a time are those of whole sequences, for texts of one token and of several, and leave no tensor behind', async () => {
    const expected: number[] = [];
    for (const image of images) {
      const data = Float32Array.from(TEXTS.flatMap(() => [...image]));
      const sequence = layOut(
        TEXTS.map((target) => ({ prefix: PREFIX, target })),
        Q,
      );
      const losses = await model.losses(projection, {
        features: { shape: [TEXTS.length, Q, C], data },
        sequence,
      });
      let at = 0;
      for (const { length } of TEXTS)
        expected.push(-losses.slice(at, (at += length)).reduce((sum, loss) => sum + loss, 0));
    }
    const before = await tensorflow.tensorCount();
    const done: number[] = [];
    const table = await likelihoods(model, projection, PREFIX, images, TEXTS, [Q, C], (count) =>
      done.push(count),
    );
    const found = table.flatMap((scores) => [...scores]);
    expect(relativeDifference(found, expected)).toBeLessThan(1e-5);
    expect(new Set(found.map((score) => score.toFixed(4))).size).toBeGreaterThan(40); // images and texts all differ
    expect(done).toEqual(Array.from({ length: IMAGES }, (_, i) => i + 1));
    expect(await tensorflow.tensorCount()).toBe(before);
  });
});
