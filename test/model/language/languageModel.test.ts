/**
 * The decoder graph on a tiny random model against a float64 reference (helpers/reference.ts): losses, gradients,
 * mixtures of lengths, caches, micro-batches, precisions.
 */
import { copyOf, linearArrays } from '../../helpers/projections.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  LanguageModel,
  type MicroBatch,
  type PrefixCache,
  type UnitGradients,
} from '../../../src/model/language/languageModel.js';
import type { Projection } from '../../../src/model/projection.js';
import { layOut, type Example } from '../../../src/model/language/sequence.js';
import { TensorFlow, type Values } from '../../../src/tensorflow/session.js';
import { meanGradients } from '../../../src/train/gradientMean.js';
import { cosine, largest, largestDifference, relativeDifference } from '../../helpers/compare.js';
import { mulberry32, randomNormal } from '../../helpers/random.js';
import { projectRows, referenceTargets } from '../../helpers/reference.js';
import { TINY_FEATURES, TINY_LLAMA, tinyLlama, tinyProjection } from '../../helpers/tinyModels.js';

const { channels: C, queries: Q } = TINY_FEATURES;
const { hiddenSize: D, vocabSize: V } = TINY_LLAMA;
const OPTIONS = { kind: 'linear' as const, standardise: true, layerNorm: true };
/** Float32 sums of at most 48 terms through two layers against float64, relative to the largest value. */
const LIMIT = 5e-6;

const tiny = tinyLlama();
const projection = tinyProjection(OPTIONS);
let tensorflow: TensorFlow;
let model: LanguageModel;
let half: LanguageModel;
beforeAll(async () => {
  tensorflow = await TensorFlow.open();
  const spec = { llama: TINY_LLAMA, featureSize: C, projection: OPTIONS };
  model = await LanguageModel.open(tensorflow, { ...spec, precision: 'float32' }, tiny.source);
  half = await LanguageModel.open(tensorflow, { ...spec, precision: 'bfloat16' }, tiny.source);
});
afterAll(() => tensorflow.close());

/** Prefixes with text before, after and on both sides of the image, and none; targets of 1 to 6. */
const EXAMPLES: readonly Example[] = [
  { prefix: [text(1), { kind: 'image' }], target: [7, 8, 9] },
  { prefix: [text(3, 4, 5), { kind: 'image' }, text(6, 7)], target: [10] },
  { prefix: [{ kind: 'image' }], target: [20, 21, 22, 23, 24, 25] },
  { prefix: [text(1, 30, 31)], target: [49, 0] },
];

function text(...ids: number[]): Example['prefix'][number] {
  return { kind: 'text', ids };
}

function featuresOf(count: number, seed = 11): Values {
  return { shape: [count, Q, C], data: randomNormal(count * Q * C, seed) };
}

function imageOf({ data }: Values, b: number): Float32Array {
  return Float32Array.from(data.subarray(b * Q * C, (b + 1) * Q * C));
}

const features = featuresOf(3); // the last example has no image
const batch: MicroBatch = { features, sequence: layOut(EXAMPLES, Q) };

/** Loss sum of the examples in float64. */
function referenceLoss(from: Projection): number {
  return EXAMPLES.flatMap(
    (example, b) => referenceTargets(TINY_LLAMA, tiny.weights, from, imageOf(features, b), example).losses,
  ).reduce((sum, loss) => sum + loss, 0);
}

/** A sample of its own, as a micro-batch of one. */
function alone(b: number): MicroBatch {
  const example = EXAMPLES[b];
  if (!example) throw new Error(`test: there must be an example ${b}`);
  const data = imageOf(features, b);
  return { features: { shape: [data.length / (Q * C), Q, C], data }, sequence: layOut([example], Q) };
}

