/**
 * `npm run quickstart`: the whole main job on the default models and pictures, by the commands that a user types. Stops at
 * the first that fails, with its exit code. Run again it goes on where it was: set-up and packing find their work done,
 * training resumes.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

import type { Evaluation } from '../src/evaluate/evaluation.js';
import { summaryLines } from '../src/evaluate/summary.js';

const PRETRAIN = {
  verb: 'pretrain',
  config: 'configs/quickstart/stage1.yaml',
  run: 'runs/quickstart/stage1',
};
const FINETUNE = {
  verb: 'finetune',
  config: 'configs/quickstart/stage2.yaml',
  run: 'runs/quickstart/stage2',
};
const STAGES = [PRETRAIN, FINETUNE];
const SHARDS = 'shards/quickstart';
const PROJECTION = 'runs/quickstart/projection.safetensors';

const phases = [
  { name: 'build', command: ['npm', 'run', '-s', 'build'] },
  { name: 'set-up', command: minigpt4('setup') },
  {
    name: 'pack',
    command: minigpt4('pack', 'emoji', '--out', SHARDS, '--views', '2', '--styles', 'noto', 'flat'),
  },
  ...STAGES.map(({ verb, config, run }) => ({
    name: verb,
    command: minigpt4(verb, '--config', config, '--run', run),
  })),
  { name: 'export', command: minigpt4('export', FINETUNE.run, '--out', PROJECTION, '--force') },
  ...STAGES.map(({ verb, config, run }) => ({
    name: `evaluate ${verb}`,
    command: minigpt4('evaluate', '--config', config, '--from', run, '--out', `${run}/evaluation`),
  })),
];

const seconds = phases.map(({ name, command }) => ({ name, time: timed(name, command) }));
console.log('\nminutes');
for (const { name, time } of seconds)
  console.log(`  ${name.padEnd(20)} ${(time / 60).toFixed(1).padStart(6)}`);
const work = seconds.filter(({ name }) => name !== 'build' && name !== 'set-up');
const minutes = work.reduce((sum, { time }) => sum + time, 0) / 60;
console.log(`  ${'without set-up'.padEnd(20)} ${minutes.toFixed(1).padStart(6)}`);
const [stage1, stage2] = STAGES.map(({ run }) => readEvaluation(`${run}/evaluation/evaluation.json`));
for (const evaluation of [stage1, stage2])
  if (evaluation) console.log(`\n${summaryLines(evaluation).join('\n')}`);
console.log(`\nprojection: ${PROJECTION}`);
for (const { run } of STAGES) console.log(`report:     ${run}/evaluation/report.html`);

if (stage1) checkBand(stage1);

/** Stage 1 must end inside the band that a PyTorch prototype of the same run suggests for any one seed. */
function checkBand({ gap, retrieval }: Evaluation): void {
  const centred = retrieval?.results.find(({ correction }) => correction === 'centred');
  const [r10, group] = [centred?.recallAt[10] ?? 0, centred?.groupAccuracy ?? 0];
  const outside = [
    gap.loss <= 4.3 ? '' : `loss ${gap.loss.toFixed(3)} > 4.3`,
    gap.gap >= 0.9 ? '' : `image gap ${gap.gap.toFixed(3)} < 0.9`,
    r10 >= 0.4 ? '' : `centred R@10 ${r10.toFixed(3)} < 0.40`,
    group >= 0.5 ? '' : `centred group ${group.toFixed(3)} < 0.50`,
  ].filter(Boolean);
  console.log(
    outside.length
      ? `\nstage 1 ended outside its band: ${outside.join(', ')}`
      : '\nstage 1 ended inside its band',
  );
  if (outside.length) process.exitCode = 1;
}

function readEvaluation(file: string): Evaluation {
  return JSON.parse(readFileSync(file, 'utf8')) as Evaluation; // the border: written by the command just run
}

function minigpt4(...args: string[]): string[] {
  return [process.execPath, 'bin/minigpt4.js', ...args];
}

/** Runs a phase; the process ends here if it fails. @returns seconds */
function timed(name: string, [command = '', ...args]: string[]): number {
  console.log(`\n== ${name}`);
  const start = performance.now();
  const { status, signal, error } = spawnSync(command, args, { stdio: 'inherit' });
  if (error) console.error(error.message);
  if (status !== 0) {
    console.error(
      `quickstart: stopped at ${name}${signal ? `, ended by ${signal}` : ''} (run it again to go on there)`,
    );
    process.exit(status ?? 1);
  }
  return (performance.now() - start) / 1000;
}
