import { projectRows } from '../helpers/reference.js';
import { describe, expect, it } from 'vitest';
import { UserError } from '../../src/errors.js';
import { projectionFeeds } from '../../src/model/projection.js';
import { featureStatistics, initialProjection } from '../../src/model/projectionStart.js';
import {
  kindOfTensors,
  projectionFromTensors,
  projectionTensors,
} from '../../src/model/projectionTensors.js';
import { copyOf, linearArrays } from '../helpers/projections.js';
import { mulberry32, randomNormal } from '../helpers/random.js';

const [C, D] = [200, 300];
const OPTIONS = { kind: 'linear' as const, standardise: false, layerNorm: true };
const mean = (values: Float32Array): number => values.reduce((sum, value) => sum + value, 0) / values.length;
const rms = (values: Float32Array): number => Math.sqrt(mean(values.map((value) => value * value)));

describe('initialProjection', () => {
  it('as torch: uniform within ±1/√C', () => {
    const { parameters } = initialProjection([C, D], OPTIONS, { kind: 'torch' }, mulberry32(1));
    const { weight, bias } = linearArrays(parameters);
    const bound = 1 / Math.sqrt(C);
    for (const values of [weight, bias]) {
      expect(Math.max(...values)).toBeLessThanOrEqual(bound);
      expect(Math.min(...values)).toBeGreaterThanOrEqual(-bound);
    }
    // 60,000 deviates: standard errors of 0.24 % of the bound and 0.18 % of the root mean square; limits of 4 of them
    expect(Math.abs(mean(weight)) / bound).toBeLessThan(0.0096);
    expect(rms(weight) / (bound / Math.sqrt(3))).toBeCloseTo(1, 2);
    expect(weight).toHaveLength(D * C);
    expect(bias).toHaveLength(D);
  });

  it('embedding-rms: normal, so that unit features become soft prompts of that root mean square', () => {
    const start = { kind: 'embedding-rms', rms: 0.14, scale: 2 } as const;
    const { parameters } = initialProjection([C, D], OPTIONS, start, mulberry32(2));
    const { weight, bias } = linearArrays(parameters);
    expect(rms(weight) * Math.sqrt(C)).toBeCloseTo(0.28, 2);
    const twice = 2 * rms(weight);
    const beyond = weight.filter((value) => Math.abs(value) > twice).length / weight.length;
    expect(Math.abs(beyond - 0.0455)).toBeLessThan(0.004); // normal: 4.55 % lie beyond two deviations
    expect(bias).toEqual(new Float32Array(D));
  });

  it('the same deviates give the same weights', () => {
    const make = (seed: number) => initialProjection([5, 4], OPTIONS, { kind: 'torch' }, mulberry32(seed));
    expect(make(3)).toEqual(make(3));
    expect(make(3)).not.toEqual(make(4));
  });
});

describe.each(['linear3', 'mlp2x_gelu'] as const)('%s', (kind) => {
  const options = { kind, standardise: false, layerNorm: false };
  const made = initialProjection([5, 4], options, { kind: 'torch' }, mulberry32(6));

  it('goes through a checkpoint under the names of torch’s Sequential, which tell its kind', () => {
    const tensors = projectionTensors(made);
    const shapes = Object.entries(tensors).map(([name, { shape }]) => [name, shape]);
    expect(shapes).toEqual([
      ['llama_proj.0.weight', [4, 5]],
      ['llama_proj.0.bias', [4]],
      ...(kind === 'linear3' ? [['llama_proj.1.weight', [4, 4]]] : []),
      ...(kind === 'linear3' ? [['llama_proj.1.bias', [4]]] : []),
      ['llama_proj.2.weight', [4, 4]],
      ['llama_proj.2.bias', [4]],
    ]);
    expect(kindOfTensors(Object.keys(tensors))).toBe(kind);
    expect(projectionFromTensors(tensors, [5, 4], options, 'a')).toEqual(made);
  });

  it('embedding-rms: unit features become soft prompts of that root mean square here too', () => {
    const start = { kind: 'embedding-rms', rms: 0.14, scale: 2 } as const;
    const wide = initialProjection([C, D], options, start, mulberry32(2));
    const rows = Array.from({ length: 20 }, (_, i) => projectRows(wide, randomNormal(C, 30 + i)).flat());
    expect(rms(Float32Array.from(rows.flat()))).toBeCloseTo(0.28, 1);
    expect(Math.abs(rms(Float32Array.from(rows.flat())) / 0.28 - 1)).toBeLessThan(0.1);
  });
});

