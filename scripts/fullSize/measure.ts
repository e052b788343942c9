/**
 * `npx tsx scripts/fullSize/measure.ts FOLDER`: one machine's figures for MiniGPT-4 at full size, without the real weights.
 * Makes random ones in the real layouts (16 GB of disk, a few minutes; those that are there are used again), trains steps of
 * batch 1 of both stages by the commands that a user types, and prints load time, step time and peak memory.
 * `--layers N` takes the first N layers of the LLM and blocks of the encoder, for a trial in less memory.
 */
import { spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { FULL, makeWeights, type Sizes } from './weights.js';

const STEPS = 3;
/** The longest texts of each stage: they are cut at 32 and 160 tokens. */
const CAPTIONS = { stage1: 20, stage2: 200 };
const TOKENIZER = 'test/fixtures/minigpt4-tiny/weights/llm'; // 600 pieces; the embedding has its 32001 rows all the same
const IMAGES = ['img_00', 'img_02_grey', 'img_06_exif', 'img_08_wide'];

interface Measured {
  readonly stage: string;
  readonly loadSeconds: number;
  readonly stepSeconds: readonly number[];
  readonly dataSeconds: readonly number[];
  readonly loss: number;
  readonly targetTokens: number;
  readonly peakGb: number;
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { layers: { type: 'string' }, precision: { type: 'string', default: 'bfloat16' } },
});
const [folder] = positionals;
if (folder === undefined)
  throw new Error('scripts/fullSize/measure.ts: name a folder on a disk with 16 GB free');
mkdirSync(folder, { recursive: true });
const weights = await makeWeights(folder, sizes(values.layers), TOKENIZER, (text) => console.log(text));
const measured: Measured[] = [];
for (const [stage, verb] of [
  ['stage1', 'pretrain'],
  ['stage2', 'finetune'],
] as const)
  measured.push(await measure(stage, verb));
report(measured);

function sizes(layers: string | undefined): Sizes {
  if (layers === undefined) return FULL;
  const most = Number(layers);
  return {
    ...FULL,
    vit: { ...FULL.vit, blocks: Math.max(most, FULL.vit.blocks) }, // the loader takes 39 of the file's blocks
    llm: { ...FULL.llm, layers: most },
  };
}

async function measure(stage: keyof typeof CAPTIONS, verb: string): Promise<Measured> {
  const run = join(folder ?? '', 'runs', stage);
  rmSync(run, { recursive: true, force: true });
  const shards = await pairs(stage);
  const prompt = stage === 'stage2' ? ', prompt: instruction' : '';
  const init = stage === 'stage2' ? [`train.initFrom=${join(folder ?? '', 'runs', 'stage1')}`] : [];
  const set = [
    `model.encoder=${weights.encoder}`,
    `model.qformer=${weights.qformer}`,
    `model.llm=${weights.llm}`,
    `model.precision=${values.precision}`,
    `data.train=[{shards: ${shards}${prompt}}]`,
    `train.steps=${STEPS}`,
    'train.batchSize=1',
    'train.microBatchSize=1',
    'train.schedule.totalSteps=20000',
    'train.logEvery=1',
    `run.folder=${run}`,
    ...init,
  ];
  const config = `configs/minigpt4/vicuna-7b-${stage}.yaml`;
  const start = performance.now();
  const peakGb = await peakMemory([verb, '--config', config, ...set.flatMap((one) => ['--set', one])]);
  const seconds = (performance.now() - start) / 1000;
  const lines = readFileSync(join(run, 'metrics.jsonl'), 'utf8').trim().split('\n');
  const steps = lines.map((line) => JSON.parse(line) as Record<string, number>); // our own contract
  const stepSeconds = steps.map((step) => (step['time/step_ms'] ?? NaN) / 1000);
  return {
    stage,
    loadSeconds: seconds - stepSeconds.reduce((a, b) => a + b, 0),
    stepSeconds,
    dataSeconds: steps.map((step) => (step['time/data_ms'] ?? NaN) / 1000),
    loss: steps.at(-1)?.['train/loss'] ?? NaN,
    targetTokens: steps.at(-1)?.['train/target_tokens'] ?? NaN,
    peakGb,
  };
}

/** A set of a few pictures with texts of the stage's full length. */
async function pairs(stage: keyof typeof CAPTIONS): Promise<string> {
  const [source, shards] = [join(folder ?? '', 'pairs', stage), join(folder ?? '', 'shards', stage)];
  if (existsSync(shards)) return shards;
  mkdirSync(source, { recursive: true });
  for (const name of IMAGES) {
    cpSync(`test/fixtures/images/${name}.jpg`, join(source, `${name}.jpg`));
    writeFileSync(join(source, `${name}.txt`), 'a dog and a house '.repeat(CAPTIONS[stage] / 4).trim());
  }
  await peakMemory(['pack', source, '--out', shards]);
  return shards;
}

/** Runs the command line. @returns the most memory it held, in GB (10⁹ bytes) */
function peakMemory(args: readonly string[]): Promise<number> {
  const child = spawn(process.execPath, ['bin/minigpt4.js', ...args], { stdio: 'inherit' });
  let peakKb = 0;
  const watch = setInterval(() => {
    const status = existsSync(`/proc/${child.pid}/status`)
      ? readFileSync(`/proc/${child.pid}/status`, 'utf8')
      : '';
    peakKb = Math.max(peakKb, Number(/VmHWM:\s*(\d+)/.exec(status)?.[1] ?? 0));
  }, 100);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code) => {
      clearInterval(watch);
      if (code === 0) resolve((peakKb * 1024) / 1e9);
      else reject(new Error(`minigpt4 ${args[0] ?? ''} ended with ${code ?? 'a signal'}`));
    });
  });
}

function report(results: readonly Measured[]): void {
  const list = (seconds: readonly number[]): string => seconds.map((one) => one.toFixed(1)).join(' ');
  console.log(
    `\n${cpus().length} × ${cpus()[0]?.model ?? 'CPU'}, Node ${process.versions.node}, ${values.precision}`,
  );
  for (const { stage, loadSeconds, stepSeconds, dataSeconds, loss, targetTokens, peakGb } of results)
    console.log(
      `${stage}  load ${loadSeconds.toFixed(0)} s  steps ${list(stepSeconds)} s (of that waiting for images and their features ${list(dataSeconds)})  ` +
        `${targetTokens} targets  loss ${loss.toFixed(3)} (ln 32001 = 10.374)  peak memory ${peakGb.toFixed(1)} GB`,
    );
}
