import { createHash } from 'node:crypto';
import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { UserError } from '../../../src/errors.js';
import { convertGgufLlama, convertOnnxDinov2 } from '../../../src/model/convert/convert.js';
import { shortestFloat32 } from '../../../src/model/convert/convertContent.js';
import { openHuggingFaceFolder } from '../../../src/model/weights/huggingface.js';
import { digests, expected, fixturePath, temporaryFile, temporaryFolder } from '../weights/weightsFixture.js';

const sha256 = async (path: string) =>
  createHash('sha256')
    .update(await readFile(path))
    .digest('hex');

/** Converts into a new folder and opens the result. */
async function converted(convert: typeof convertGgufLlama, file: string) {
  const out = join(await temporaryFolder(), 'out');
  await convert(fixturePath(file), out);
  return openHuggingFaceFolder(out);
}

describe('convertGgufLlama', () => {
  it('gives exactly the tensors that transformers loads from the same file', async () => {
    const source = await converted(convertGgufLlama, 'tiny-llama.gguf');
    expect(await digests(source)).toEqual(expected.llama.tensors);
    await source.close();
  });

  it("writes transformers' configuration, and where the weights come from", async () => {
    const source = await converted(convertGgufLlama, 'tiny-llama.gguf');
    expect(source.config).toMatchObject({
      ...expected.llama.config,
      model_type: 'llama',
      rms_norm_eps: 1e-5,
    });
    const origin = { file: 'tiny-llama.gguf', sha256: await sha256(fixturePath('tiny-llama.gguf')) };
    expect(source.config.minigpt4_origin).toEqual(origin);
    await source.close();
  });

  it('refuses another architecture', async () => {
    const out = join(await temporaryFolder(), 'out');
    const converting = convertGgufLlama(fixturePath('every-type.gguf'), out);
    await expect(converting).rejects.toThrow('general.architecture must be "llama", got test');
  });

  it('names a tensor that is missing', async () => {
    const bytes = await readFile(fixturePath('tiny-llama.gguf'));
    bytes.write('blk.9', bytes.indexOf('blk.1.ffn_down.weight'));
    const path = await temporaryFile('odd.gguf', bytes);
    const converting = convertGgufLlama(path, join(await temporaryFolder(), 'out'));
    await expect(converting).rejects.toThrow('must be a tensor "blk.1.ffn_down.weight", got none');
  });

  it('refuses tensors beyond those of the model, rather than leave them out', async () => {
    const bytes = await readFile(fixturePath('tiny-llama.gguf'));
    const key = 'llama.block_count';
    bytes.writeUInt32LE(1, bytes.indexOf(key) + key.length + 4); // of 2 layers; the 4 bytes are the value's type
    const path = await temporaryFile('odd.gguf', bytes);
    const converting = convertGgufLlama(path, join(await temporaryFolder(), 'out'));
    await expect(converting).rejects.toThrow(/must hold a plain LLaMA's tensors only, got "blk\.1\./);
  });
});

describe('convertOnnxDinov2', () => {
  it("gives exactly the exported model's tensors, linear weights and split position embeddings included", async () => {
    const source = await converted(convertOnnxDinov2, 'tiny-dinov2.onnx');
    expect(await digests(source)).toEqual(expected.dinov2.tensors);
    await source.close();
  });

  it('reads the configuration off the graph', async () => {
    const source = await converted(convertOnnxDinov2, 'tiny-dinov2.onnx');
    expect(source.config).toMatchObject({
      model_type: 'dinov2',
      hidden_size: 16,
      num_hidden_layers: 2,
      num_attention_heads: 2,
      mlp_ratio: 2,
      patch_size: 14,
      image_size: 56,
      layer_norm_eps: 1e-6,
      image_mean: [0.485, 0.456, 0.406],
      image_std: [0.229, 0.224, 0.225],
    });
    await source.close();
  });

  it('says what is missing in a graph that holds no encoder', async () => {
    const converting = convertOnnxDinov2(fixturePath('fields.onnx'), join(await temporaryFolder(), 'out'));
    await expect(converting).rejects.toThrow(UserError);
    await expect(converting).rejects.toThrow('must be a tensor "embeddings.cls_token"');
  });
});

describe.each([
  { convert: convertGgufLlama, file: 'tiny-llama.gguf' },
  { convert: convertOnnxDinov2, file: 'tiny-dinov2.onnx' },
])('converting $file', ({ convert, file }) => {
  it('gives the same bytes each time', async () => {
    const folder = await temporaryFolder();
    for (const out of ['a', 'b']) await convert(fixturePath(file), join(folder, out));
    for (const name of ['config.json', 'model.safetensors']) {
      expect(await readFile(join(folder, 'a', name))).toEqual(await readFile(join(folder, 'b', name)));
    }
  });

  it('leaves nothing behind when the file turns out to be cut', async () => {
    const whole = await readFile(fixturePath(file));
    const cut = await temporaryFile(file, whole.subarray(0, whole.length - 1000));
    const folder = await temporaryFolder();
    await expect(convert(cut, join(folder, 'out'))).rejects.toThrow(UserError);
    expect(await readdir(folder)).toEqual([]);
  });
});

describe('shortestFloat32', () => {
  it('finds the decimal number that was meant', () => {
    expect(shortestFloat32(Math.fround(1e-5))).toBe(1e-5);
    expect(shortestFloat32(Math.fround(500000))).toBe(500000);
    expect(shortestFloat32(Math.fround(1 / 3))).toBe(0.33333334);
  });
});
