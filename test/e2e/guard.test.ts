/** Steps that must not move the weights: whole training runs on tiny models, in which some losses are spoilt. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { parseConfig } from '../../src/config/load.js';
import type { SkippedStep } from '../../src/data/ledger.js';
import { UserError } from '../../src/errors.js';
import { LanguageModel, type MicroBatch } from '../../src/model/language/languageModel.js';
import { Interrupted, train } from '../../src/train/train.js';
import type { TrainOptions } from '../../src/train/options.js';
import { tinyConfig, writeTinyModels, writeTinyShards } from '../helpers/tinyFolders.js';
import { sha256 } from './commands.js';

let root: string;
let folders: { llm: string; encoder: string };
beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'minigpt4-guard-'));
  folders = await writeTinyModels(root);
  await writeTinyShards(join(root, 'shards'), 12);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));
afterEach(() => vi.restoreAllMocks());

const STEPS = 30;
const folderOf = (name: string): string => join(root, 'runs', name);
const projectionOf = (name: string): string =>
  join(folderOf(name), `checkpoints/step-000000${STEPS}/projection.safetensors`);

function run(name: string, set: readonly string[] = [], options: Partial<TrainOptions> = {}) {
  const config = parseConfig(tinyConfig('pretrain', folders, root), 'tiny.yaml', {
    set: [
      `train.steps=${STEPS}`,
      'train.guard.window=8',
      'data.prefetch=2',
      'data.featureCache=false',
      `run.folder=${folderOf(name)}`,
      ...set,
    ],
  });
  return train(config, { folders, ...options });
}

/** Spoils the loss of every micro-batch that holds a certain sample: what it becomes is a function of what it was. */
function spoil(spoilt: (batch: MicroBatch) => boolean, become: (loss: number) => number): void {
  const original = LanguageModel.prototype.lossAndGradients; // eslint-disable-line @typescript-eslint/unbound-method
  vi.spyOn(LanguageModel.prototype, 'lossAndGradients').mockImplementation(async function (
    this: LanguageModel,
    projection,
    batch,
  ) {
    const unit = await original.call(this, projection, batch);
    return spoilt(batch) ? { ...unit, lossSum: become(unit.lossSum) } : unit;
  });
}

/** Whether a batch holds the picture whose caption is the longest: "a picture of number 10" or 11. */
function holdsLongest({ sequence }: MicroBatch): boolean {
  return sequence.targetIds.length > 2 * 9;
}

function skippedSteps(name: string): SkippedStep[] {
  const lines = readFileSync(join(folderOf(name), 'ledger.jsonl'), 'utf8')
    .trimEnd()
    .split('\n');
  return lines.map((line) => JSON.parse(line) as SkippedStep);
}

function metricsOf(name: string): Record<string, unknown>[] {
  const lines = readFileSync(join(folderOf(name), 'metrics.jsonl'), 'utf8')
    .trimEnd()
    .split('\n');
  return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
}

describe('a spoilt step', () => {
  it.each([
    ['NaN', () => NaN, /^loss NaN$/],
    [
      'far above the others',
      (loss: number) => loss * 50,
      /^loss \d+\.\d+, at most .* by the last 8 with median 6\./,
    ],
  ])('with a loss that is %s is not applied, and its samples are named', async (kind, become, reason) => {
    let unit = 0;
    spoil(() => unit++ === 26, become); // of two units a step: in the 14th
    await run(kind);
    const skipped = skippedSteps(kind);
    expect(skipped).toHaveLength(1);
    expect(skipped[0]?.step).toBe(14);
    expect(skipped[0]?.reason).toMatch(reason);
    expect(skipped[0]?.samples).toHaveLength(4);
    expect(skipped[0]?.samples[0]?.id).toMatch(/^tiny-\d+$/);
    expect(
      metricsOf(kind)
        .filter((line) => 'train/skipped' in line)
        .map(({ step }) => step),
    ).toEqual([14]);
    // The weights are those of a run in which that step never was, so both kinds end alike.
    expect(sha256(projectionOf(kind))).toBe(sha256(projectionOf('NaN')));
  });

  it('is skipped again, and not learnt from, when the run is interrupted and resumed around it', async () => {
    const spoilTwo = (): void => spoil(holdsLongest, () => NaN);
    const quiet = ['train.guard.stopAfter=99'];
    spoilTwo();
    await run('whole', quiet);
    expect(skippedSteps('whole').length).toBeGreaterThan(3);
    for (const stopAt of [9, 17]) {
      const stop = new AbortController();
      const events = {
        step: ({ step }: { step: number }) => {
          if (step === stopAt) stop.abort();
        },
      };
      await expect(run('broken', quiet, { signal: stop.signal, events })).rejects.toThrow(Interrupted);
    }
    await run('broken', quiet);
    expect(sha256(projectionOf('broken'))).toBe(sha256(projectionOf('whole')));
    expect(skippedSteps('broken')).toEqual(skippedSteps('whole'));
  });

  it('three times in a row stops the run with a diagnosis; what it has learnt is saved, and it can go on', async () => {
    let unit = 0;
    spoil(
      () => ++unit > 20,
      () => Infinity,
    );
    const stopped = run('stopped');
    await expect(stopped).rejects.toThrow(UserError);
    await expect(stopped).rejects.toThrow(
      /3 steps in a row were not applied, the last one 13: weights and features are finite, the largest weight is [\d.]+ .*ledger\.jsonl/,
    );
    expect(skippedSteps('stopped').map(({ step }) => step)).toEqual([11, 12, 13]);
    vi.restoreAllMocks();
    const steps: number[] = [];
    await run('stopped', [], { events: { step: ({ step }) => steps.push(step) } });
    expect(steps[0]).toBe(14);
    expect(steps.at(-1)).toBe(STEPS);
  });

  it('whose cause are weights that overflowed is told apart', async () => {
    await expect(
      run('overflow', ['train.schedule.peak=1e39', 'train.schedule.warmupSteps=0']),
    ).rejects.toThrow(/the projection holds numbers that are not finite \(delete the newest checkpoints/);
  });
});
