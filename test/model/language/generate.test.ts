import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  generate,
  type GenerationInput,
  type GenerationOptions,
} from '../../../src/model/language/generate.js';
import { LanguageModel } from '../../../src/model/language/languageModel.js';
import { TensorFlow } from '../../../src/tensorflow/session.js';
import { mulberry32, randomNormal } from '../../helpers/random.js';
import { TINY_FEATURES, TINY_LLAMA, tinyLlama, tinyProjection } from '../../helpers/tinyModels.js';

const { channels: C, queries: Q } = TINY_FEATURES;
const OPTIONS = { kind: 'linear' as const, standardise: true, layerNorm: true };
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

  it('ends a text at a stop sequence, and tells what ended it', async () => {
    const free = await write(inputs);
    const [, , a = -1, b = -1] = free[0]?.ids ?? [];
    const stopped = await write(inputs, { stopSequences: [[a, b], [-1]] });
    stopped.forEach(({ ids, end, ended }, i) => {
      const whole = free[i]?.ids ?? [];
      const at = whole.findIndex((id, t) => id === a && whole[t + 1] === b);
      expect({ ids, end, ended }).toEqual(
        at < 0
          ? { ids: whole, end: [], ended: false }
          : { ids: whole.slice(0, at), end: [a, b], ended: true },
      );
    });
    expect(stopped[0]?.ended).toBe(true);
  });

  it('gives each place its own image where a prefix holds several', async () => {
    const [one, two] = [randomNormal(Q * C, 1), randomNormal(Q * C, 2)];
    const text = (...ids: number[]) => ({ kind: 'text' as const, ids });
    const image = { kind: 'image' as const };
    const prefix = [text(1, 2), image, text(3), image, text(4)];
    const both = (first: Float32Array, second: Float32Array): GenerationInput => ({
      features: Float32Array.from([...first, ...second]),
      prefix,
    });
    const single = { features: one, prefix: [text(1, 2, 5, 6, 7, 8, 9), image] }; // of the same length
    const alone = await Promise.all(
      [both(one, two), both(two, one), single].map(async (input) => (await write([input]))[0]),
    );
    expect(await write([both(one, two), both(two, one), single])).toEqual(alone);
    expect(alone[0]?.ids).not.toEqual(alone[1]?.ids);
  });

  it('refuses a prefix with more places than images', async () => {
    const input = {
      features: randomNormal(Q * C, 1),
      prefix: [{ kind: 'image' as const }, { kind: 'image' as const }],
    };
    await expect(write([input])).rejects.toThrow(
      'generate: a prefix must have a place for each image, got 2 for 1',
    );
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