describe('forward', () => {
  it('word embeddings are the rows of the weights file', async () => {
    const { hiddenSize: D } = TINY_LLAMA;
    const table = tiny.weights['model.embed_tokens.weight'] ?? new Float32Array();
    const ids = [7, 0, 7, V - 1];
    expect([...(await model.embeddings(ids))]).toEqual(
      ids.flatMap((id) => [...table.subarray(id * D, (id + 1) * D)]),
    );
  });

  it('losses and logits of mixed prefixes and lengths are the reference’s', async () => {
    const { logits, losses } = await model.inspect(projection, batch);
    const expected = EXAMPLES.map((example, b) =>
      referenceTargets(TINY_LLAMA, tiny.weights, projection, imageOf(features, b), example),
    );
    expect(logits.shape).toEqual([12, V]);
    expect(
      relativeDifference(
        logits.data,
        expected.flatMap((one) => one.logits.flat()),
      ),
    ).toBeLessThan(LIMIT);
    expect(
      relativeDifference(
        losses.data,
        expected.flatMap((one) => one.losses),
      ),
    ).toBeLessThan(LIMIT);
  });

  it.each([
    [false, false],
    [false, true],
    [true, false],
    [true, true],
  ])(
    'soft prompts with standardise %s and layerNorm %s are the reference’s',
    async (standardise, layerNorm) => {
      const options = { kind: 'linear' as const, standardise, layerNorm };
      const spec = { llama: TINY_LLAMA, featureSize: C, projection: options, precision: 'float32' } as const;
      const other = await LanguageModel.open(tensorflow, spec, tiny.source);
      const { softPrompt } = await other.inspect(tinyProjection(options), batch);
      const expected = EXAMPLES.flatMap((_, b) =>
        projectRows(tinyProjection(options), imageOf(features, b)).flat(),
      );
      expect(relativeDifference(softPrompt.data, expected)).toBeLessThan(LIMIT);
      await other.close();
    },
  );

  it('a head tied to the embedding and a query head for each key head are the reference’s too', async () => {
    const llama = { ...TINY_LLAMA, tiedHead: true, kvHeads: 4 };
    const tied = tinyLlama(llama);
    const spec = { llama, featureSize: C, projection: OPTIONS, precision: 'float32' } as const;
    const other = await LanguageModel.open(tensorflow, spec, tied.source);
    const losses = await other.losses(projection, batch);
    const expected = EXAMPLES.flatMap(
      (example, b) => referenceTargets(llama, tied.weights, projection, imageOf(features, b), example).losses,
    );
    expect(relativeDifference(losses, expected)).toBeLessThan(LIMIT);
    await other.close();
  });

  it('a sample alone gives what it gives padded among others', async () => {
    const together = await model.losses(projection, batch);
    const apart = await Promise.all(EXAMPLES.map((_, b) => model.losses(projection, alone(b))));
    expect(
      relativeDifference(
        together,
        apart.flatMap((losses) => [...losses]),
      ),
    ).toBeLessThan(LIMIT);
  });

  it('an image of another sample changes nothing of this one', async () => {
    const data = Float32Array.from(features.data);
    data.fill(3, Q * C, 2 * Q * C); // the second sample's image
    const changed = await model.losses(projection, { ...batch, features: { ...features, data } });
    const before = await model.losses(projection, batch);
    const differs = [...changed].map((loss, n) => Math.abs(loss - (before[n] ?? NaN)) > 1e-4);
    expect(differs).toEqual([false, false, false, true, ...new Array<boolean>(8).fill(false)]);
  });
});

