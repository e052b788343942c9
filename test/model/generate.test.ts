import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { generate, type GenerationInput, type GenerationOptions } from '../../src/model/generate.js';
import { LanguageModel } from '../../src/model/languageModel.js';
import { TensorFlow } from '../../src/tensorflow/session.js';
import { mulberry32, randomNormal } from '../helpers/random.js';
import { TINY_FEATURES, TINY_LLAMA, tinyLlama, tinyProjection } from '../helpers/tinyModels.js';

const { channels: C, queries: Q } = TINY_FEATURES;
const OPTIONS = { standardise: true, layerNorm: true };
let tensorflow: TensorFlow;
let model: LanguageModel;
const projection = tinyProjection(OPTIONS);

beforeAll(async () => {
  tensorflow = await TensorFlow.open({});
  model = await LanguageModel.open(
    tensorflow,
    {
      llama: TINY_LLAMA,
      featureSize: C,
      precision: 'float32',
      projection: OPTIONS,
    },
    tinyLlama().source,
  );
});
afterAll(() => tensorflow.close());

/** Prefixes of two lengths, so that they fall into two batches. */
const inputs: GenerationInput[] = Array.from({ length: 7 }, (_, i) => ({
  features: randomNormal(Q * C, 100 + i),
  prefix: [{ kind: 'text', ids: i % 3 ? [1, 2] : [1, 2, 3] }, { kind: 'image' }],
}));

const write = (
  some: readonly GenerationInput[],
  options: Partial<GenerationOptions> = {},
): ReturnType<typeof generate> =>
  generate(model, projection, some, [Q, C], { maxNewTokens: 12, endId: undefined, ...options });

describe('generate', () => {
  it('writes for each input what it writes for it alone, also after others have ended', async () => {
    const free = await write(inputs);
    expect(new Set(free.map(({ ids }) => ids.join())).size).toBeGreaterThan(1); // the images matter
    const endId = free[1]?.ids[4] ?? -1; // some texts hold it, at different places
    const together = await write(inputs, { endId });
    for (const [i, input] of inputs.entries()) expect(await write([input], { endId })).toEqual([together[i]]);
    together.forEach(({ ids, ended }, i) => {
      const at = free[i]?.ids.indexOf(endId) ?? -1;
      expect(ended).toBe(at >= 0);
      expect(ids).toEqual(free[i]?.ids.slice(0, at < 0 ? 12 : at));
    });
    expect(new Set(together.map(({ ids }) => ids.length)).size).toBeGreaterThan(1);
  });

  it('leaves no cache behind and tells how many texts are complete', async () => {
    await write(inputs); // the caches of the prompts' beginnings stay
    const before = await tensorflow.tensorCount();
    const done: number[] = [];
    await write(inputs, { batchSize: 2, onProgress: (count) => done.push(count) });
    expect(await tensorflow.tensorCount()).toBe(before);
    expect(done.at(-1)).toBe(inputs.length);
    expect(done).toEqual([...done].sort((a, b) => a - b));
  });

  it('samples the same texts from the same deviates, and others from others', async () => {
    const sampled = (seed: number): ReturnType<typeof write> =>
      write(inputs.slice(0, 2), { temperature: 1, topK: 20, random: mulberry32(seed) });
    expect(await sampled(1)).toEqual(await sampled(1));
    expect(await sampled(2)).not.toEqual(await sampled(1));
  });
});
