/**
 * `npm run seeds`: both stages of the quick start with seeds 0, 1 and 2, each evaluated on the held-out pairs, and the means
 * that the README states. Needs the quick start's shards (`npm run quickstart` packs them) and shares its feature cache.
 * `npm run seeds -- 0 1` runs other seeds; runs that are done are not repeated.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { Evaluation } from '../src/evaluate/evaluation.js';
import { failureRate } from '../src/evaluate/summary.js';

const given = process.argv.slice(2).map(Number);
const seeds = given.length ? given : [0, 1, 2];

const stage1: Evaluation[] = [];
const stage2: Evaluation[] = [];
for (const seed of seeds) {
  const of = seed === 0 ? '' : `-seed${seed}`; // seed 0 is the quick start's own
  stage1.push(trained('pretrain', 'stage1', { seed, of }));
  stage2.push(trained('finetune', 'stage2', { seed, of, from: `runs/quickstart/stage1${of}` }));
}

heading('stage 1, held out');
row(stage1, 'loss', 'at most 4.0', ({ gap }) => gap.loss);
row(stage1, 'image gap', 'at least 1.3', ({ gap }) => gap.gap);
row(stage1, 'R@5, PMI', 'at least 0.32', (evaluation) => retrieval(evaluation, 'pmi')?.recallAt[5]);
row(stage1, 'R@10, PMI', 'at least 0.44', (evaluation) => retrieval(evaluation, 'pmi')?.recallAt[10]);
row(
  stage1,
  'group, centred',
  'at least 0.58',
  (evaluation) => retrieval(evaluation, 'centred')?.groupAccuracy,
);
heading('stage 2, held out');
row(stage2, 'failures', 'at most 0.25', failureRate);
row(stage2, 'gap on content words', 'above 0', ({ gap }) => gap.contentGap?.mean);
row(stage2, '  its 95 % interval from', 'above 0', ({ gap }) => gap.contentGap?.low);

/** Trains one stage where that is not done, and evaluates it. */
function trained(
  verb: string,
  stage: string,
  { seed, of, from }: { readonly seed: number; readonly of: string; readonly from?: string },
): Evaluation {
  const config = `configs/quickstart/${stage}.yaml`;
  const run = `runs/quickstart/${stage}${of}`;
  const values = [`run.seed=${seed}`, `run.folder=${run}`, ...(from ? [`train.initFrom=${from}`] : [])];
  const set = values.flatMap((value) => ['--set', value]);
  minigpt4(verb, '--config', config, ...set);
  minigpt4('evaluate', '--config', config, ...set, '--from', run, '--out', `${run}/evaluation`);
  return JSON.parse(readFileSync(`${run}/evaluation/evaluation.json`, 'utf8')) as Evaluation; // written just now
}

function heading(title: string): void {
  const names = seeds.map((seed) => `seed ${seed}`.padStart(9));
  console.log(`\n${title.padEnd(28)}${names.join('')}     mean    wanted`);
}

function row(
  evaluations: readonly Evaluation[],
  name: string,
  wanted: string,
  value: (evaluation: Evaluation) => number | undefined,
): void {
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
