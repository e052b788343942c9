/** `minigpt4 doctor` on the machine that runs the tests: the products are really measured. */
import { expect, it } from 'vitest';
import { examine } from '../../../src/setup/doctor.js';

it('measures both precisions where TensorFlow is set up', { timeout: 120_000 }, async () => {
  const { facts, ready } = await examine();
  const value = (name: string) => facts.find((fact) => fact.name === name)?.value ?? '';
  expect(ready).toBe(true);
  expect(value('TensorFlow')).toMatch(/^2\.21\.0 \((cpu|gpu) build\) under tfjs-node-gpu 4\.22\.0/);
  for (const size of ['768 × 768 × 768', '1024 × 4096 × 4096']) {
    const [, float32, bfloat16] =
      /^float32 (\d+), bfloat16 (\d+) GFLOP\/s$/.exec(value(`MatMul ${size}`)) ?? [];
    expect(Number(float32)).toBeGreaterThan(1); // any machine that runs AVX does
    expect(Number(bfloat16)).toBeGreaterThan(1);
  }
  expect(value('precision: auto')).toMatch(/^(float32|bfloat16)$/);
});
