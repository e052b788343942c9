import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { parseConfig } from '../../src/config/load.js';
import { UserError } from '../../src/errors.js';
import { openPyTorch } from '../../src/model/weights/pytorch.js';
import { openSafetensors, writeSafetensors } from '../../src/model/weights/safetensors.js';
import type { HostTensor } from '../../src/tensorflow/dtypes.js';
import { saveCheckpoint } from '../../src/train/checkpoint.js';
import { exportProjection } from '../../src/train/export.js';
import { readTensors, type NamedTensors } from '../../src/train/namedTensors.js';
import { Run } from '../../src/train/run.js';

let scratch = '';
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'export-'));
});
afterEach(() => rmSync(scratch, { recursive: true }));

const tensor = (shape: readonly number[], values: readonly number[]): HostTensor => ({
  dtype: 'float32',
  shape,
  data: new Uint8Array(Float32Array.from(values).buffer),
});
// D = 3, C = 2; values that only an exact copy keeps: -0, a denormal, the largest
const projection: NamedTensors = {
  'llama_proj.weight': tensor([3, 2], [1, -0, 1e-45, 3.4028234663852886e38, 0.1, -2]),
  'llama_proj.bias': tensor([3], [0.5, 0, -1]),
  'feature_norm.mean': tensor([2], [0.25, -4]),
  'feature_norm.std': tensor([2], [1, 2]),
};
const state = {
  seed: 3,
  configSha256: 'abc',
  versions: { node: 'v20', package: '0.1.0', tensorflow: '2.21.0' },
  cpu: 'a cpu',
  precision: 'bfloat16',
  threads: 2,
  parts: { encoder: 'e'.repeat(64), llm: 'f'.repeat(64), tokenizer: '0'.repeat(64) },
};
const save = (step: number, tensors = projection) =>
  saveCheckpoint(join(scratch, 'run'), { step, projection: tensors, optimizer: {}, state });
const out = () => join(scratch, 'deep', 'projection.safetensors');

async function writeFile(name: string, tensors: NamedTensors): Promise<string> {
  const file = join(scratch, name);
  await writeSafetensors(
    file,
    Object.entries(tensors).map(([key, { data, ...info }]) => ({ name: key, ...info, read: () => data })),
    { origin: 'elsewhere' },
  );
  return file;
}