describe('gradient of the projection', () => {
  it('is what central differences of the float64 reference say', async () => {
    const { lossSum, targetTokens, gradients } = await model.lossAndGradients(projection, batch);
    const { weight: dWeight, bias: dBias } = linearArrays(gradients);
    const { weight: weights, bias: biases } = linearArrays(projection.parameters);
    expect(targetTokens).toBe(12);
    expect(Math.abs(lossSum / referenceLoss(projection) - 1)).toBeLessThan(LIMIT);
    const step = 2 ** -10; // differences exact to h² / 6 · f''' ≈ 2e-7; weights are float32, the steps exact in it
    const slope = (values: Float32Array, i: number, moved: (values: Float32Array) => Projection): number => {
      const at = (by: number): Float32Array => values.map((value, j) => (j === i ? value + by : value));
      const [up, down] = [at(step), at(-step)];
      const width = (up[i] ?? NaN) - (down[i] ?? NaN);
      return (referenceLoss(moved(up)) - referenceLoss(moved(down))) / width;
    };
    const chosen = Array.from({ length: 24 }, (_, k) => (k * 131 + 7) % (D * C));
    const weightSlopes = chosen.map((i) =>
      slope(weights, i, (weight) => ({ ...projection, parameters: { weight, bias: biases } })),
    );
    const biasSlopes = Array.from(biases, (_, i) =>
      slope(biases, i, (bias) => ({ ...projection, parameters: { weight: weights, bias } })),
    );
    const limit = 2e-5; // of the largest: float32 forward and backward, and the differences' own 2e-7
    expect(
      largestDifference(
        chosen.map((i) => dWeight[i] ?? NaN),
        weightSlopes,
      ),
    ).toBeLessThan(limit * largest(dWeight));
    expect(relativeDifference(dBias, biasSlopes)).toBeLessThan(limit);
  });

  it.each(['linear3', 'mlp2x_gelu'] as const)(
    'of kind %s is that of central differences too',
    async (kind) => {
      const options = { ...OPTIONS, kind };
      const spec = { llama: TINY_LLAMA, featureSize: C, projection: options, precision: 'float32' } as const;
      const other = await LanguageModel.open(tensorflow, spec, tiny.source);
      const deep = tinyProjection(options);
      const { lossSum, gradients } = await other.lossAndGradients(deep, batch);
      expect(Math.abs(lossSum / referenceLoss(deep) - 1)).toBeLessThan(LIMIT);
      expect(Object.keys(gradients)).toEqual(Object.keys(deep.parameters));
      const step = 2 ** -10;
      for (const [name, values] of Object.entries(deep.parameters)) {
        const chosen = Array.from({ length: 6 }, (_, k) => (k * 131 + 7) % values.length);
        const slopes = chosen.map((i) => {
          const at = (by: number): number => {
            const moved = values.map((value, j) => (j === i ? value + by : value));
            return referenceLoss({ ...deep, parameters: { ...deep.parameters, [name]: moved } });
          };
          return (at(step) - at(-step)) / (2 * step);
        });
        const got = gradients[name] ?? new Float32Array();
        const difference = largestDifference(
          chosen.map((i) => got[i] ?? NaN),
          slopes,
        );
        expect(difference, name).toBeLessThan(2e-5 * largest(got)); // as for one layer, above
      }
      await other.close();
    },
  );

  it('of 4 micro-batches of 4 is that of one of 16, whatever their lengths', async () => {
    const random = mulberry32(3);
    const draw = (most: number): number => Math.floor(random() * most);
    const ids = (count: number): number[] => Array.from({ length: count }, () => draw(V));
    const examples = Array.from({ length: 16 }, (): Example => ({
      prefix: [text(...ids(1 + draw(4))), { kind: 'image' }, text(...ids(draw(3)))],
      target: ids(1 + draw(7)),
    }));
    const all = featuresOf(16, 21);
    const unit = (from: number, count: number): MicroBatch => ({
      features: { shape: [count, Q, C], data: all.data.slice(from * Q * C, (from + count) * Q * C) },
      sequence: layOut(examples.slice(from, from + count), Q),
    });
    const whole = meanGradients([await model.lossAndGradients(projection, unit(0, 16))]);
    const quarters = await Promise.all(
      [0, 4, 8, 12].map((from) => model.lossAndGradients(projection, unit(from, 4))),
    );
    const mean = meanGradients(quarters);
    expect(mean.targetTokens).toBe(whole.targetTokens);
    expect(Math.abs(mean.loss / whole.loss - 1)).toBeLessThan(1e-6);
    const [got, want] = [linearArrays(mean.mean), linearArrays(whole.mean)];
    expect(relativeDifference(got.weight, want.weight)).toBeLessThan(1e-6);
    expect(relativeDifference(got.bias, want.bias)).toBeLessThan(1e-6);
  });

  it('in bfloat16 points where the float32 one points', async () => {
    const units = [
      await model.lossAndGradients(projection, batch),
      await half.lossAndGradients(projection, batch),
    ];
    const [exact, rounded] = units.map(({ lossSum, gradients }) => ({ lossSum, ...linearArrays(gradients) }));
    if (!exact || !rounded) throw new Error('two units were computed');
    expect(cosine(rounded.weight, exact.weight)).toBeGreaterThanOrEqual(0.999);
    expect(cosine(rounded.bias, exact.bias)).toBeGreaterThanOrEqual(0.999);
    expect(Math.abs(rounded.lossSum / exact.lossSum - 1)).toBeLessThan(0.01);
    expect(rounded.weight).not.toEqual(exact.weight); // it did compute in bfloat16
  });

  it('of bfloat16 weights that are widened is nearer to the float32 one than that of bfloat16 products', async () => {
    const spec = { llama: TINY_LLAMA, featureSize: C, projection: OPTIONS, precision: 'bfloat16' } as const;
    const wide = await LanguageModel.open(tensorflow, { ...spec, widen: true }, tiny.source);
    const [exact, widened, rounded] = await Promise.all(
      [model, wide, half].map(async (one) =>
        linearArrays((await one.lossAndGradients(projection, batch)).gradients),
      ),
    );
    if (!exact || !widened || !rounded) throw new Error('three units were computed');
    const near = cosine(widened.weight, exact.weight);
    expect(near).toBeGreaterThanOrEqual(0.9995);
    expect(near).toBeGreaterThan(cosine(rounded.weight, exact.weight));
    await wide.close();
  });

  it('with the common beginning read from a cache is that of computing it', async () => {
    const begun = EXAMPLES.map(({ prefix, target }) => ({ prefix: [text(40, 41, 42), ...prefix], target }));
    const cached = { features, sequence: layOut(begun, Q) };
    expect(cached.sequence.stem).toEqual([40, 41, 42]);
    const units = [
      await model.lossAndGradients(projection, { features, sequence: layOut(begun, Q, []) }),
      await model.lossAndGradients(projection, cached),
    ];
    const [whole, after] = units.map(({ lossSum, gradients }) => ({ lossSum, ...linearArrays(gradients) }));
    if (!whole || !after) throw new Error('two units were computed');
    expect(relativeDifference(after.weight, whole.weight)).toBeLessThan(LIMIT);
    expect(relativeDifference(after.bias, whole.bias)).toBeLessThan(LIMIT);
    expect(Math.abs(after.lossSum / whole.lossSum - 1)).toBeLessThan(LIMIT);
  });

  it('keeps the caches of so many beginnings and no more', async () => {
    const begin = (first: number): Promise<UnitGradients> =>
      model.lossAndGradients(projection, {
        features: { shape: [1, Q, C], data: imageOf(features, 0) },
        sequence: layOut([{ prefix: [text(first), { kind: 'image' }], target: [7, 8] }], Q),
      });
    const once = await begin(1);
    for (let first = 2; first <= 17; first++) await begin(first);
    const full = await tensorflow.tensorCount();
    for (let first = 18; first <= 40; first++) await begin(first);
    expect(await tensorflow.tensorCount()).toBe(full);
    expect(await begin(1)).toEqual(once); // computed anew
  });

  it('is the same bits every time', async () => {
    for (const one of [model, half]) {
      const first = await one.lossAndGradients(projection, batch);
      for (let i = 0; i < 4; i++) expect(await one.lossAndGradients(projection, batch)).toEqual(first);
    }
  });
});

