/**
 * The default vision encoder as our graph computes it against onnxruntime (scripts/fixtures/models.py), in float32 and
 * bfloat16. Needs `minigpt4 setup`.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Encoder, type EncoderSpec } from '../../src/model/vision/encoder.js';
import { openHuggingFaceFolder, type HuggingFaceFolder } from '../../src/model/weights/huggingface.js';
import { vitConfig } from '../../src/model/vision/vitDinov2.js';
import { modelFolder } from '../../src/setup/models.js';
import { TensorFlow } from '../../src/tensorflow/session.js';
import { cosine, dot, largest, largestDifference } from '../helpers/compare.js';
import { readFixture, readTensors } from '../helpers/fixtures.js';

interface VitFixture {
  readonly pixelChecks: readonly (readonly [c: number, y: number, x: number, value: number])[];
  readonly rows: readonly number[];
  readonly whole: Record<'hidden10' | 'final', { readonly norm: number; readonly maxAbs: number }>;
}

const [H, C] = [224, 384];
const fixture = await readFixture<VitFixture>('models/vit.json');
const tensors = await readTensors<'hidden10' | 'final' | 'pooled10'>('models/vit.safetensors');

/** p[c, y, x] = 1.5 sin(0.05 x (c + 1) + 0.03 y), as the script makes it. */
const pixels = Float32Array.from({ length: 3 * H * H }, (_, i) => {
  const [c, y, x] = [Math.floor(i / (H * H)), Math.floor(i / H) % H, i % H];
  return Math.sin(0.05 * x * (c + 1) + 0.03 * y) * 1.5;
});

let tensorflow: TensorFlow;
let source: HuggingFaceFolder;
beforeAll(async () => {
  source = await openHuggingFaceFolder(await modelFolder('vit-s14-focus'));
  tensorflow = await TensorFlow.open();
});
afterAll(async () => {
  await source.close();
  await tensorflow.close();
});

/** All tokens and the chosen features of the test image. */
async function encode(
  spec: Pick<EncoderSpec, 'depth' | 'precision'>,
): Promise<Record<'tokens' | 'features', Float32Array>> {
  const tokens = { kind: 'grid', grid: 2, cls: true } as const; // the quick start's
  const encoder = await Encoder.open(
    tensorflow,
    { vit: vitConfig(source.config, H), tokens, ...spec },
    source,
  );
  const image = { shape: [1, 3, H, H], data: pixels };
  const run = await encoder.session.run('encode', { pixels: image }, ['tokens', 'features']);
  await encoder.close();
  return { tokens: Float32Array.from(run.tokens.data), features: Float32Array.from(run.features.data) };
}

function rowsOf(tokens: Float32Array): number[] {
  return fixture.rows.flatMap((row) => [...tokens.subarray(row * C, (row + 1) * C)]);
}

it('the image of this test is the script’s', () => {
  for (const [c, y, x, value] of fixture.pixelChecks)
    expect(pixels[(c * H + y) * H + x]).toBeCloseTo(value, 7);
});

describe.each([
  ['hidden10', 10],
  ['final', 12],
] as const)('%s', (name, depth) => {
  it('of all tokens is onnxruntime’s in float32', async () => {
    const { tokens, features } = await encode({ depth, precision: 'float32' });
    const { norm, maxAbs } = fixture.whole[name];
    expect(tokens).toHaveLength(257 * C);
    // float32 through 10 blocks; values of up to 12, so 2e-5 relative to the largest is 2.4e-4
    expect(largestDifference(rowsOf(tokens), tensors[name]) / maxAbs).toBeLessThan(2e-5);
    expect(Math.abs(Math.sqrt(dot(tokens, tokens)) / norm - 1)).toBeLessThan(1e-5);
    expect(Math.abs(largest(tokens) / maxAbs - 1)).toBeLessThan(2e-5);
    if (name === 'hidden10')
      expect(largestDifference(features, tensors.pooled10) / largest(tensors.pooled10)).toBeLessThan(2e-5);
  });
});

it('features in bfloat16 point where the float32 ones point', async () => {
  const { features } = await encode({ depth: 10, precision: 'bfloat16' });
  for (let q = 0; q < 5; q++) {
    const row = (values: Float32Array): Float32Array => values.subarray(q * C, (q + 1) * C);
    expect(cosine(row(features), row(tensors.pooled10))).toBeGreaterThan(0.999);
  }
});
