import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { UserError } from '../../src/errors.js';
import {
  findProjection,
  latestCheckpoint,
  loadCheckpoint,
  removeLeftovers,
  saveCheckpoint,
  type CheckpointContents,
} from '../../src/train/checkpoint.js';
import { cpuKind, stateDifferences, type CheckpointState } from '../../src/train/checkpointState.js';
import type { HostTensor } from '../../src/tensorflow/dtypes.js';

let run = '';
beforeEach(() => {
  run = mkdtempSync(join(tmpdir(), 'checkpoint-'));
});
afterEach(() => rmSync(run, { recursive: true }));

const state: CheckpointState = {
  seed: 3,
  configSha256: 'abc',
  versions: { node: 'v20', package: '0.1.0', tensorflow: '2.21.0' },
  cpu: 'a cpu',
  precision: 'float32',
  threads: 2,
  parts: { encoder: 'e', llm: 'l', tokenizer: 't' },
};

function tensor(values: readonly number[], shape = [values.length]): HostTensor {
  return { dtype: 'float32', shape, data: new Uint8Array(Float32Array.from(values).buffer) };
}

function contents(step: number): CheckpointContents {
  return {
    step,
    projection: {
      'llama_proj.weight': tensor([1, 2, 3, 4, 5, step], [3, 2]),
      'llama_proj.bias': tensor([0.1, -0, NaN]),
    },
    optimizer: { step: { dtype: 'int32', shape: [], data: new Uint8Array(Int32Array.of(step).buffer) } },
    state,
  };
}

const checkpoints = () => readdirSync(join(run, 'checkpoints')).sort();

describe('a checkpoint', () => {
  it('is read as it was saved, bit for bit', async () => {
    const folder = await saveCheckpoint(run, contents(500));
    expect(folder).toBe(join(run, 'checkpoints/step-00000500'));
    expect(readdirSync(folder).sort()).toEqual([
      'optimizer.safetensors',
      'projection.safetensors',
      'state.json',
    ]);
    const loaded = await loadCheckpoint(folder);
    const hex = (tensors: Record<string, HostTensor>) =>
      Object.entries(tensors)
        .map(([name, { dtype, shape, data }]) => [name, dtype, shape, Buffer.from(data).toString('hex')])
        .sort();
    expect(hex(loaded.projection)).toEqual(hex(contents(500).projection));
    expect(hex(loaded.optimizer)).toEqual(hex(contents(500).optimizer));
    expect(loaded.step).toBe(500);
    expect(loaded.state).toMatchObject({ formatVersion: 1, step: 500, ...state });
  });

  it('replaces the one of the same step', async () => {
    await saveCheckpoint(run, contents(5));
    const folder = await saveCheckpoint(run, { ...contents(5), state: { ...state, seed: 9 } });
    expect((await loadCheckpoint(folder)).state.seed).toBe(9);
    expect(checkpoints()).toEqual(['step-00000005']);
  });

  it('is followed by the removal of all but the newest', async () => {
    for (const step of [8, 9, 10, 11]) await saveCheckpoint(run, contents(step), { keep: 2 });
    expect(checkpoints()).toEqual(['step-00000010', 'step-00000011']);
    expect(await latestCheckpoint(run)).toBe(join(run, 'checkpoints/step-00000011'));
  });

  it('stays as well when its step is a multiple of keepEvery', async () => {
    for (const step of [5, 10, 15, 20, 25, 30])
      await saveCheckpoint(run, contents(step), { keep: 1, keepEvery: 10 });
    expect(checkpoints()).toEqual(['step-00000010', 'step-00000020', 'step-00000030']);
  });

  it('is the newest by number, also past eight digits', async () => {
    for (const step of [99_999_999, 100_000_000]) await saveCheckpoint(run, contents(step));
    expect(await latestCheckpoint(run)).toBe(join(run, 'checkpoints/step-100000000'));
  });

  it('of 2 MB is saved in well under a second', async () => {
    const large = new Uint8Array(700_000);
    const big = { dtype: 'float32' as const, shape: [175_000], data: large };
    const start = performance.now();
    await saveCheckpoint(run, { ...contents(1), projection: { w: big }, optimizer: { m: big, v: big } });
    expect(performance.now() - start).toBeLessThan(1000); // SIGTERM must save and be gone within 2 s
  });

  it('that a process died over is no checkpoint, and is removed at the next start', async () => {
    await saveCheckpoint(run, contents(1));
    const left = join(run, 'checkpoints/.step-00000002.1234abcd.tmp');
    mkdirSync(left);
    writeFileSync(join(left, 'projection.safetensors'), 'half');
    expect(await latestCheckpoint(run)).toBe(join(run, 'checkpoints/step-00000001'));
    await removeLeftovers(run);
    expect(checkpoints()).toEqual(['step-00000001']);
  });

  it('that a process died over while it replaced it is put back at the next start', async () => {
    await saveCheckpoint(run, contents(1));
    renameSync(join(run, 'checkpoints/step-00000001'), join(run, 'checkpoints/.step-00000001.replaced.tmp'));
    await removeLeftovers(run);
    expect(checkpoints()).toEqual(['step-00000001']);
    expect((await loadCheckpoint(join(run, 'checkpoints/step-00000001'))).step).toBe(1);
  });

  it('that a process died over after it was replaced, or deleted as too old, goes', async () => {
    await saveCheckpoint(run, contents(2));
    for (const left of ['.step-00000002.replaced.tmp', '.step-00000001.old.tmp'])
      cpSync(join(run, 'checkpoints/step-00000002'), join(run, 'checkpoints', left), { recursive: true });
    await removeLeftovers(run);
    expect(checkpoints()).toEqual(['step-00000002']);
  });

  it('leaves nothing of the run’s own files beside it either, and what is another’s alone', async () => {
    const names = [
      '.config.yaml.1234abcd.tmp',
      '.ledger.jsonl.1234abcd.tmp',
      '.projection.safetensors.1.tmp',
    ];
    for (const name of [...names, 'config.yaml']) writeFileSync(join(run, name), 'half');
    await removeLeftovers(run, ['config.yaml', 'ledger.jsonl']);
    expect(readdirSync(run).sort()).toEqual(['.projection.safetensors.1.tmp', 'config.yaml']);
  });

  it('of a run that has none is undefined, not an error', async () => {
    expect(await latestCheckpoint(run)).toBeUndefined();
    await removeLeftovers(run);
  });
});

