import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { parseConfig } from '../../src/config/load.js';
import type { Config } from '../../src/config/schema.js';
import { UserError } from '../../src/errors.js';
import type { CheckpointContents } from '../../src/train/checkpoint.js';
import { configHash, forbiddenChanges, Run } from '../../src/train/run.js';

const text = `
data: { train: [{ shards: shards/a }] }
train: { stage: pretrain, steps: 100, batchSize: 8, microBatchSize: 4, keepCheckpoints: 2, schedule: { peak: 1e-3 } }
run: { folder: unused }
`;
const configWith = (...set: string[]): Config => parseConfig(text, 'c.yaml', { set });

let parent = '';
let folder = '';
beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), 'run-'));
  folder = join(parent, 'deep/run');
});
afterEach(() => rmSync(parent, { recursive: true }));

function contents(step: number): CheckpointContents {
  const parts = { encoder: 'e', llm: 'l', tokenizer: 't' };
  const versions = { node: process.version, package: '0.1.0', tensorflow: '2.21.0' };
  const state = {
    seed: 0,
    configSha256: configHash(configWith()),
    versions,
    cpu: 'c',
    precision: 'float32',
    threads: 2,
    parts,
  };
  const bias = { dtype: 'float32' as const, shape: [1], data: new Uint8Array(Float32Array.of(step).buffer) };
  return { step, projection: { 'llama_proj.bias': bias }, optimizer: {}, state };
}

/** A run that logged 3 steps, saved at the second and was killed after the third: its lock is that of a dead pid. */
async function killedRun(config = configWith()): Promise<void> {
  const run = await Run.open(folder, config);
  run.log(1, { 'train/loss': 3 });
  run.log(2, { 'train/loss': 2 });
  run.logSample(2, { id: 'a', caption: 'a cat' });
  await run.save(contents(2));
  run.log(3, { 'train/loss': 1 });
  run.logSample(3, { id: 'a', caption: 'a dog' });
  await run.close();
  writeFileSync(join(folder, 'metrics.jsonl'), '{"step":', { flag: 'a' });
  writeFileSync(join(folder, 'run.lock'), '{"pid":');
}

const metrics = () => readFileSync(join(folder, 'metrics.jsonl'), 'utf8');

describe('a fresh run', () => {
  it('makes its folder with the resolved configuration and its sinks', async () => {
    const run = await Run.open(folder, configWith());
    expect(run.checkpoint).toBeUndefined();
    run.log(1, { 'train/loss': 4.5, 'train/lr': 1e-3 });
    expect(readdirSync(folder).sort()).toEqual([
      'config.yaml',
      'metrics.jsonl',
      'run.lock',
      'samples.jsonl',
      'tensorboard',
    ]);
    await run.close();
    expect(existsSync(join(folder, 'run.lock'))).toBe(false);
    expect(metrics()).toBe('{"step":1,"train/loss":4.5,"train/lr":0.001}\n');
    expect(readFileSync(join(folder, 'config.yaml'), 'utf8')).toContain('microBatchSize: 4\n');
  });

  it('cannot be opened twice', async () => {
    const run = await Run.open(folder, configWith());
    await expect(Run.open(folder, configWith())).rejects.toThrow('the run is in use');
    await run.close();
  });

  it('does not touch a folder with a config.yaml that is not a run’s', async () => {
    writeFileSync(join(parent, 'config.yaml'), text);
    await expect(Run.open(parent, configWith())).rejects.toThrow('must be a run folder or a new one');
    expect(readFileSync(join(parent, 'config.yaml'), 'utf8')).toBe(text);
    expect(existsSync(join(parent, 'run.lock'))).toBe(false);
  });

  it('in a place where no folder can be made is the user’s to mend', async () => {
    writeFileSync(join(parent, 'file'), '');
    await expect(Run.open(join(parent, 'file/run'), configWith())).rejects.toThrow(UserError);
  });
});