describe('exportProjection', () => {
  it('writes every tensor of the newest checkpoint bit for bit, under the reference’s names', async () => {
    await save(5, { ...projection, 'llama_proj.bias': tensor([3], [9, 9, 9]) });
    await save(10);
    const { source, tensors } = await exportProjection(join(scratch, 'run'), out());
    expect(source).toContain('step-00000010');
    expect(tensors.map(({ name, shape }) => [name, shape])).toContainEqual(['llama_proj.weight', [3, 2]]);
    const written = await readTensors(out());
    expect(Object.keys(written).sort()).toEqual(Object.keys(projection).sort());
    for (const [name, { data }] of Object.entries(projection)) expect(written[name]?.data).toEqual(data);
  });

  it('says in the metadata which step, parts and normalisation it belongs to', async () => {
    const config = parseConfig(
      `
model: { encoderLayer: 10, projection: { standardise: true, layerNorm: true } }
data: { train: [{ shards: a }] }
train: { stage: pretrain, steps: 10, batchSize: 1, microBatchSize: 1, schedule: { peak: 1 } }
run: { folder: r }`,
      'c.yaml',
    );
    const run = await Run.open(join(scratch, 'run'), config);
    await run.close();
    await save(10);
    await exportProjection(join(scratch, 'run'), out());
    const file = await openSafetensors(out());
    await file.close();
    expect(file.metadata).toMatchObject({
      format: 'pt',
      step: '10',
      seed: '3',
      stage: 'pretrain',
      precision: 'bfloat16',
      'sha256.llm': 'f'.repeat(64),
      'features.encoder_layer': '10',
      'features.tokens': '{"kind":"grid","grid":2,"cls":true,"concat":1}',
      'features.standardise': 'true',
      'features.layer_norm': 'true',
    });
  });

  it('keeps the metadata of a file it is given', async () => {
    const { metadata } = await exportProjection(await writeFile('a.safetensors', projection), out());
    expect(metadata).toMatchObject({ origin: 'elsewhere', format: 'pt' });
  });

  it('replaces a file only when told to', async () => {
    const from = await save(1);
    await exportProjection(from, out());
    await expect(exportProjection(from, out())).rejects.toThrow(
      /must be a new file, got one that is there \(--force/,
    );
    await expect(exportProjection(from, out(), { force: true })).resolves.toMatchObject({ file: out() });
  });

  it('refuses a name that is no .safetensors', async () => {
    await expect(exportProjection(await save(1), join(scratch, 'x.bin'))).rejects.toThrow(
      /must end in \.safetensors, got .*x\.bin/,
    );
  });

  const plain: NamedTensors = {
    'llama_proj.weight': projection['llama_proj.weight'] ?? tensor([0, 0], []),
    'llama_proj.bias': projection['llama_proj.bias'] ?? tensor([0], []),
  };

  it.each([
    ['minigpt4', '.pth', 'llama_proj.'],
    ['llava', '.bin', 'model.mm_projector.'],
  ] as const)('writes %s files bit for bit, which open as such again', async (format, ending, prefix) => {
    await save(1, plain);
    const file = join(scratch, `projection${ending}`);
    await exportProjection(join(scratch, 'run'), file, { format });
    const opened = await openPyTorch(file, format === 'minigpt4' ? { root: 'model' } : {});
    expect(opened.names()).toEqual([`${prefix}weight`, `${prefix}bias`]);
    for (const part of ['weight', 'bias'])
      expect(await opened.read(`${prefix}${part}`)).toEqual(plain[`llama_proj.${part}`]);
    await opened.close();
    const back = join(scratch, 'back.safetensors');
    await exportProjection(file, back);
    expect((await readTensors(back))['llama_proj.weight']).toEqual(plain['llama_proj.weight']);
  });

  it('refuses to write normalised features for code that does not normalise', async () => {
    const from = await save(1);
    await expect(exportProjection(from, join(scratch, 'x.pth'), { format: 'minigpt4' })).rejects.toThrow(
      /format minigpt4 holds the layers only, got a projection after standardised features/,
    );
  });

  it('takes the projection out of MiniGPT-4’s own checkpoint and lists what it leaves', async () => {
    const official = join(import.meta.dirname, '../fixtures/minigpt4-tiny/weights/minigpt4_stage2.pth');
    const { tensors, ignored } = await exportProjection(official, out());
    expect(tensors.map(({ name, shape }) => [name, shape])).toEqual([
      ['llama_proj.weight', [64, 48]],
      ['llama_proj.bias', [64]],
    ]);
    expect(ignored).toContain('Qformer.bert.embeddings.position_ids');
  });

  it.each([
    [
      'no weight',
      { 'llama_proj.bias': tensor([1], [0]) },
      /must hold llama_proj\.weight and llama_proj\.bias/,
    ],
    [
      'a bias of another width',
      { ...projection, 'llama_proj.bias': tensor([2], [0, 0]) },
      /llama_proj\.bias must be \[3\] beside llama_proj\.weight \[3, 2\], got \[2\]/,
    ],
    [
      'a mean of another width',
      { ...projection, 'feature_norm.mean': tensor([3], [0, 0, 0]) },
      /feature_norm\.mean must be \[2\]/,
    ],
  ])('refuses a file with %s', async (_, tensors: NamedTensors, message) => {
    const error: unknown = await exportProjection(await writeFile('b.safetensors', tensors), out()).catch(
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(UserError);
    expect(error).toHaveProperty('message', expect.stringMatching(message));
  });

  it('refuses a damaged checkpoint', async () => {
    const folder = await save(1);
    writeFileSync(join(folder, 'projection.safetensors'), 'damaged');
    await expect(exportProjection(folder, out())).rejects.toThrow(/is damaged: SHA-256 must be/);
  });
});
