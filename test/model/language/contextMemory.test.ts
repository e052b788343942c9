/** What is computed again of a context, counted by what the graph is given. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { ContextMemory } from '../../../src/model/language/contextMemory.js';
import type { GenerationInput } from '../../../src/model/language/generate.js';
import { LanguageModel } from '../../../src/model/language/languageModel.js';
import type { Segment } from '../../../src/model/language/sequence.js';
import { TensorFlow } from '../../../src/tensorflow/session.js';
import { relativeDifference } from '../../helpers/compare.js';
import { countPositions, type PositionCount } from '../../helpers/positions.js';
import { randomNormal } from '../../helpers/random.js';
import { TINY_FEATURES, TINY_LLAMA, tinyLlama, tinyProjection } from '../../helpers/tinyModels.js';

const { channels: C, queries: Q } = TINY_FEATURES;
const OPTIONS = { kind: 'linear' as const, standardise: true, layerNorm: true };
const SHAPE = [Q, C] as const;
const projection = tinyProjection(OPTIONS);
let tensorflow: TensorFlow;
let model: LanguageModel;
let counted: PositionCount;
beforeAll(async () => {
  tensorflow = await TensorFlow.open();
  const spec = { llama: TINY_LLAMA, featureSize: C, precision: 'float32' as const, projection: OPTIONS };
  model = await LanguageModel.open(tensorflow, spec, tinyLlama().source);
  counted = countPositions(model);
});
afterAll(() => tensorflow.close());

const [one, two] = [randomNormal(Q * C, 1), randomNormal(Q * C, 2)];
const text = (...ids: number[]): Segment => ({ kind: 'text', ids });
const image: Segment = { kind: 'image' };

function context(prefix: readonly Segment[], ...images: readonly Float32Array[]): GenerationInput {
  return { prefix, features: Float32Array.from(images.flatMap((values) => [...values])) };
}

/** BOS, image, three tokens: 4 + Q positions. */
const FIRST = context([text(1), image, text(5, 6, 7)], one);

describe('a memory', () => {
  let memory: ContextMemory;
  beforeEach(async () => {
    memory = new ContextMemory(model, projection);
    const { start, length, reused } = await memory.read(FIRST, SHAPE, 'logits');
    expect([length, reused]).toEqual([4 + Q, 0]);
    // As after an answer: 8 and 9 were written, 9 not yet read
    const { cache } = await model.decode(start.cache, Int32Array.of(0), Int32Array.of(8), 'next');
    await memory.keep(FIRST, SHAPE, [8, 9], cache);
    counted.reset();
  });

  it.each<[string, GenerationInput, number]>([
    ['all of context and answer', context([text(1), image, text(5, 6, 7, 8, 9, 10)], one), 5 + Q],
    ['the context, where the answer is another', context([text(1), image, text(5, 6, 7, 10, 9)], one), 4 + Q],
    ['all but the last position of the same context', FIRST, 3 + Q],
    ['what comes before another token', context([text(1), image, text(5, 9, 7, 8)], one), 2 + Q],
    ['what comes before another image', context([text(1), image, text(5, 6, 7)], two), 1],
    ['the first image, where a second comes', context([text(1), image, image, text(5)], one, two), 1 + Q],
    ['no part of an image that ends the context', context([text(1), image], one), 1],
    ['nothing where the first token is another', context([text(2), image, text(5)], one), 0],
    ['nothing where there is one position', context([text(1)]), 0],
  ])('reuses %s', async (_, input, count) => {
    const { start, length, reused } = await memory.read(input, SHAPE, 'logits');
    expect(reused).toBe(count);
    expect(counted.read).toBe(length - count);
    expect(start.cache.length).toBe(length);
    const fresh = await new ContextMemory(model, projection).read(input, SHAPE, 'logits');
    // float32 of other batch shapes through two layers
    expect(relativeDifference(start.output.data, fresh.start.output.data)).toBeLessThan(5e-6);
    await model.release(start.cache);
    await model.release(fresh.start.cache);
    await memory.forget();
  });
});

it('holds one cache at most, and none once it has forgotten', async () => {
  const memory = new ContextMemory(model, projection);
  const turn = async (): Promise<number> => {
    const { start } = await memory.read(FIRST, SHAPE, 'next');
    await memory.keep(FIRST, SHAPE, [], start.cache);
    return tensorflow.tensorCount();
  };
  await turn();
  await memory.forget();
  const before = await tensorflow.tensorCount();
  const held = await turn();
  expect(held).toBeGreaterThan(before);
  expect([await turn(), await turn()]).toEqual([held, held]);
  await memory.forget();
  expect(await tensorflow.tensorCount()).toBe(before);
});
