/** From `model` sections to encoders: MiniGPT-4's files, Hugging Face folders, and what does not fit together. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseConfig } from '../../../src/config/load.js';
import type { ModelConfig } from '../../../src/config/schema.js';
import { openMiniGpt4 } from '../../../src/model/miniGpt4.js';
import { openSafetensors } from '../../../src/model/weights/safetensors.js';
import { openVision, type VisionConfig } from '../../../src/model/vision/vision.js';
import type { WeightSource } from '../../../src/model/weights/weights.js';
import { toFloat32 } from '../../../src/tensorflow/halfFloats.js';
import { relativeDifference } from '../../helpers/compare.js';

const FIXTURES = join(import.meta.dirname, '..', '..', 'fixtures');
const TINY = join(FIXTURES, 'minigpt4-tiny', 'weights');
const FILES = { encoder: join(TINY, 'eva_vit_g.pth'), qformer: join(TINY, 'blip2_pretrained_tiny.pth') };
const MINIGPT4: VisionConfig = {
  imageSize: 56,
  encoderHeads: 4,
  qformerHeads: 4,
  tokens: { kind: 'qformer', grid: 2, cls: true, concat: 1 },
};

let expected: WeightSource;
beforeAll(async () => {
  expected = await openSafetensors(join(FIXTURES, 'minigpt4-tiny', 'expected.safetensors'));
});
afterAll(() => expected.close());

describe('openMiniGpt4', () => {
  it('gives the Q-Former’s queries of the original code from eva_vit_g.pth and the BLIP-2 file', async () => {
    const model = await openMiniGpt4(modelSection({ ...MINIGPT4, precision: 'float32' }), {
      ...FILES,
      llm: join(TINY, 'llm_sharded_fp16'),
    });
    try {
      expect(model.encoder.featureShape).toEqual([8, 48]);
      const [pixels, queries] = [await read('pixels'), await read('qformer_out')];
      for (const image of [0, 11]) {
        const features = await model.encoder.encode(pixels.slice(image * 9408, (image + 1) * 9408)); // 3 · 56 · 56
        expect(relativeDifference(features, queries.subarray(image * 384, (image + 1) * 384))).toBeLessThan(
          2e-6,
        );
      }
      expect(model.language.spec).toMatchObject({
        featureSize: 48,
        llama: { hiddenSize: 64, vocabSize: 601 },
      });
    } finally {
      await model.close();
    }
  });
});

describe('openVision', () => {
  it.each<[string, VisionConfig['tokens'], typeof FILES | { encoder: string }, object]>([
    [
      'four neighbours joined, without a Q-Former, after ln_vision, as the Llama-2 release',
      { kind: 'patches', grid: 2, cls: true, concat: 4 },
      FILES,
      { tokens: { kind: 'patches', concat: 4 }, lnVision: { kind: 'lavis' }, layout: { kind: 'eva' } },
    ],
    [
      'eva_vit_g.pth alone has a plain ln_vision',
      { kind: 'patches', grid: 2, cls: true, concat: 4 },
      { encoder: FILES.encoder },
      { tokens: { kind: 'patches', concat: 4 }, lnVision: 'plain', layout: { kind: 'eva' } },
    ],
    [
      'a BLIP-2 folder brings its own Q-Former',
      { kind: 'qformer', grid: 2, cls: true, concat: 1 },
      { encoder: join(FIXTURES, 'blip2-hf') },
      { qformer: { config: { queries: 8 } }, layout: { kind: 'blip2' } },
    ],
    [
      'patches of CLIP’s last layer but one, as LLaVA',
      { kind: 'patches', grid: 2, cls: true, concat: 1 },
      { encoder: join(FIXTURES, 'clip') },
      { layout: { kind: 'clip' }, tokens: { kind: 'patches', concat: 1 } },
    ],
  ])('%s', async (_, tokens, files, wanted) => {
    const heads = files.encoder === FILES.encoder ? { encoderHeads: 4, qformerHeads: 4 } : {};
    const imageSize = files.encoder.endsWith('clip') ? 20 : 56;
    const opened = await openVision({ imageSize, tokens, ...heads }, files);
    await opened.close();
    expect(opened.spec).toMatchObject(wanted);
    if (tokens.kind !== 'qformer') expect(opened.spec.qformer).toBeUndefined();
    if (files.encoder.endsWith('clip')) expect(opened.spec.lnVision).toBeUndefined();
  });

  const noHeads: VisionConfig = { imageSize: MINIGPT4.imageSize, tokens: MINIGPT4.tokens };
  it.each<[string, VisionConfig, { encoder: string; qformer?: string }, RegExp]>([
    [
      'a Q-Former that is nowhere',
      MINIGPT4,
      { encoder: FILES.encoder },
      /^model\.tokens: kind "qformer" needs a Q-Former, got none \(set model\.qformer/,
    ],
    ['heads that cannot be known', noHeads, FILES, /heads/],
    ['a file that is not there', MINIGPT4, { encoder: join(TINY, 'eva.pth') }, /eva\.pth/],
    ['a file that is no encoder', MINIGPT4, { encoder: FILES.qformer }, /blip2_pretrained_tiny\.pth/],
  ])('refuses %s', async (_, config, files, message) => {
    await expect(openVision(config, files)).rejects.toThrow(message);
  });
});

/** A `model` section as a file gives it, defaults filled in. */
function modelSection(model: object): ModelConfig {
  const rest = {
    data: { train: [{ shards: 'none' }] },
    train: {
      stage: 'pretrain',
      steps: 1,
      batchSize: 1,
      microBatchSize: 1,
      schedule: { peak: 1, warmupSteps: 0 },
    },
    run: { folder: 'none' },
  };
  return parseConfig(JSON.stringify({ model, ...rest }), 'test').model;
}

async function read(name: string): Promise<Float32Array> {
  return toFloat32(await expected.read(name));
}
