import { describe, expect, it } from 'vitest';

import { learningRate, scheduleOf, type Schedule } from '../../src/train/schedule.js';

const stage1: Schedule = {
  kind: 'reference',
  peak: 1e-4,
  floor: 8e-5,
  start: 1e-6,
  warmupSteps: 5000,
  totalSteps: 20000,
  stepsPerEpoch: 5000,
};
const stage2: Schedule = {
  kind: 'reference',
  peak: 3e-5,
  floor: 1e-5,
  start: 1e-6,
  warmupSteps: 200,
  totalSteps: 1000,
  stepsPerEpoch: 200,
};

describe('the reference schedule', () => {
  // probes written down from MiniGPT-4's stage-1 and stage-2 configurations, to their printed digits
  it.each([
    [stage1, 0, 1e-6, 1e-12],
    [stage1, 2500, 5.05e-5, 1e-12],
    [stage1, 4999, 9.998e-5, 1e-9],
    [stage1, 5000, 9.7071e-5, 1e-9],
    [stage1, 10000, 9e-5, 1e-12],
    [stage1, 19999, 8e-5, 1e-9],
    [stage2, 0, 1e-6, 1e-12],
    [stage2, 100, 1.55e-5, 1e-12],
    [stage2, 199, 2.9855e-5, 1e-12],
    [stage2, 200, 2.809e-5, 1e-9],
    [stage2, 400, 2.309e-5, 1e-9],
    [stage2, 500, 2e-5, 1e-12],
    [stage2, 999, 1e-5, 1e-9],
  ])('%# passes through its probe', (schedule, step, rate, tolerance) => {
    expect(Math.abs(learningRate(step, schedule) - rate)).toBeLessThanOrEqual(tolerance);
  });

  it('restarts a warm-up that is longer than an epoch, and drops to the cosine at its end', () => {
    const tiny: Schedule = {
      ...stage2,
      peak: 3e-3,
      floor: 8e-4,
      start: 2e-4,
      warmupSteps: 7,
      totalSteps: 20,
      stepsPerEpoch: 5,
    };
    const rates = Array.from({ length: 8 }, (_, step) => learningRate(step, tiny));
    const ramp = (i: number) => 2e-4 + (2.8e-3 * i) / 7;
    expect(rates.slice(0, 7)).toEqual([0, 1, 2, 3, 4, 0, 1].map(ramp));
    expect(rates[7]).toBeCloseTo(8e-4 + 2.2e-3 * 0.5 * (1 + Math.cos((Math.PI * 7) / 20)), 12);
  });
});

describe('the cosine schedule', () => {
  const cosine: Schedule = {
    kind: 'cosine',
    peak: 1e-3,
    floor: 5e-5,
    start: 1e-6,
    warmupSteps: 24,
    totalSteps: 240,
  };
  it.each([
    [0, 1e-6],
    [12, 1e-6 + (1e-3 - 1e-6) / 2],
    [24, 1e-3],
    [132, (1e-3 + 5e-5) / 2], // half-way between the end of warm-up and the end
    [78, 5e-5 + 9.5e-4 * 0.5 * (1 + Math.SQRT1_2)], // a quarter of the way: cos(π/4)
    [240, 5e-5],
    [1000, 5e-5],
  ])('at step %i is %f', (step, rate) => {
    expect(learningRate(step, cosine)).toBeCloseTo(rate, 12);
  });

  it('never falls before and never rises after the end of warm-up', () => {
    const rates = Array.from({ length: 241 }, (_, step) => learningRate(step, cosine));
    for (let step = 1; step <= 240; step++) {
      const change = (rates[step] ?? 0) - (rates[step - 1] ?? 0);
      expect(step <= 24 ? change : -change).toBeGreaterThan(0);
    }
  });

  it('without warm-up starts at the peak', () => {
    expect(learningRate(0, { ...cosine, warmupSteps: 0 })).toBe(1e-3);
  });
});

describe('the schedule of a configuration', () => {
  const schedule = { peak: 1e-3, floor: 0, start: 0, warmupSteps: 1 };
  it('ends with the run unless it says totalSteps', () => {
    const cosine = { kind: 'cosine' as const, ...schedule };
    expect(scheduleOf({ steps: 50, schedule: cosine }).totalSteps).toBe(50);
    expect(scheduleOf({ steps: 50, schedule: { ...cosine, totalSteps: 80 } }).totalSteps).toBe(80);
  });

  it('of the reference takes its epochs along', () => {
    const reference = { kind: 'reference' as const, stepsPerEpoch: 25, ...schedule };
    expect(scheduleOf({ steps: 50, schedule: reference })).toEqual({ ...reference, totalSteps: 50 });
  });
});
