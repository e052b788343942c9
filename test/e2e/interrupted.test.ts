/** Runs that end in the middle of something other than a step: an evaluation, the last save. Tiny models, in this process. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseConfig } from '../../src/config/load.js';
import { UserError } from '../../src/errors.js';
import type { EvaluationContext, TrainOptions, TrainResult } from '../../src/train/options.js';
import { Interrupted, train } from '../../src/train/train.js';
import { MINIGPT4, start } from './commands.js';
import { tinyConfig, writeTinyModels, writeTinyShards } from '../helpers/tinyFolders.js';

let root: string;
let folders: { llm: string; encoder: string };
beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'minigpt4-interrupted-'));
  folders = await writeTinyModels(root);
  await writeTinyShards(join(root, 'shards'), 12);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const folderOf = (name: string): string => join(root, 'runs', name);

function run(
  name: string,
  set: readonly string[],
  options: Partial<TrainOptions> = {},
): Promise<TrainResult> {
  const config = parseConfig(tinyConfig('pretrain', folders, root), 'tiny.yaml', {
    set: ['data.featureCache=false', 'train.logEvery=1', `run.folder=${folderOf(name)}`, ...set],
  });
  return train(config, { folders, ...options });
}

/** The lines of a log without times. */
function linesOf(name: string, file: string): Record<string, unknown>[] {
  const lines = readFileSync(join(folderOf(name), file), 'utf8')
    .trimEnd()
    .split('\n');
  return lines.map((line) => {
    const record = JSON.parse(line) as Record<string, unknown>;
    return Object.fromEntries(Object.entries(record).filter(([key]) => !/^(time|speed)\//.test(key)));
  });
}

const SHORT = ['train.steps=4', 'train.schedule.warmupSteps=0'];

describe('a run interrupted in an evaluation', () => {
  const set = ['train.steps=8', 'train.evalEvery=4'];
  const evaluate = ({ step, run }: EvaluationContext): Promise<Record<string, number>> => {
    for (const id of ['a', 'b']) run.logSample(step, { id });
    return Promise.resolve({ 'eval/loss': step });
  };

  const threads = (): number =>
    process.getActiveResourcesInfo().filter((name) => name === 'MessagePort').length;

  /** Aborts while the evaluation after step 4 is under way, which then goes on for a while. */
  async function interrupt(name: string): Promise<void> {
    const stop = new AbortController();
    const threadsBefore = threads();
    let goOn = (): void => undefined;
    const waiting = new Promise<void>((resolve) => (goOn = resolve));
    const halves = async ({ step, run }: EvaluationContext): Promise<Record<string, number>> => {
      run.logSample(step, { id: 'a' });
      stop.abort();
      await waiting;
      run.logSample(step, { id: 'b' });
      return { 'eval/loss': step };
    };
    await expect(run(name, set, { evaluate: halves, signal: stop.signal })).rejects.toThrow(Interrupted);
    const left = linesOf(name, 'samples.jsonl');
    goOn();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(linesOf(name, 'samples.jsonl')).toEqual(left); // the folder may be another process's by now
    expect(existsSync(join(folderOf(name), 'run.lock'))).toBe(false);
    await expect.poll(threads, { timeout: 20_000 }).toBe(threadsBefore); // the one that computed ends with what it was at
  }

  it('does that evaluation again when it resumes, and ends as the one that was not', async () => {
    await run('whole', set, { evaluate });
    await interrupt('cut');
    await run('cut', set, { evaluate });
    for (const file of ['metrics.jsonl', 'samples.jsonl'])
      expect(linesOf('cut', file)).toEqual(linesOf('whole', file));
    expect(linesOf('cut', 'metrics.jsonl').filter((line) => 'eval/loss' in line)).toHaveLength(2);
  }, 60_000);

  it('does it once also where the resumed run is interrupted after it', async () => {
    await interrupt('twice');
    const stop = new AbortController();
    const first = { step: () => stop.abort() };
    await expect(run('twice', set, { evaluate, signal: stop.signal, events: first })).rejects.toThrow(
      Interrupted,
    );
    await run('twice', set, { evaluate });
    for (const file of ['metrics.jsonl', 'samples.jsonl'])
      expect(linesOf('twice', file)).toEqual(linesOf('whole', file));
  }, 60_000);
});

describe('a run that is told to stop', () => {
  const command = (name: string): string[] => [
    MINIGPT4,
    'pretrain',
    '--config',
    join(root, 'config.yaml'),
    ...[
      'data.featureCache=false',
      'train.steps=100000',
      'train.logEvery=1',
      `run.folder=${folderOf(name)}`,
    ].flatMap((one) => ['--set', one]),
  ];

  it('ends though it cannot save, and says so', async () => {
    await writeFile(join(root, 'config.yaml'), tinyConfig('pretrain', folders, root));
    const running = start('node', command('unsaved'));
    const metrics = join(folderOf('unsaved'), 'metrics.jsonl');
    await expect
      .poll(() => existsSync(metrics) && readFileSync(metrics, 'utf8'), { timeout: 30_000 })
      .toMatch(/"step":3,/);
    const checkpoints = join(folderOf('unsaved'), 'checkpoints');
    symlinkSync(checkpoints, checkpoints);
    running.child.kill('SIGTERM');
    const { code, stderr } = await running.finished;
    expect([code, stderr]).toEqual([143, stderr]);
    expect(stderr).toMatch(
      /not saved: .*its links lead in a circle.*the same command resumes at the last checkpoint/,
    );
  }, 60_000);
});

describe('the end of a run', () => {
  it('is a whole one though a signal comes while the last checkpoint is saved', async () => {
    const stop = new AbortController();
    const note = (text: string): void => {
      if (text.startsWith('waited for data')) stop.abort();
    };
    const before = process.getActiveResourcesInfo().filter((name) => name === 'MessagePort').length;
    const { step } = await run('end', SHORT, { signal: stop.signal, events: { note } });
    expect(step).toBe(4);
    expect(process.getActiveResourcesInfo().filter((name) => name === 'MessagePort')).toHaveLength(before); // no thread is left
  }, 60_000);

  it('saves nothing a second time: a finished run that is started again keeps its checkpoint', async () => {
    const first = await run('again', SHORT);
    const state = readFileSync(join(first.checkpoint, 'state.json'));
    const again = await run('again', [...SHORT, 'train.keepCheckpoints=9']); // which would change state.json
    expect(again).toEqual(first);
    expect(readFileSync(join(first.checkpoint, 'state.json'))).toEqual(state);
  }, 60_000);

  it('is an error, and no checkpoint, where the last steps have made the projection infinite', async () => {
    const failed = run('infinite', [
      'train.steps=3',
      'train.schedule.warmupSteps=0',
      'train.schedule.peak=1e39',
    ]);
    await expect(failed).rejects.toThrow(
      /must hold finite numbers, got others after step 3; it is not saved/,
    );
    expect(existsSync(join(folderOf('infinite'), 'checkpoints'))).toBe(false);
  }, 60_000);

  it('keeps what was learnt where the data end it', async () => {
    const step = (report: { step: number }): void => {
      if (report.step === 7) throw new UserError('data: over the budget');
    };
    const failed = run('learnt', ['train.steps=9', 'train.saveEvery=5'], { events: { step } });
    await expect(failed).rejects.toThrow('data: over the budget');
    expect(readdirSync(join(folderOf('learnt'), 'checkpoints'))).toEqual(['step-00000005', 'step-00000007']);
  }, 60_000);

  it('tells the reason for it, gives the folder back and leaves no thread, also when saving fails', async () => {
    const checkpoints = join(folderOf('fails'), 'checkpoints');
    const before = process.getActiveResourcesInfo().filter((name) => name === 'MessagePort').length;
    const step = (report: { step: number }): void => {
      if (report.step === 4) symlinkSync(checkpoints, checkpoints); // a folder that cannot be written to
      if (report.step === 7) throw new UserError('data: over the budget');
    };
    const notes: string[] = [];
    const note = (text: string): void => void notes.push(text);
    const failed = run('fails', ['train.steps=9', 'train.saveEvery=5'], { events: { step, note } });
    await expect(failed).rejects.toThrow('data: over the budget');
    const unsaved = notes.filter((text) => text.startsWith('not saved'));
    expect(unsaved).toHaveLength(2); // at step 5, and at the end
    expect(unsaved[0]).toMatch(/its links lead in a circle .*tries again in 5 steps/);
    expect(existsSync(join(folderOf('fails'), 'run.lock'))).toBe(false);
    expect(process.getActiveResourcesInfo().filter((name) => name === 'MessagePort')).toHaveLength(before);
  }, 60_000);
});