describe('featureStatistics', () => {
  it('are mean and population deviation of each channel over all tokens, plus the floor of 1e-3', () => {
    // channel 0: 1 3 5 7; channel 1: always 2
    const statistics = featureStatistics([Float32Array.of(1, 2, 3, 2), Float32Array.of(5, 2, 7, 2)], 2);
    expect([...statistics.mean]).toEqual([4, 2]);
    expect([...statistics.std]).toEqual([Math.fround(Math.sqrt(5) + 1e-3), Math.fround(1e-3)]);
  });

  it('stay exact where channels are far from zero', () => {
    const values = randomNormal(4000, 4).map((value) => 1000 + 0.1 * value);
    const { std } = featureStatistics([values], 1);
    expect((std[0] ?? 0) - 1e-3).toBeCloseTo(0.1, 2); // float32 sums of squares would give 0 or nonsense
  });

  it('need at least one feature', () => {
    expect(() => featureStatistics([], 4)).toThrow('projection: statistics need at least one feature');
  });
});

describe('a checkpoint', () => {
  const statistics = { mean: randomNormal(5, 7), std: randomNormal(5, 8).map(Math.abs) };
  const standardised = { kind: 'linear' as const, standardise: true, layerNorm: false };
  const made = initialProjection([5, 4], standardised, { kind: 'torch' }, mulberry32(6), statistics);

  it('gives back the very projection, in the reference’s names and layout', () => {
    const tensors = projectionTensors(made);
    expect(Object.entries(tensors).map(([name, { dtype, shape }]) => [name, dtype, shape])).toEqual([
      ['llama_proj.weight', 'float32', [4, 5]],
      ['llama_proj.bias', 'float32', [4]],
      ['feature_norm.mean', 'float32', [5]],
      ['feature_norm.std', 'float32', [5]],
    ]);
    expect(projectionFromTensors(tensors, [5, 4], standardised, 'a.safetensors')).toEqual(made);
  });

  it('is a copy: later steps do not change it', () => {
    const trained = copyOf(made);
    const tensors = projectionTensors(trained);
    trained.parameters['weight']?.fill(0);
    expect(projectionFromTensors(tensors, [5, 4], standardised, 'a').parameters).toEqual(made.parameters);
  });

  it('without statistics feeds mean 0 and deviation 1', () => {
    const plain = initialProjection([5, 4], OPTIONS, { kind: 'torch' }, mulberry32(6));
    expect(Object.keys(projectionTensors(plain))).toEqual(['llama_proj.weight', 'llama_proj.bias']);
    const { featureMean, featureStd, weight } = projectionFeeds(plain);
    expect([featureMean?.data, featureStd?.data]).toEqual([new Float32Array(5), new Float32Array(5).fill(1)]);
    expect(weight).toEqual({ shape: [4, 5], data: plain.parameters['weight'] });
  });

  it.each<[string, () => unknown, string]>([
    [
      'without a projection',
      () => projectionFromTensors({}, [5, 4], standardised, 'a.safetensors'),
      'a.safetensors: a projection of kind linear must hold llama_proj.weight and llama_proj.bias, got nothing',
    ],
    [
      'of another model',
      () => projectionFromTensors(projectionTensors(made), [6, 4], standardised, 'a.safetensors'),
      'a.safetensors: llama_proj.weight must be [4, 6] (LLM width × feature width of this config), got [4, 5] (it was trained with another LLM or encoder)',
    ],
    [
      'of another normalisation',
      () => projectionFromTensors(projectionTensors(made), [5, 4], OPTIONS, 'a.safetensors'),
      'a.safetensors: model.projection.standardise is false, but the checkpoint was trained with true (use the config it was trained with)',
    ],
    [
      'with statistics of another width',
      () =>
        projectionFromTensors(
          {
            ...projectionTensors(made),
            'feature_norm.std': { dtype: 'float32', shape: [4], data: new Uint8Array(16) },
          },
          [5, 4],
          standardised,
          'a.safetensors',
        ),
      'a.safetensors: feature_norm.mean and feature_norm.std must be [5], got [5] and [4]',
    ],
    [
      'of another kind',
      () =>
        projectionFromTensors(projectionTensors(made), [5, 4], { ...standardised, kind: 'linear3' }, 'a.pth'),
      'a.pth: a projection of kind linear3 must hold llama_proj.0.weight and llama_proj.0.bias and llama_proj.1.weight and llama_proj.1.bias and llama_proj.2.weight and llama_proj.2.bias, got one of kind linear (set model.projection.kind=linear)',
    ],
  ])('%s is refused', (_, read, message) => {
    expect(read).toThrow(UserError);
    expect(read).toThrow(message);
  });
});
