/**
 * `npm run seeds`: stage 1 of the quick start with seeds 0, 1 and 2, each evaluated on the held-out pairs, and the means
 * that the README states. Needs the quick start's shards (`npm run quickstart` packs them) and shares its feature cache.
 * `npm run seeds -- 0 1` runs other seeds; runs that are done are not repeated.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { Evaluation } from '../src/evaluate/evaluation.js';

const CONFIG = 'configs/quickstart/stage1.yaml';
const given = process.argv.slice(2).map(Number);
const seeds = given.length ? given : [0, 1, 2];

const evaluations = seeds.map((seed) => {
  const run = seed === 0 ? 'runs/quickstart/stage1' : `runs/quickstart/stage1-seed${seed}`;
  const set = ['--set', `run.seed=${seed}`, '--set', `run.folder=${run}`];
  minigpt4('pretrain', '--config', CONFIG, ...set);
  minigpt4('evaluate', '--config', CONFIG, ...set, '--from', run, '--out', `${run}/evaluation`);
  return JSON.parse(readFileSync(`${run}/evaluation/evaluation.json`, 'utf8')) as Evaluation; // written just now
});

console.log(
  `\n${'stage 1, held out'.padEnd(28)}${seeds.map((seed) => `seed ${seed}`.padStart(9)).join('')}     mean    wanted`,
);
row('loss', 'at most 4.0', ({ gap }) => gap.loss);
row('image gap', 'at least 1.3', ({ gap }) => gap.gap);
row('R@5, PMI', 'at least 0.32', (evaluation) => retrieval(evaluation, 'pmi')?.recallAt[5]);
row('R@10, PMI', 'at least 0.44', (evaluation) => retrieval(evaluation, 'pmi')?.recallAt[10]);
row('group, centred', 'at least 0.58', (evaluation) => retrieval(evaluation, 'centred')?.groupAccuracy);

function row(name: string, wanted: string, value: (evaluation: Evaluation) => number | undefined): void {
  const values = evaluations.map((evaluation) => value(evaluation) ?? NaN);
  const mean = values.reduce((sum, one) => sum + one, 0) / values.length;
  console.log(
    `${name.padEnd(28)}${[...values, mean].map((one) => one.toFixed(3).padStart(9)).join('')}   ${wanted}`,
  );
}

function retrieval(
  { retrieval: found }: Evaluation,
  correction: 'pmi' | 'centred',
): NonNullable<Evaluation['retrieval']>['results'][number] | undefined {
  return found?.results.find((result) => result.correction === correction);
}

function minigpt4(...args: string[]): void {
  const { status } = spawnSync(process.execPath, ['bin/minigpt4.js', ...args], { stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}
