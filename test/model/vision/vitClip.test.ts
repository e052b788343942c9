/** CLIP's vision transformer against transformers on a tiny random model (scripts/fixtures/clip.py). */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../../../src/errors.js';
import { Encoder, type EncoderSpec } from '../../../src/model/vision/encoder.js';
import { openHuggingFaceFolder, type HuggingFaceFolder } from '../../../src/model/weights/huggingface.js';
import type { TokenChoice } from '../../../src/model/vision/vit.js';
import { clipVision, clipWeights, type ClipOptions } from '../../../src/model/vision/vitClip.js';
import { missingTensor, type WeightSource } from '../../../src/model/weights/weights.js';
import type { HostTensor } from '../../../src/tensorflow/dtypes.js';
import { TensorFlow } from '../../../src/tensorflow/session.js';
import { cosine, relativeDifference } from '../../helpers/compare.js';
import { readTensors } from '../../helpers/fixtures.js';
import { memorySource } from '../../helpers/tinyModels.js';
import { tableSource } from './vitTables.js';

/** Float32 against torch's float32, three blocks. */
const LIMIT = 2e-6;
const [H, C, N] = [20, 16, 16]; // pixels, width, patches
const ALL: TokenChoice = { kind: 'all' };
const expected = await readTensors<string>('clip/expected.safetensors');

let tensorflow: TensorFlow;
let folder: HuggingFaceFolder;
beforeAll(async () => {
  tensorflow = await TensorFlow.open();
  folder = await openHuggingFaceFolder(join(import.meta.dirname, '..', '..', 'fixtures', 'clip'));
});
afterAll(async () => {
  await folder.close();
  await tensorflow.close();
});

function recorded(name: string): Float32Array {
  const values = expected[name];
  if (!values) throw missingTensor('clip/expected.safetensors', name, Object.keys(expected));
  return values;
}

/** What config.json and the tensors say, with changes. */
function clip(
  options: Partial<ClipOptions> = {},
  change: Record<string, unknown> = {},
  source: WeightSource = folder,
): ReturnType<typeof clipVision> {
  return clipVision(source, { ...folder.config, ...change }, { imageSize: H, ...options });
}

/** Features of the first image of `pixels`. */
async function encode(
  part: ReturnType<typeof clipVision>,
  { source = folder, pixels = 'pixels', ...change }: Partial<EncoderSpec> & Source = {},
): Promise<Float32Array> {
  const spec: EncoderSpec = { ...part, tokens: ALL, precision: 'float32', ...change };
  const encoder = await Encoder.open(tensorflow, spec, source);
  const { imageSize } = spec.vit;
  const features = await encoder.encode(recorded(pixels).slice(0, 3 * imageSize * imageSize));
  await encoder.close();
  return features;
}
interface Source {
  readonly source?: WeightSource;
  readonly pixels?: string;
}

describe('clipVision', () => {
  it.each([
    ['quick_gelu', 1],
    ['quick_gelu', 2],
    ['quick_gelu', 3],
    ['gelu', 3],
  ])('with %s, all tokens after block %i are transformers’ hidden state', async (activation, depth) => {
    const got = await encode(clip({ depth }, { hidden_act: activation }));
    expect(relativeDifference(got, recorded(`${activation}.${depth}`).subarray(0, got.length))).toBeLessThan(
      LIMIT,
    );
  });

  it('LLaVA’s choice is the patches of the penultimate layer', async () => {
    expect(clip().depth).toBe(2);
    const got = await encode(clip(), { tokens: { kind: 'patches', concat: 1 } });
    expect(got).toHaveLength(N * C);
    expect(relativeDifference(got, recorded('quick_gelu.2').subarray(C, (1 + N) * C))).toBeLessThan(LIMIT);
  });

  it('larger images get resized positions', async () => {
    const got = await encode(clip({ imageSize: 30 }), { pixels: 'large_pixels' });
    expect(relativeDifference(got, recorded('large.2'))).toBeLessThan(LIMIT);
  });

  it('in bfloat16 it points where it points in float32', async () => {
    const [rounded, exact] = [await encode(clip(), { precision: 'bfloat16' }), await encode(clip())];
    expect(cosine(rounded, exact)).toBeGreaterThan(0.999);
    expect(rounded).not.toEqual(exact);
  });

  it('inside a LLaVA, beside other tensors, it is the same', async () => {
    const tensors: [string, HostTensor][] = [];
    for (const name of folder.names()) tensors.push([`vision_tower.${name}`, await folder.read(name)]);
    const source = memorySource(Object.fromEntries(tensors));
    const part = clipVision(source, { model_type: 'llava', vision_config: folder.config }, { imageSize: H });
    expect(part.layout).toEqual({ kind: 'clip', prefix: 'vision_tower.' });
    expect(await encode(part, { source })).toEqual(await encode(clip()));
  });

  it('every tensor of the file is used once, but for the norm of the pooled output', () => {
    const { vit, layout } = clip();
    const used = clipWeights(vit, 3, layout).flatMap(({ sources }) => sources);
    const names = folder.names().filter((name) => !name.includes('post_layernorm'));
    expect(used.sort()).toEqual(names.sort());
  });

  it('what config.json leaves out is transformers’ default', () => {
    const heads = clipVision(
      tableSource({
        'vision_model.embeddings.patch_embedding.weight': [24, 3, 5, 5],
        'vision_model.encoder.layers.0.mlp.fc1.weight': [8, 24],
      }),
      {},
      { imageSize: H },
    );
    expect(heads.vit).toMatchObject({ heads: 12, layerNormEps: 1e-5, activation: 'quick-gelu' });
  });
});

