import { describe, expect, it } from 'vitest';
import { meanGradients } from '../../src/train/gradientMean.js';

const unit = (lossSum: number, targetTokens: number, dWeight: number[], dBias: number[]) => ({
  lossSum,
  targetTokens,
  gradients: { weight: Float32Array.from(dWeight), bias: Float32Array.from(dBias) },
});

describe('meanGradients', () => {
  it('divides the sums by all target tokens, whatever the size of a unit', () => {
    const { loss, targetTokens, mean } = meanGradients([unit(6, 3, [3, 6], [9]), unit(2, 1, [1, 2], [-1])]);
    expect({
      loss,
      targetTokens,
      weight: [...(mean['weight'] ?? [])],
      bias: [...(mean['bias'] ?? [])],
    }).toEqual({
      loss: 2,
      targetTokens: 4,
      weight: [1, 2],
      bias: [2],
    });
  });

  it('adds float32 in the order of the units: another order may end in other bits', () => {
    const [a, b, c] = [unit(0, 1, [1e8], [0]), unit(0, 1, [1], [0]), unit(0, 1, [-1e8], [0])];
    expect(meanGradients([a, b, c]).mean['weight']?.[0]).toBe(0); // 1e8 + 1 is 1e8 in float32
    expect(meanGradients([a, c, b]).mean['weight']?.[0]).toBeCloseTo(1 / 3);
  });

  it('leaves the units as they were', () => {
    const first = unit(1, 1, [4], [4]);
    meanGradients([first, unit(1, 1, [4], [4])]);
    expect([first.gradients.weight[0], first.gradients.bias[0]]).toEqual([4, 4]);
  });

  it('refuses a step without units or without targets', () => {
    expect(() => meanGradients([])).toThrow('at least one micro-batch');
    expect(() => meanGradients([unit(0, 0, [0], [0])])).toThrow('at least one target token');
  });
});
