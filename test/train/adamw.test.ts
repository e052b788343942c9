import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { UserError } from '../../src/errors.js';
import { AdamW, clipGradNorm, type Parameter } from '../../src/train/adamw.js';

interface Values {
  weight: number[];
  bias: number[];
}
interface Fixture {
  adamw: {
    options: { beta1: number; beta2: number; epsilon: number; weightDecay: number };
    start: Values;
    steps: ({ rate: number; gradients: Values } & Values)[];
    moments: Record<'weight' | 'bias', { exp_avg: number[]; exp_avg_sq: number[] }>;
  };
  clipping: { maxNorm: number; before: number[][]; norm: number; after: number[][] }[];
}

const file = join(import.meta.dirname, '../fixtures/optim/adamw.json');
// made by scripts/fixtures/optim.py, in this shape
const fixture = JSON.parse(readFileSync(file, 'utf8')) as Fixture;
const { adamw } = fixture;

function parameters(from: Values = adamw.start): Parameter[] {
  return [
    { name: 'weight', data: Float32Array.from(from.weight), decay: true },
    { name: 'bias', data: Float32Array.from(from.bias), decay: false },
  ];
}

const gradientsAt = (step: number) => ({
  weight: Float32Array.from(adamw.steps[step]?.gradients.weight ?? []),
  bias: Float32Array.from(adamw.steps[step]?.gradients.bias ?? []),
});

function run(optimizer: AdamW, from: number, to: number): void {
  for (let step = from; step < to; step++) optimizer.step(gradientsAt(step), adamw.steps[step]?.rate ?? 0);
}

function largestDifference(got: ArrayLike<number> | undefined, expected: readonly number[]): number {
  expect(got?.length).toBe(expected.length);
  return Math.max(...expected.map((value, index) => Math.abs(value - (got?.[index] ?? NaN))));
}

describe('AdamW', () => {
  it('agrees with torch.optim.AdamW after each of 10 steps to 1e-6', () => {
    const [weight, bias] = parameters();
    if (!weight || !bias) throw new Error('two parameters');
    const optimizer = new AdamW([weight, bias], adamw.options);
    for (const [index, expected] of adamw.steps.entries()) {
      run(optimizer, index, index + 1);
      // float32 parameters of size 0.3: 1e-6 leaves room for a few roundings of 3e-8
      expect(largestDifference(weight.data, expected.weight)).toBeLessThan(1e-6);
      expect(largestDifference(bias.data, expected.bias)).toBeLessThan(1e-6);
    }
    expect(optimizer.steps).toBe(10);
  });

  it('keeps the moments of torch', () => {
    const optimizer = new AdamW(parameters(), adamw.options);
    run(optimizer, 0, 10);
    const state = optimizer.exportState();
    for (const name of ['weight', 'bias'] as const) {
      for (const moment of ['exp_avg', 'exp_avg_sq'] as const) {
        const got = new Float32Array(state[`${moment}.${name}`]?.data.slice().buffer ?? new ArrayBuffer(0));
        const expected = adamw.moments[name][moment];
        // relative to the largest: single values cancel from terms of that size
        const limit = 1e-6 * Math.max(...expected.map(Math.abs));
        expect(largestDifference(got, expected)).toBeLessThan(limit);
      }
    }
  });

  it('with exported and imported state in between ends on the same bits', () => {
    const whole = parameters();
    run(new AdamW(whole, adamw.options), 0, 10);

    const split = parameters();
    const first = new AdamW(split, adamw.options);
    run(first, 0, 4);
    const second = new AdamW(split, adamw.options);
    second.importState(first.exportState());
    run(first, 4, 4);
    run(second, 4, 10);
    expect(split.map(({ data }) => [...data])).toEqual(whole.map(({ data }) => [...data]));
    expect(second.steps).toBe(10);
  });

  it('exports a copy that later steps leave alone', () => {
    const optimizer = new AdamW(parameters(), adamw.options);
    run(optimizer, 0, 3);
    const state = optimizer.exportState();
    const before = Buffer.from(state['exp_avg.weight']?.data ?? []).toString('hex');
    run(optimizer, 3, 6);
    expect(Buffer.from(state['exp_avg.weight']?.data ?? []).toString('hex')).toBe(before);
  });

  it('refuses the state of another model and keeps its own', () => {
    const optimizer = new AdamW(parameters(), adamw.options);
    run(optimizer, 0, 2);
    const other = new AdamW([{ name: 'weight', data: new Float32Array(3), decay: true }]).exportState();
    expect(() => optimizer.importState(other)).toThrow(UserError);
    expect(() => optimizer.importState(other)).toThrow(
      'optimizer state: "exp_avg.weight" must be 35 × float32, got float32[3] (the checkpoint belongs to another model)',
    );
    expect(optimizer.steps).toBe(2);
  });

  it('refuses a gradient of another length before it changes anything', () => {
    const own = parameters();
    const optimizer = new AdamW(own);
    expect(() => optimizer.step({ weight: new Float32Array(35).fill(1) }, 1)).toThrow(
      'AdamW: the gradient of bias must hold 5 values, got none',
    );
    expect([...(own[0]?.data ?? [])]).toEqual([...Float32Array.from(adamw.start.weight)]);
  });
});

describe('clipGradNorm', () => {
  it.each(fixture.clipping)(
    'agrees with torch at norm $norm, limit $maxNorm',
    ({ maxNorm, before, norm, after }) => {
      const gradients = before.map((values) => Float32Array.from(values));
      expect(Math.abs(clipGradNorm(gradients, maxNorm) - norm)).toBeLessThanOrEqual(1e-6 * norm);
      const limit = 1e-6 * Math.max(maxNorm, norm);
      gradients.forEach((got, index) =>
        expect(largestDifference(got, after[index] ?? [])).toBeLessThanOrEqual(limit),
      );
    },
  );

  it('with limit 0 only measures', () => {
    const gradients = [Float32Array.of(3), Float32Array.of(4)];
    expect(clipGradNorm(gradients, 0)).toBe(5);
    expect(gradients.map(([value]) => value)).toEqual([3, 4]);
  });

  it('leaves gradients alone whose norm is not finite', () => {
    const gradients = [Float32Array.of(3, Infinity)];
    expect(clipGradNorm(gradients, 1)).toBe(Infinity);
    expect([...(gradients[0] ?? [])]).toEqual([3, Infinity]);
    expect(clipGradNorm([Float32Array.of(NaN)], 1)).toBeNaN();
  });
});
