import { copyFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { UserError } from '../../../src/errors.js';
import { openHuggingFaceFolder } from '../../../src/model/weights/huggingface.js';
import { writeSafetensors } from '../../../src/model/weights/safetensors.js';
import { toFloat32 } from '../../../src/tensorflow/halfFloats.js';
import { tinyPath } from './pytorchFixture.js';
import { digests, expected, fixturePath, temporaryFolder } from './weightsFixture.js';

/** A folder of two shards, `a` in the first and `b` in the second, under the given index. */
async function shardedFolder(weightMap: unknown): Promise<string> {
  const folder = await temporaryFolder();
  await writeFile(join(folder, 'config.json'), '{"model_type": "llama"}');
  await writeFile(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map: weightMap }));
  for (const [i, name] of ['a', 'b'].entries()) {
    const entry = { name, dtype: 'uint8', shape: [2], read: () => Uint8Array.of(i, 7) } as const;
    await writeSafetensors(join(folder, `model-${i}.safetensors`), [entry]);
  }
  return folder;
}

const good = { a: 'model-0.safetensors', b: 'model-1.safetensors' };

describe('openHuggingFaceFolder', () => {
  it('reads config.json and a single model.safetensors', async () => {
    const folder = await temporaryFolder();
    await writeFile(join(folder, 'config.json'), '{"hidden_size": 8}');
    await copyFile(fixturePath('every-dtype.safetensors'), join(folder, 'model.safetensors'));
    const source = await openHuggingFaceFolder(folder);
    expect(source.config).toEqual({ hidden_size: 8 });
    expect(await digests(source)).toEqual(expected.safetensors);
    expect(source.path).toBe(folder);
    await source.close();
  });

  it('joins shards through the index', async () => {
    const source = await openHuggingFaceFolder(await shardedFolder(good));
    expect(source.names()).toEqual(['a', 'b']);
    expect(source.info('b')).toEqual({ name: 'b', dtype: 'uint8', shape: [2] });
    expect((await source.read('a')).data).toEqual(Uint8Array.of(0, 7));
    expect((await source.read('b')).data).toEqual(Uint8Array.of(1, 7));
    expect(() => source.info('c')).toThrow('must be a tensor "c", got none (nearest are a, b)');
    await source.close();
  });

  it.each<[string, unknown, string]>([
    ['a missing shard', { ...good, b: 'model-2.safetensors' }, 'model-2.safetensors: no such file'],
    ['a tensor that its shard lacks', { ...good, c: 'model-1.safetensors' }, 'must hold the tensor "c"'],
    ['a path out of the folder', { a: '../../model-0.safetensors' }, 'must name a file beside it'],
    ['a shard that is no name', { a: 7 }, 'must name a file beside it, got 7'],
    ['no weight_map', undefined, 'weight_map must be an object, got undefined'],
  ])('refuses an index with %s', async (_, weightMap, message) => {
    const opening = openHuggingFaceFolder(await shardedFolder(weightMap));
    await expect(opening).rejects.toThrow(UserError);
    await expect(opening).rejects.toThrow(message);
  });

  it('joins PyTorch shards through their index: every weight of the safetensors folder, as float16', async () => {
    const shards = await openHuggingFaceFolder(tinyPath('llm_sharded_fp16'));
    const whole = await openHuggingFaceFolder(tinyPath('llm'));
    expect(shards.names().sort()).toEqual(whole.names().sort());
    expect(shards.config['hidden_size']).toBe(64);
    for (const name of shards.names().filter((name) => !name.endsWith('inv_freq'))) {
      expect(shards.info(name).dtype).toBe('float16');
      expect(toFloat32(await shards.read(name))).toEqual(toFloat32(await whole.read(name))); // all are float16s
    }
    await shards.close();
    await whole.close();
  });

  it('reads a single pytorch_model.bin, all of it, and safetensors before it', async () => {
    const folder = await temporaryFolder();
    await writeFile(join(folder, 'config.json'), '{}');
    await copyFile(tinyPath('minigpt4_stage1.pth'), join(folder, 'pytorch_model.bin'));
    const source = await openHuggingFaceFolder(folder);
    expect(source.names()).toContain('model.llama_proj.weight');
    await source.close();
    await copyFile(fixturePath('every-dtype.safetensors'), join(folder, 'model.safetensors'));
    const preferred = await openHuggingFaceFolder(folder);
    expect(await digests(preferred)).toEqual(expected.safetensors);
    await preferred.close();
  });

  it('says what a folder lacks', async () => {
    const folder = await temporaryFolder();
    await expect(openHuggingFaceFolder(folder)).rejects.toThrow(
      `${join(folder, 'config.json')}: no such file`,
    );
    await writeFile(join(folder, 'config.json'), '{}');
    await expect(openHuggingFaceFolder(folder)).rejects.toThrow(
      'must hold model.safetensors or model.safetensors.index.json or pytorch_model.bin or pytorch_model.bin.index.json',
    );
  });

  it('refuses a config that is no JSON object', async () => {
    const folder = await temporaryFolder();
    await writeFile(join(folder, 'config.json'), '{');
    await expect(openHuggingFaceFolder(folder)).rejects.toThrow('config.json: must be JSON');
    await writeFile(join(folder, 'config.json'), '[]');
    await expect(openHuggingFaceFolder(folder)).rejects.toThrow('must be a JSON object, got a list');
  });
});
