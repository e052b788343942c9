/** Runs that are killed end as the run that was not: the built command, tiny random models, real SIGKILLs. */
import { cpSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tinyConfig, writeTinyModels, writeTinyShards } from '../helpers/tinyFolders.js';
import { MINIGPT4, run, sha256, start } from './commands.js';

const LAST = join('checkpoints', 'step-00000060');
let root: string;

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'minigpt4-resume-'));
  const folders = await writeTinyModels(root);
  await writeTinyShards(join(root, 'shards'), 40);
  for (const stage of ['pretrain', 'finetune'] as const)
    await writeFile(join(root, `${stage}.yaml`), tinyConfig(stage, folders, root));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const command = (stage: string): string[] => [MINIGPT4, stage, '--config', join(root, `${stage}.yaml`)];

/** Kills the run once it has logged a step at or after `step`; false if it ended before. */
async function killAfter(
  stage: string,
  folder: string,
  step: number,
  signal: NodeJS.Signals,
): Promise<boolean> {
  const running = start('node', command(stage));
  const metrics = join(folder, 'metrics.jsonl');
  while (running.child.exitCode === null && lastStep(metrics) < step) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  running.child.kill(signal);
  const { signal: by } = await running.finished;
  return by === signal;
}

function lastStep(file: string): number {
  if (!existsSync(file)) return 0;
  const line = readFileSync(file, 'utf8').trimEnd().split('\n').at(-1) ?? '';
  return Number(/"step":(\d+)/.exec(line)?.[1] ?? 0);
}

/** Logged values without times and speeds, which differ by nature. */
function metricsOf(folder: string): unknown[] {
  return readFileSync(join(folder, 'metrics.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) =>
      Object.fromEntries(
        Object.entries(JSON.parse(line) as object).filter(([key]) => !/^(time|speed)\//.test(key)),
      ),
    );
}

describe('a run that is killed', () => {
  it('ends with the projection, moments and metrics of the unbroken run, bit for bit, in stage 2 as in stage 1', async () => {
    await run('node', command('pretrain')); // killed in kills.test.ts
    const folder = join(root, 'runs', 'stage2');
    await run('node', command('finetune'));
    cpSync(folder, `${folder}-unbroken`, { recursive: true });
    rmSync(folder, { recursive: true });
    let kills = 0;
    for (const step of [7, 23, 24, 48]) if (await killAfter('finetune', folder, step, 'SIGKILL')) kills++;
    expect(kills).toBeGreaterThanOrEqual(3);
    await run('node', command('finetune'));
    for (const file of ['projection.safetensors', 'optimizer.safetensors'])
      expect([file, sha256(join(folder, LAST, file))]).toEqual([
        file,
        sha256(join(`${folder}-unbroken`, LAST, file)),
      ]);
    expect(metricsOf(folder)).toEqual(metricsOf(`${folder}-unbroken`));
    expect(readdirSync(join(folder, 'checkpoints')).filter((entry) => entry.startsWith('.'))).toEqual([]);
  }, 300_000);

  it('gives the same projection with the feature cache off, another prefetch, other workers and two micro-batches at a time', async () => {
    const folder = join(root, 'runs', 'uncached');
    const other = ['data.featureCache=false', 'data.prefetch=1', 'data.workers=1', 'model.concurrency=2'];
    const set = [`run.folder=${folder}`, ...other];
    await run('node', [...command('pretrain'), ...set.flatMap((value) => ['--set', value])]);
    const file = join(LAST, 'projection.safetensors');
    expect(sha256(join(folder, file))).toBe(sha256(join(root, 'runs', 'stage1', file)));
  }, 120_000);

  it('refuses another learning rate on resume and names it', async () => {
    const { stderr } = await run('node', [...command('pretrain'), '--set', 'train.schedule.peak=0.5'], {
      code: 2,
    });
    expect(stderr).toContain('train.schedule.peak');
    expect(stderr).not.toContain('    at ');
  }, 60_000);
});
