/** Runs that end in the middle of something other than a step: an evaluation, the last save. Tiny models, in this process. */
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseConfig } from '../../src/config/load.js';
import { UserError } from '../../src/errors.js';
import type { EvaluationContext, TrainOptions, TrainResult } from '../../src/train/options.js';
import { Interrupted, train } from '../../src/train/train.js';
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

  /** Aborts while the evaluation after step 4 is under way, which then goes on for a while. */
  async function interrupt(name: string): Promise<void> {
    const stop = new AbortController();
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

  it('tells the reason for it, gives the folder back and leaves no thread, also when saving fails', async () => {
    const checkpoints = join(folderOf('fails'), 'checkpoints');
    const before = process.getActiveResourcesInfo().filter((name) => name === 'MessagePort').length;
    const step = (report: { step: number }): void => {
      if (report.step === 4) symlinkSync(checkpoints, checkpoints); // a folder that cannot be written to
      if (report.step === 7) throw new UserError('data: over the budget');
    };
    const failed = run('fails', ['train.steps=9', 'train.saveEvery=5'], { events: { step } });
    await expect(failed).rejects.toThrow('data: over the budget');
    expect(existsSync(join(folderOf('fails'), 'run.lock'))).toBe(false);
    expect(process.getActiveResourcesInfo().filter((name) => name === 'MessagePort')).toHaveLength(before);
  }, 60_000);
});