describe('a damaged checkpoint is refused with the file and what to do', () => {
  const damage: [string, (folder: string) => void, RegExp][] = [
    [
      'a flipped bit',
      (folder) => {
        const file = join(folder, 'projection.safetensors');
        const bytes = readFileSync(file);
        bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
        writeFileSync(file, bytes);
      },
      /projection\.safetensors: is damaged: SHA-256 must be [0-9a-f]{64}, got [0-9a-f]{64} \(delete this checkpoint/,
    ],
    [
      'a cut file',
      (f) => writeFileSync(join(f, 'optimizer.safetensors'), ''),
      /optimizer\.safetensors: is damaged/,
    ],
    [
      'a missing file',
      (f) => rmSync(join(f, 'optimizer.safetensors')),
      /optimizer\.safetensors: no such file/,
    ],
    ['a missing state', (f) => rmSync(join(f, 'state.json')), /state\.json: no such file/],
    [
      'a state that is cut',
      (f) => writeFileSync(join(f, 'state.json'), '{"form'),
      /state\.json: is damaged: it must be JSON/,
    ],
    [
      'a state of another format',
      (f) => writeFileSync(join(f, 'state.json'), '{"formatVersion": 2}'),
      /state\.json: formatVersion must be 1, got 2 \(it was written by another version/,
    ],
    [
      'a state without its step',
      (f) => writeFileSync(join(f, 'state.json'), '{"formatVersion": 1}'),
      /state\.json: is damaged: state must have required property/,
    ],
  ];
  it.each(damage)('%s', async (_name, harm, message) => {
    const folder = await saveCheckpoint(run, contents(7));
    harm(folder);
    await expect(loadCheckpoint(folder)).rejects.toThrow(message);
    await expect(loadCheckpoint(folder)).rejects.toThrow(UserError);
  });
});

describe('the projection of a path', () => {
  it('is that of a run’s newest checkpoint, of a checkpoint, or a file', async () => {
    await saveCheckpoint(run, contents(1));
    const folder = await saveCheckpoint(run, contents(2));
    const file = join(folder, 'projection.safetensors');
    for (const path of [run, folder, file]) expect(await findProjection(path)).toBe(file);
  });

  it('of anything else is an error that says what it must be', async () => {
    writeFileSync(join(run, 'a.txt'), '');
    await expect(findProjection(join(run, 'no'))).rejects.toThrow(
      "must be a run, a checkpoint or a projection's file, got nothing",
    );
    await expect(findProjection(join(run, 'a.txt'))).rejects.toThrow('got another file');
    await expect(findProjection(run)).rejects.toThrow('must hold a checkpoint, got none');
  });

  it('in a checkpoint is verified', async () => {
    const folder = await saveCheckpoint(run, contents(2));
    writeFileSync(join(folder, 'projection.safetensors'), 'x');
    await expect(findProjection(run)).rejects.toThrow(/is damaged/);
  });
});

describe('a resume elsewhere', () => {
  it('says what differs', () => {
    const now = {
      ...state,
      threads: 4,
      versions: { ...state.versions, node: 'v22' },
      parts: { ...state.parts, llm: 'x' },
    };
    expect(stateDifferences(state, now)).toEqual([
      'threads: 2 in the checkpoint, 4 now',
      'version of node: v20 in the checkpoint, v22 now',
      'SHA-256 of llm: l in the checkpoint, x now',
    ]);
    expect(stateDifferences(state, state)).toEqual([]);
    const older = { ...state, threads: 0 }; // "all": it does not say how many those were
    expect(stateDifferences(older, { ...state, threads: 4 })).toEqual([]);
    expect(cpuKind()).not.toBe('');
  });
});
