/**
 * Twenty SIGKILLs at random moments of one run that reads a mixture with bad samples ahead of its steps and fills the
 * feature cache: it ends as the run that nobody touched. Real processes of the built command, tiny random models.
 */
import { cpSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { randomAt } from '../../src/data/order/keyed.js';
import { writeShards } from '../../src/data/shards/shardWriter.js';
import { tinyConfig, tinyPicture, writeTinyModels } from '../helpers/tinyFolders.js';
import { MINIGPT4, run, sha256, start, type Running } from './commands.js';

const KILLS = 20;
const STEPS = 100;
const LAST = join('checkpoints', `step-00000${STEPS}`);
const SEED = 20; // of the moments

let root: string;
let folder: string;
beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'minigpt4-kills-'));
  folder = join(root, 'runs', 'stage1');
  const folders = await writeTinyModels(root);
  await writeSet('shards', 90, [3, 40]);
  await writeSet('other', 33, [7]);
  await writeFile(join(root, 'pretrain.yaml'), tinyConfig('pretrain', folders, root));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** Shards of small pictures, some of them cut short. */
async function writeSet(name: string, rows: number, bad: readonly number[]): Promise<void> {
  const pictures = await Promise.all(Array.from({ length: rows }, (_, i) => tinyPicture(i)));
  await writeShards(
    join(root, name),
    pictures.map((image, i) => ({
      id: `${name}-${i}`,
      image: bad.includes(i) ? image.slice(0, 40) : image,
      caption: `a picture of number ${i}`,
      extra: {},
    })),
    { rowsPerShard: 16 },
  );
}

function command(set: readonly string[] = []): string[] {
  const mixture = `data.train=[{shards: ${join(root, 'shards')}, weight: 3},{shards: ${join(root, 'other')}, weight: 1}]`;
  const settings = [
    mixture,
    'data.order=local',
    'data.window=256',
    'data.maxBadFraction=0.1',
    'data.prefetch=6',
    `train.steps=${STEPS}`,
    'train.saveEvery=3',
    ...set,
  ];
  return [
    MINIGPT4,
    'pretrain',
    '--config',
    join(root, 'pretrain.yaml'),
    ...settings.flatMap((s) => ['--set', s]),
  ];
}

function lastStep(): number {
  const file = join(folder, 'metrics.jsonl');
  if (!existsSync(file)) return 0;
  return Number(/"step":(\d+)[^\n]*\n$/.exec(readFileSync(file, 'utf8').slice(-1000))?.[1] ?? 0);
}

/**
 * Each fourth kill comes while the run starts or resumes, at its first new step at the latest (else a fast machine would be
 * done before the last kill); the others come some milliseconds after a certain step.
 */
async function killAtRandom(kill: number, running: Running): Promise<boolean> {
  if (kill % 4 === 3) {
    const before = lastStep();
    const until = Date.now() + 2500 * randomAt(SEED, kill, 'start');
    while (Date.now() < until && lastStep() <= before) await sleep(2);
  } else {
    const step = Math.ceil(((kill + 1) / (KILLS + 1)) * STEPS);
    while (running.child.exitCode === null && lastStep() < step) await sleep(2);
    await sleep(40 * randomAt(SEED, kill, 'within'));
  }
  running.child.kill('SIGKILL');
  return (await running.finished).signal === 'SIGKILL';
}

/** Lines without times and speeds, which differ by nature. */
function metricsOf(runFolder: string): Record<string, unknown>[] {
  return linesOf(join(runFolder, 'metrics.jsonl')).map((line) =>
    Object.fromEntries(
      Object.entries(JSON.parse(line) as object).filter(([key]) => !/^(time|speed)\//.test(key)),
    ),
  );
}

function linesOf(file: string): string[] {
  return readFileSync(file, 'utf8').trimEnd().split('\n');
}

describe('a run that is killed twenty times', () => {
  it('ends with the projection, moments, metrics and ledger of the unbroken one', async () => {
    await run('node', command());
    const unbroken = `${folder}-unbroken`;
    cpSync(folder, unbroken, { recursive: true });
    rmSync(folder, { recursive: true });
    rmSync(join(root, 'runs', 'features'), { recursive: true, force: true });
    let kills = 0;
    for (let kill = 0; kill < KILLS; kill++) if (await killAtRandom(kill, start('node', command()))) kills++;
    expect(kills).toBe(KILLS);
    await run('node', command());
    for (const file of ['projection.safetensors', 'optimizer.safetensors'])
      expect([file, sha256(join(folder, LAST, file))]).toEqual([file, sha256(join(unbroken, LAST, file))]);
    expect(metricsOf(folder)).toEqual(metricsOf(unbroken));
    const ledger = linesOf(join(unbroken, 'ledger.jsonl')).sort(); // samples of one step are decoded side by side
    expect(ledger.length).toBeGreaterThan(3);
    expect(linesOf(join(folder, 'ledger.jsonl')).sort()).toEqual(ledger);
    expect(readdirSync(join(folder, 'checkpoints')).filter((name) => name.startsWith('.'))).toEqual([]);
    // The first batch after a resume: the last life's first line, of a run near its end
    const slowest = Math.max(...linesOf(join(folder, 'metrics.jsonl')).map((line) => dataMs(line)));
    expect(slowest).toBeLessThan(2000);
  }, 400_000);

  it('has the same projection with 1, 2 and 4 images decoded at a time', async () => {
    const hashes = [];
    for (const workers of [1, 2, 4]) {
      const name = join(root, 'runs', `workers${workers}`);
      const set = [`run.folder=${name}`, `data.workers=${workers}`, 'data.featureCache=false'];
      await run('node', command(set));
      hashes.push(sha256(join(name, LAST, 'projection.safetensors')));
    }
    const unbroken = sha256(join(`${folder}-unbroken`, LAST, 'projection.safetensors'));
    expect(hashes).toEqual([unbroken, unbroken, unbroken]);
  }, 200_000);
});

function dataMs(line: string): number {
  return Number((JSON.parse(line) as Record<string, unknown>)['time/data_ms']);
}