describe('a run that was killed', () => {
  it('resumes from its checkpoint, and what was logged after it is cut', async () => {
    await killedRun();
    const run = await Run.open(folder, configWith());
    expect(run.checkpoint?.step).toBe(2);
    expect(run.checkpoint?.projection['llama_proj.bias']?.data).toEqual(
      contents(2).projection['llama_proj.bias']?.data,
    );
    run.log(3, { 'train/loss': 1.5 });
    await run.close();
    expect(metrics()).toBe(
      '{"step":1,"train/loss":3}\n{"step":2,"train/loss":2}\n{"step":3,"train/loss":1.5}\n',
    );
    expect(readFileSync(join(folder, 'samples.jsonl'), 'utf8')).toBe(
      '{"step":2,"id":"a","caption":"a cat"}\n',
    );
    expect(readdirSync(join(folder, 'tensorboard'))).toHaveLength(2);
  });

  it('before its first checkpoint starts anew, also with another configuration', async () => {
    const first = await Run.open(folder, configWith());
    first.log(0, { 'eval/loss': 9 });
    await first.close();
    const run = await Run.open(folder, configWith('train.batchSize=16'), { fresh: true });
    expect(run.checkpoint).toBeUndefined();
    await run.close();
    expect(metrics()).toBe('');
  });

  it('is not resumed with --fresh', async () => {
    await killedRun();
    const opened = Run.open(folder, configWith(), { fresh: true });
    await expect(opened).rejects.toThrow(
      `--fresh: ${folder} must hold no checkpoint, got ${folder}/checkpoints/step-00000002`,
    );
    expect(metrics()).toContain('"step":3'); // nothing was cut
  });

  it('resumes with more steps and other logging, and says so in its configuration', async () => {
    await killedRun();
    const changed = configWith(
      'train.steps=200',
      'train.logEvery=1',
      'evaluate.captions=3',
      'data.heldOut.shards=b',
    );
    await (await Run.open(folder, changed)).close();
    expect(readFileSync(join(folder, 'config.yaml'), 'utf8')).toContain('steps: 200\n');
  });

  it('is not resumed with what would change its result; every such field is named', async () => {
    await killedRun();
    const opened = Run.open(folder, configWith('train.batchSize=16', 'run.seed=1', 'model.encoderLayer=10'));
    await expect(opened).rejects.toThrow(UserError);
    await expect(opened).rejects.toThrow(
      [
        `${folder}/config.yaml: the run must resume as it began (undo the change, or choose another --run), got`,
        'model.encoderLayer: nothing in the run, 10 now',
        'run.seed: 0 in the run, 1 now',
        'train.batchSize: 8 in the run, 16 now',
      ].join('\n'),
    );
    expect(existsSync(join(folder, 'run.lock'))).toBe(false);
  });

  it('keeps as many checkpoints as the configuration says', async () => {
    const run = await Run.open(folder, configWith());
    for (const step of [1, 2, 3]) await run.save(contents(step));
    await run.close();
    expect(readdirSync(join(folder, 'checkpoints')).sort()).toEqual(['step-00000002', 'step-00000003']);
  });
});

describe('forbidden changes', () => {
  it('see lists, whatever their length', () => {
    const two = configWith('data.train.1.shards=b');
    expect(forbiddenChanges(configWith(), two)).toEqual([
      'data.train.1.prompt: nothing in the run, "none" now',
      'data.train.1.shards: nothing in the run, "b" now',
      'data.train.1.weight: nothing in the run, 1 now',
    ]);
    expect(forbiddenChanges(two, two)).toEqual([]);
  });

  it('do not depend on the order of keys', () => {
    const reordered = parseConfig(
      `run: { folder: x }\n${text.replace('run: { folder: unused }', '')}`,
      'c.yaml',
    );
    expect(forbiddenChanges(configWith(), reordered)).toEqual([]);
    expect(configHash({ ...reordered, run: configWith().run })).toBe(configHash(configWith()));
  });
});