describe('caches', () => {
  const PREFIX: Example['prefix'] = [text(1, 2), { kind: 'image' }, text(3)];
  const CONTINUATIONS = [
    [11, 12, 13, 14],
    [21, 22, 23, 24],
    [31, 32, 33, 34],
  ];
  /** Each continuation, and one token more so that the logits after its last one are there. */
  const full = (rows: number): MicroBatch => ({
    features: { shape: [rows, Q, C], data: repeated(imageOf(features, 0), rows) },
    sequence: layOut(
      CONTINUATIONS.slice(0, rows).map((ids) => ({ prefix: PREFIX, target: [...ids, 0] })),
      Q,
    ),
  });
  const prefixOnly = (rows: number): MicroBatch => ({
    features: full(rows).features,
    sequence: layOut(
      Array.from({ length: rows }, () => ({ prefix: PREFIX, target: [0] })),
      Q,
    ),
  });

  /** Texts after a cached prefix: each token predicts the next. */
  const after = (texts: number[][]): MicroBatch => ({
    features: { shape: [0, Q, C], data: new Float32Array() },
    sequence: layOut(
      texts.map(([first = 0, ...target]) => ({ prefix: [text(first)], target })),
      0,
      [],
    ),
  });

  it('decoding token by token gives the logits of the whole sequence', async () => {
    const before = await tensorflow.tensorCount();
    const { logits } = await model.inspect(projection, full(3)); // 3 samples × 5 targets
    const row = (b: number, t: number): Values['data'] =>
      logits.data.subarray((b * 5 + t) * V, (b * 5 + t + 1) * V);
    let state = await model.prefill(projection, prefixOnly(3), 'logits');
    expect(state.cache.length).toBe(2 + Q + 1);
    for (let t = 0; t <= 4; t++) {
      const expected = [0, 1, 2].flatMap((b) => [...row(b, t)]);
      expect(relativeDifference(state.output.data, expected)).toBeLessThan(LIMIT);
      const next = Int32Array.from(CONTINUATIONS, (ids) => ids[t] ?? 0);
      state = await model.decode(state.cache, Int32Array.of(0, 1, 2), next, 'logits');
      expect(state.cache.length).toBe(2 + Q + 1 + t + 1);
    }
    await model.release(state.cache);
    expect(await tensorflow.tensorCount()).toBe(before);
  });

  it('the likeliest next tokens are those of the logits, at prefill and at decoding', async () => {
    const step = async (want: 'logits' | 'next'): Promise<Values[]> => {
      const first = await model.prefill(projection, prefixOnly(3), want);
      const second = await model.decode(first.cache, Int32Array.of(0, 1, 2), Int32Array.of(11, 21, 31), want);
      await model.release(second.cache);
      return [first.output, second.output];
    };
    const [logits, next] = [await step('logits'), await step('next')];
    const likeliest = logits.map(({ data }) =>
      [0, 1, 2].map((b) => argMax(data.subarray(b * V, (b + 1) * V))),
    );
    expect(next.map(({ data }) => [...data])).toEqual(likeliest);
  });

  it.each(['float32', 'bfloat16'] as const)(
    'scores of continuations on a shared prefix are their losses, in %s',
    async (precision) => {
      const one = precision === 'float32' ? model : half;
      const { cache } = await one.prefill(projection, prefixOnly(1), 'logits');
      const scores = await one.losses(projection, after(CONTINUATIONS), cache);
      const losses = await one.losses(projection, full(3));
      const expected = [0, 1, 2].flatMap((b) => [...losses.subarray(b * 5 + 1, b * 5 + 4)]);
      // bfloat16 rounds the activations of another batch shape another way: 2^-8 each, averaged over the products' sums
      expect(relativeDifference(scores, expected)).toBeLessThan(precision === 'float32' ? LIMIT : 0.02);
      await one.release(cache);
    },
  );

  it('the cache of a shared prefix serves again and again', async () => {
    const { cache } = await model.prefill(projection, prefixOnly(1), 'logits');
    const ask = (past: PrefixCache): Promise<Float32Array> => model.losses(projection, after([[5, 6]]), past);
    expect(await ask(cache)).toEqual(await ask(cache));
    await model.release(cache);
  });
});

