/** The logits of an exported projection against its source's, through a tiny LLM. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseConfig } from '../../src/config/load.js';
import { exportProjection } from '../../src/train/export.js';
import { probeLogits } from '../../src/train/exportProbe.js';
import { readTensors, type NamedTensors } from '../../src/train/namedTensors.js';
import { train } from '../../src/train/train.js';
import { tinyConfig, writeTinyModels, writeTinyShards } from '../helpers/tinyFolders.js';

let root: string;
let folders: { readonly encoder: string; readonly llm: string };
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'probe-'));
  folders = await writeTinyModels(root);
  await writeTinyShards(join(root, 'shards'), 4);
});
afterAll(() => rm(root, { recursive: true }));

describe('probe', () => {
  it('an export gives the very logits, and one changed weight is noticed', async () => {
    const run = join(root, 'runs', 'mlp');
    const config = parseConfig(tinyConfig('pretrain', folders, root), 'tiny.yaml', {
      set: [
        'train.steps=1',
        'train.schedule.warmupSteps=0',
        'model.projection.kind=mlp2x_gelu',
        `run.folder=${run}`,
      ],
    });
    await train(config, { folders });
    const out = join(root, 'mlp.safetensors');
    const { probe, tensors } = await exportProjection(run, out, {
      llmFolder: ({ model }) => Promise.resolve(model.llm),
    });
    expect(tensors).toHaveLength(6); // four trained, two statistics
    expect(probe?.logits).toBeGreaterThan(10 * 600); // some ten targets and 600 pieces
    expect(probe?.largest).toBeGreaterThan(0.1);
    const written = await readTensors(out);
    const changed = { ...written, ...forged(written, 'llama_proj.2.bias') };
    await expect(probeLogits(config, folders.llm, [written, changed])).rejects.toThrow(
      /the file must give the logits of its source, got -?[\d.e-]+ instead of -?[\d.e-]+ at number/,
    );
  });

  it('a file of no known run is not probed', async () => {
    const out = join(root, 'again.safetensors');
    const { probe } = await exportProjection(join(root, 'mlp.safetensors'), out, {
      llmFolder: () => Promise.reject(new Error('must not be asked')),
    });
    expect(probe).toBeUndefined();
  });
});

/** A tensor with its first value larger by one. */
function forged(tensors: NamedTensors, name: string): NamedTensors {
  const tensor = tensors[name];
  if (!tensor) throw new Error(`the export must hold ${name}`);
  const data = tensor.data.slice();
  const view = new DataView(data.buffer);
  view.setFloat32(0, view.getFloat32(0, true) + 1, true);
  return { [name]: { ...tensor, data } };
}
