/** SIGTERM in the middle of a long step of the real model: the last whole step is saved and the process is gone within 2 s. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { packEmoji } from '../../../src/data/importers/emoji.js';
import { MINIGPT4, start } from '../commands.js';

let root: string;
beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'minigpt4-signal-'));
  await packEmoji(join(root, 'shards'), { views: 1 });
}, 120_000);
afterAll(() => rmSync(root, { recursive: true, force: true }));

it('saves and ends within 2 s, exit code 143, and the same command resumes after the saved step', async () => {
  const run = join(root, 'runs', 'stage1');
  const settings = [
    `data.train.0.shards=${join(root, 'shards', 'stage1-train')}`,
    `data.heldOut.shards=${join(root, 'shards', 'stage1-held-out')}`,
    'data.train.0.maxRows=16',
    'train.batchSize=192',
    'train.microBatchSize=192',
    'model.precision=float32', // slow enough also where bfloat16 is native
    'model.projection.standardise=false',
    'train.logEvery=1',
    'train.steps=50',
  ];
  const command = [
    MINIGPT4,
    'pretrain',
    '--config',
    'configs/quickstart/stage1.yaml',
    '--run',
    run,
    ...settings.flatMap((value) => ['--set', value]),
  ];
  const running = start('node', command);
  const metrics = join(run, 'metrics.jsonl');
  const logged = (): string => {
    try {
      return readFileSync(metrics, 'utf8');
    } catch {
      return '';
    }
  };
  while (!logged().includes('"step":2')) await new Promise((resolve) => setTimeout(resolve, 20));
  await new Promise((resolve) => setTimeout(resolve, 300)); // well inside step 3, which takes seconds
  const sent = performance.now();
  running.child.kill('SIGTERM');
  const { code, stdout, stderr } = await running.finished;
  const tookMs = performance.now() - sent;
  const steps = [...logged().matchAll(/"time\/step_ms":([\d.]+)/g)].map(([, ms]) => Number(ms));
  expect(Math.min(...steps)).toBeGreaterThan(1000); // else the signal may have fallen between two steps
  expect({ code, fast: tookMs < 2000 }, `${tookMs} ms\n${stdout}\n${stderr}`).toEqual({
    code: 143,
    fast: true,
  });
  expect(stdout + stderr).toMatch(/saved .*step-00000002/);

  const again = start('node', command);
  await again.said(/resumes after step 2/);
  again.child.kill('SIGKILL');
  await again.finished;
}, 300_000);