describe('frozen weights', () => {
  it.each(['float32', 'bfloat16'] as const)(
    'in %s are the same before and after 20 training-like runs, which leave no tensor behind',
    async (precision) => {
      const one = precision === 'float32' ? model : half;
      const [before, tensors] = [await one.session.fingerprint(), await tensorflow.tensorCount()];
      const moving = copyOf(projection);
      const { weight: weights, bias: biases } = linearArrays(moving.parameters);
      const losses: number[] = [];
      for (let step = 0; step < 20; step++) {
        const { loss, mean } = meanGradients([await one.lossAndGradients(moving, batch)]);
        const { weight, bias } = linearArrays(mean);
        weight.forEach((d, i) => (weights[i] = (weights[i] ?? 0) - 0.02 * d));
        bias.forEach((d, i) => (biases[i] = (biases[i] ?? 0) - 0.02 * d));
        losses.push(loss);
      }
      expect(losses.at(-1)).toBeLessThan(0.9 * (losses[0] ?? 0)); // it did train
      expect(await one.session.fingerprint()).toBe(before);
      expect(await tensorflow.tensorCount()).toBe(tensors);
    },
  );
});

function argMax(values: ArrayLike<number>): number {
  return Array.from(values).reduce((best, value, i) => (value > (values[best] ?? NaN) ? i : best), 0);
}

function repeated(values: Float32Array, times: number): Float32Array {
  return Float32Array.from({ length: values.length * times }, (_, i) => values[i % values.length] ?? NaN);
}
