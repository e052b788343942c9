/** What stops a run before its first step, on tiny models whose files were damaged on purpose. */
import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseConfig } from '../../src/config/load.js';
import { UserError } from '../../src/errors.js';
import { openSafetensors, writeSafetensors } from '../../src/model/weights/safetensors.js';
import { train } from '../../src/train/train.js';
import { tinyConfig, writeTinyModels, writeTinyShards } from '../helpers/tinyFolders.js';

let root: string;
let folders: { readonly encoder: string; readonly llm: string };
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'preflight-'));
  folders = await writeTinyModels(root);
  await writeTinyShards(join(root, 'shards'), 12);
});
afterAll(() => rm(root, { recursive: true }));

/** A copy of a model's folder with some tensors overwritten by one float32 value. */
async function damaged(folder: string, pattern: RegExp, value: number): Promise<string> {
  const copy = await mkdtemp(join(root, 'damaged-'));
  await cp(folder, copy, { recursive: true });
  const source = await openSafetensors(join(folder, 'model.safetensors'));
  const entries = source.names().map((name) => ({
    ...source.info(name),
    read: async () => {
      const { data } = await source.read(name);
      return pattern.test(name)
        ? new Uint8Array(new Float32Array(data.byteLength / 4).fill(value).buffer)
        : data;
    },
  }));
  await writeSafetensors(join(copy, 'model.safetensors'), entries);
  await source.close();
  return copy;
}

/** What a run tells. */
interface Told {
  /** The preflight's own. */
  readonly notes: string[];
  readonly losses: number[];
}

/** Takes one step of training. */
async function oneStep(run: string, models: Partial<typeof folders> = {}, ...set: string[]): Promise<Told> {
  const config = parseConfig(tinyConfig('pretrain', folders, root), 'tiny.yaml', {
    set: ['train.steps=1', 'train.schedule.warmupSteps=0', `run.folder=${join(root, 'runs', run)}`, ...set],
  });
  const notes: string[] = [];
  const losses: number[] = [];
  const events = {
    note: (text: string) => text.startsWith('preflight') && notes.push(text),
    step: ({ loss }: { readonly loss: number }) => losses.push(loss),
  };
  await train(config, { folders: { ...folders, ...models }, events });
  return { notes, losses };
}

describe('preflight', () => {
  it('tells labels, losses and how long it took, and changes nothing; a resumed run is not looked at again', async () => {
    const { notes, losses } = await oneStep('sound');
    const [table = '', alone = '', own = '', end = ''] = notes;
    const rows = table.split('\n').slice(1);
    expect(table).toMatch(/^preflight: sample tiny-\d+: \d+ target tokens/);
    expect(rows[0]).toMatch(/^ +5 {2}\(image\) +→ "a"$/); // BOS and a grid of 2 × 2 with its class token come before
    expect(rows.at(-1)).toMatch(/→ "\\n"$/);
    for (const [i, row] of rows.slice(1).entries())
      expect(
        row
          .split('→')[0]
          ?.trim()
          .replace(/^\d+ +/, ''),
      ).toBe(rows[i]?.split('→ ')[1]); // each label is read next
    expect(alone).toMatch(/without the image \d+\.\d\d; evenly guessed it would be 6\.40 = ln\(600\)/);
    const [, mine, theirs] = /with its image ([\d.]+), with another one ([\d.]+)$/.exec(own) ?? [];
    expect(Number(mine)).toBeGreaterThan(0);
    expect(Number(theirs)).not.toBe(Number(mine));
    expect(end).toMatch(/passed in \d+\.\d s/);
    const resumed = await oneStep('sound', {}, 'train.steps=2');
    expect(resumed.notes).toEqual([]);
    const without = await oneStep('without', {}, 'train.preflight=false');
    expect(without).toEqual({ notes: [], losses });
  });

  it.each([
    [
      'an LLM that ignores its input',
      () => damaged(folders.llm, /^lm_head|embed_tokens/, 0),
      'llm',
      /got a loss of 6\.40 at every token, 6\.40 = ln\(600\): the LLM ignores its input/,
    ],
    [
      'an LLM that computes no numbers',
      () => damaged(folders.llm, /layers\.0\.mlp\.down/, NaN),
      'llm',
      /the loss of a caption without image must be a number, got NaN \(model\.llm: are its weights whole/,
    ],
    [
      'an encoder that computes no numbers',
      () => damaged(folders.encoder, /layer\.0.*fc1\.weight/, NaN),
      'encoder',
      /features must be finite numbers, got others for tiny-\d+ \(model\.encoder/,
    ],
    [
      'an encoder that ignores its input',
      () => damaged(folders.encoder, /patch_embeddings\.projection\.weight/, 0),
      'encoder',
      /two images must have different features, got equal ones for tiny-\d+ and tiny-\d+/,
    ],
  ] as const)('refuses %s', async (name, make, part, message) => {
    const error: unknown = await oneStep(
      name,
      { [part]: await make() },
      'model.projection.standardise=false',
    ).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UserError);
    expect(error).toHaveProperty('message', expect.stringMatching(message));
  });

  it('refuses a projection that lets no image through', async () => {
    const options = 'model.projection={standardise: false, layerNorm: false}';
    await oneStep('stage1', {}, options);
    const file = join(root, 'zero.safetensors');
    const source = await openSafetensors(
      join(root, 'runs/stage1/checkpoints/step-00000001/projection.safetensors'),
    );
    const entries = source.names().map((name) => ({
      ...source.info(name),
      read: async () => new Uint8Array((await source.read(name)).data.byteLength),
    }));
    await writeSafetensors(file, entries);
    await source.close();
    await expect(oneStep('zero', {}, options, `train.initFrom=${file}`)).rejects.toThrow(
      /two images must become different soft prompts, got equal ones: the image does not reach the LLM/,
    );
  });
});
