import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { openPyTorch, readPyTorchObject } from '../../../src/model/weights/pytorch.js';
import { openSafetensors } from '../../../src/model/weights/safetensors.js';
import { toFloat32 } from '../../../src/tensorflow/halfFloats.js';
import { fixture, pytorchPath, readPlain, tensorPickle, tinyPath, zipFile } from './pytorchFixture.js';
import { digests, temporaryFile, temporaryFolder } from './weightsFixture.js';

function floats(...values: number[]): Uint8Array {
  return new Uint8Array(Float32Array.from(values).buffer);
}

describe('readPyTorchObject', () => {
  it.each(Object.keys(fixture.objects))(
    'reads %s as torch.load does, every key, value and byte',
    async (name) => {
      expect(await readPlain(pytorchPath(name))).toEqual(fixture.objects[name]);
    },
  );

  it('reads the state of an official checkpoint', async () => {
    const { value, close } = await opened(tinyPath('minigpt4_stage1.pth'));
    const top = value as ReadonlyMap<string, ReadonlyMap<unknown, unknown>>; // the layout is the fixture's
    expect([...top.keys()]).toEqual(['model', 'optimizer', 'config', 'scaler', 'epoch']);
    expect(top.get('epoch')).toBe(3);
    expect(top.get('scaler')).toBe(null);
    const groups = top.get('optimizer')?.get('param_groups') as ReadonlyMap<string, unknown>[];
    expect(groups.map((group) => group.get('weight_decay'))).toEqual([0.05, 0]);
    expect(groups[0]?.get('lr')).toBe(0.0015069359991004621);
    await close();
  });
});

describe('openPyTorch', () => {
  it('names the tensors below "model", and with another root those below that', async () => {
    const path = tinyPath('minigpt4_stage1.pth');
    const model = await openPyTorch(path);
    expect(model.names().slice(-2)).toEqual(['llama_proj.weight', 'llama_proj.bias']);
    expect(model.info('llama_proj.weight')).toEqual({
      name: 'llama_proj.weight',
      dtype: 'float32',
      shape: [64, 48],
    });
    await model.close();
    const optimizer = await openPyTorch(path, { root: 'optimizer' });
    expect(optimizer.names()).toEqual(
      ['0', '1'].flatMap((i) => ['step', 'exp_avg', 'exp_avg_sq'].map((name) => `state.${i}.${name}`)),
    );
    const { data } = await optimizer.read('state.0.step');
    expect(new Float32Array(data.buffer)[0]).toBe(40); // 4 epochs of 10 steps
    await optimizer.close();
    const all = await openPyTorch(path, { root: '' });
    expect(all.names()).toContain('model.llama_proj.bias');
    await all.close();
  });

  it('names the tensors of a bare state dict by its keys', async () => {
    const source = await openPyTorch(tinyPath('eva_vit_g.pth'));
    expect(source.info('blocks.0.attn.qkv.weight')).toMatchObject({ dtype: 'float16', shape: [192, 64] });
    expect(source.metadata).toEqual({});
    await source.close();
  });

  it('joins nested keys and positions in lists with dots', async () => {
    const source = await openPyTorch(pytorchPath('views-zip.pth'));
    expect(source.names()).toContain('net.transposed');
    expect(source.names().slice(-2)).toEqual(['list.0', 'list.1.x']);
    await source.close();
  });

  it('reads float16 shards as safetensors of float32 hold the same weights', async () => {
    const source = await openPyTorch(tinyPath('llm_sharded_fp16/pytorch_model-00003-of-00003.bin'));
    const whole = await openSafetensors(tinyPath('llm/model.safetensors'));
    for (const name of source.names().filter((name) => !name.endsWith('inv_freq'))) {
      expect(source.info(name).dtype).toBe('float16');
      expect(toFloat32(await source.read(name))).toEqual(toFloat32(await whole.read(name))); // all are float16s
    }
    await source.close();
    await whole.close();
  });

  it.each(['dtypes', 'views', 'checkpoint'])('reads the same %s in both formats', async (name) => {
    const zip = await openPyTorch(pytorchPath(`${name}-zip.pth`));
    const legacy = await openPyTorch(pytorchPath(`${name}-legacy.pth`));
    expect(await digests(zip)).toEqual(await digests(legacy));
    await zip.close();
    await legacy.close();
  });

  it('says which roots there are, and that a list has no names', async () => {
    await expect(openPyTorch(pytorchPath('checkpoint-zip.pth'), { root: 'net' })).rejects.toThrow(
      'must have tensors below "net", got "model", "optimizer", "config", "scaler", "epoch"',
    );
    await expect(openPyTorch(pytorchPath('list.pth'))).rejects.toThrow('must hold a dict, got a list of 1');
  });

  it('reads a view that repeats its one element up to a mebibyte, and gathers a matrix by its strides', async () => {
    const repeated = await openPyTorch(
      await zipFile(tensorPickle(1, 0, [512, 512], [0, 0]), { 0: floats(7) }),
    );
    const { data } = await repeated.read('w');
    expect(data.byteLength).toBe(2 ** 20);
    expect(new Float32Array(data.buffer).every((value) => value === 7)).toBe(true);
    await repeated.close();
    const storage = { 0: floats(0, 1, 2, 3, 4, 5, 6, 7) };
    const strided = await openPyTorch(await zipFile(tensorPickle(8, 1, [2, 3], [1, 2]), storage));
    expect(new Float32Array((await strided.read('w')).data.buffer)).toEqual(
      Float32Array.of(1, 3, 5, 2, 4, 6),
    );
    await strided.close();
  });

  it('says so when there is no file, or another kind of file', async () => {
    const folder = await temporaryFolder();
    await expect(openPyTorch(join(folder, 'no'))).rejects.toThrow('no such file or folder');
    await expect(openPyTorch(await temporaryFile('a', ''))).rejects.toThrow('must begin as torch.save');
    await expect(openPyTorch(await temporaryFile('a', 'version https://'))).rejects.toThrow('got 0x76657273');
  });

  it('ignores what follows the last storage of the old format, as torch does, but no missing byte', async () => {
    const whole = await readFile(pytorchPath('dtypes-legacy.pth'));
    const path = await temporaryFile('padded.pth', Buffer.concat([whole, Buffer.alloc(100_000)]));
    const source = await openPyTorch(path);
    expect(source.names()).toContain('float32');
    await source.close();
    await writeFile(path, whole.subarray(0, -1));
    await expect(openPyTorch(path)).rejects.toThrow('truncated?');
  });
});

async function opened(path: string): Promise<{ value: unknown; close: () => Promise<void> }> {
  const object = await readPyTorchObject(path);
  return { value: object.value, close: () => object.close() };
}
