/** The first weights that captions give, against scikit-learn (scripts/fixtures/regression.py), and how tokens weigh. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { meanEmbeddings, regressedProjection } from '../../src/model/projectionRegression.js';
import { TensorFlow } from '../../src/tensorflow/session.js';
import { largestDifference } from '../helpers/compare.js';
import { readFixture } from '../helpers/fixtures.js';
import { linearArrays } from '../helpers/projections.js';

interface Fixture {
  readonly images: number;
  readonly queries: number;
  readonly channels: number;
  readonly width: number;
  readonly wantedRms: number;
  readonly cases: readonly Case[];
}

interface Case {
  readonly standardise: boolean;
  readonly layerNorm: boolean;
  readonly features: readonly number[];
  readonly targets: readonly number[];
  readonly mean: readonly number[];
  readonly std: readonly number[];
  readonly weight: readonly number[];
  readonly bias: readonly number[];
}

const {
  images,
  queries: Q,
  channels: C,
  width: D,
  wantedRms,
  cases,
} = await readFixture<Fixture>('regression/ridge.json');

let tensorflow: TensorFlow;
beforeAll(async () => {
  tensorflow = await TensorFlow.open();
});
afterAll(() => tensorflow.close());

const rowsOf = (values: readonly number[], size: number): Float32Array[] =>
  Array.from({ length: images }, (_, i) => Float32Array.from(values.slice(i * size, (i + 1) * size)));

describe('regressedProjection', () => {
  it.each(cases)(
    'as scikit-learn: standardise $standardise, layerNorm $layerNorm',
    async ({ standardise, layerNorm, ...given }) => {
      const options = { kind: 'linear' as const, standardise, layerNorm };
      const samples = {
        featureShape: [Q, C] as const,
        features: rowsOf(given.features, Q * C),
        targets: rowsOf(given.targets, D),
      };
      const statistics = { mean: Float32Array.from(given.mean), std: Float32Array.from(given.std) };
      const made = await regressedProjection(
        tensorflow,
        options,
        samples,
        wantedRms,
        standardise ? statistics : undefined,
      );
      const { weight, bias } = linearArrays(made.parameters);
      expect(largestDifference(weight, given.weight)).toBeLessThan(1e-5);
      expect(largestDifference(bias, given.bias)).toBeLessThan(1e-5);
      expect(made.statistics).toEqual(standardise ? statistics : undefined);
      expect([made.inputSize, made.outputSize]).toEqual([C, D]);
    },
  );

  it('gives weights 0 and the mean target where the features say nothing', async () => {
    const samples = {
      featureShape: [1, 2] as const,
      features: [new Float32Array(2), new Float32Array(2)],
      targets: [Float32Array.of(1, 2), Float32Array.of(3, 2)],
    };
    const options = { kind: 'linear' as const, standardise: false, layerNorm: false };
    const made = await regressedProjection(tensorflow, options, samples, 2);
    const { weight, bias } = linearArrays(made.parameters);
    expect([...weight]).toEqual([0, 0, 0, 0]);
    expect([...bias].map((value) => value.toFixed(5))).toEqual(['2.00000', '2.00000']);
  });
});

describe('meanEmbeddings', () => {
  it('weighs a token by 1 / √(times it is in all captions)', () => {
    const embeddings = Float32Array.of(1, 0, 0, 1, 5, 5); // of the ids 7, 8, 9
    const captions = [[7, 8], [8], [8], [8, 9]];
    const [first, second, , fourth] = meanEmbeddings(captions, [7, 8, 9], embeddings, 2);
    // 7 once: weight 1; 8 four times: weight ½
    expect([...(first ?? [])]).toEqual([2 / 3, 1 / 3].map(Math.fround));
    expect([...(second ?? [])]).toEqual([0, 1]);
    expect([...(fourth ?? [])]).toEqual([10 / 3, 11 / 3].map(Math.fround));
  });
});