describe('clipVision refuses', () => {
  it.each<[string, Partial<ClipOptions>, Record<string, unknown>, string]>([
    ['heads that do not divide', {}, { num_attention_heads: 3 }, 'must divide the width 16, got 3'],
    [
      'another activation',
      {},
      { hidden_act: 'relu' },
      '"hidden_act" must be "gelu" or "quick_gelu", got "relu"',
    ],
    [
      'an eps of text',
      {},
      { layer_norm_eps: '1e-5' },
      '"layer_norm_eps" must be a positive number, got "1e-5"',
    ],
    [
      'an image size of half patches',
      { imageSize: 22 },
      {},
      'the image size must be a multiple of 5, got 22',
    ],
  ])('%s', (_, options, change, message) => {
    const read = (): unknown => clip(options, change);
    expect(read).toThrow(UserError);
    expect(read).toThrow(message);
  });

  it('a file of something else', () => {
    const read = (): unknown => clip({}, {}, tableSource({ weight: [2] }));
    expect(read).toThrow(UserError);
    expect(read).toThrow('table: must hold a CLIP vision transformer');
  });
});

describe('Encoder.open refuses', () => {
  /** The tensors of the folder, one of them changed or left out. */
  async function changed(name: string, change?: (tensor: HostTensor) => HostTensor): Promise<WeightSource> {
    const tensors: [string, HostTensor][] = [];
    for (const other of folder.names()) {
      const tensor = await folder.read(other);
      if (other !== name) tensors.push([other, tensor]);
      else if (change) tensors.push([other, change(tensor)]);
    }
    return memorySource(Object.fromEntries(tensors));
  }

  it('a file without one of the tensors, by name, before anything is loaded', async () => {
    const name = 'vision_model.encoder.layers.1.self_attn.k_proj.bias';
    const before = await tensorflow.tensorCount();
    const opening = encode(clip(), { source: await changed(name) });
    await expect(opening).rejects.toThrow(UserError);
    await expect(opening).rejects.toThrow(`memory: there must be a tensor "${name}", got none`);
    expect(await tensorflow.tensorCount()).toBe(before);
  });

  it('a tensor of another size, with both sizes', async () => {
    const name = 'vision_model.encoder.layers.1.mlp.fc1.bias';
    const shorter = (tensor: HostTensor): HostTensor => ({
      ...tensor,
      shape: [1],
      data: tensor.data.slice(0, 4),
    });
    const opening = encode(clip(), { source: await changed(name, shorter) });
    await expect(opening).rejects.toThrow(UserError);
    await expect(opening).rejects.toThrow(`weights: "${name}" in memory must make [24], got [1]`);
  });

  it('a position table of no square', async () => {
    const name = 'vision_model.embeddings.position_embedding.weight';
    const cut = (tensor: HostTensor): HostTensor => ({
      ...tensor,
      shape: [16, C],
      data: tensor.data.slice(0, 4 * 16 * C),
    });
    const opening = encode(clip(), { source: await changed(name, cut) });
    await expect(opening).rejects.toThrow(UserError);
    await expect(opening).rejects.toThrow('rows must be 1 + a square, got 16');
  });
});
