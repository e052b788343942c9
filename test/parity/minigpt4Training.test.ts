/**
 * Both stages of the tiny MiniGPT-4 trained as the reference trained them, from its Q-Former's recorded features: the loss
 * and learning rate of every step and the projection at the recorded steps. Limits of the projection: the fixture's README.
 */
import { copyOf, linearArrays } from '../helpers/projections.js';
import { checkpointNames } from '../../src/model/projectionTensors.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { LanguageModel } from '../../src/model/language/languageModel.js';
import type { Projection } from '../../src/model/projection.js';
import type { Prompter } from '../../src/model/conversation/prompt.js';
import { TensorFlow } from '../../src/tensorflow/session.js';
import { AdamW } from '../../src/train/adamw.js';
import { meanGradients } from '../../src/train/gradientMean.js';
import { learningRate } from '../../src/train/schedule.js';
import { largest, largestDifference } from '../helpers/compare.js';
import {
  batchOf,
  expected,
  floats,
  openTinyModel,
  pairsOf,
  prompterOf,
  readProjection,
  scheduleOfStage,
  tiny,
} from './minigpt4.js';
import type { Stage } from './minigpt4Recorded.js';

/** What a stage of training leaves. */
interface Trained {
  /** Before each step's update. */
  readonly losses: readonly number[];
  readonly rates: readonly number[];
  /** After the step asked for. */
  readonly early: Projection;
  readonly final: Projection;
}

let tensorflow: TensorFlow;
let prompters: Record<Stage, Prompter>;
beforeAll(async () => {
  tensorflow = await TensorFlow.open();
  prompters = { stage1: await prompterOf('stage1'), stage2: await prompterOf('stage2') };
});
afterAll(() => tensorflow.close());

/** Trains a stage on its samples in file order, one prompt after the other, as the recording did. */
async function trainStage(
  model: LanguageModel,
  stage: Stage,
  start: Projection,
  early = 10,
): Promise<Trained> {
  const { steps, prompts } = expected[`${stage}_train`];
  const { batch: B, weight_decay: weightDecay } = tiny[stage];
  const projection = copyOf(start);
  const optimizer = new AdamW(
    Object.entries(checkpointNames(projection.parameters)).map(([name, data]) => ({
      name,
      data,
      decay: name === 'llama_proj.weight',
    })),
    { weightDecay },
  );
  const losses: number[] = [];
  const rates: number[] = [];
  let at = projection;
  for (let step = 0; step < steps; step++) {
    const samples = Array.from({ length: B }, (_, i) => (step * B + i) % pairsOf(stage).length);
    const prompt = prompts?.[step % prompts.length] ?? null;
    const { batch } = await batchOf(stage, prompters[stage], samples, prompt);
    const { loss, mean } = meanGradients([await model.lossAndGradients(projection, batch)]);
    losses.push(loss);
    rates.push(learningRate(step, scheduleOfStage(stage)));
    optimizer.step(checkpointNames(mean), rates.at(-1) ?? NaN);
    if (step + 1 === early) at = copyOf(projection);
  }
  return { losses, rates, early: at, final: projection };
}

/** Largest of each loss's difference relative to the recorded one. */
function lossSpread(losses: readonly number[], stage: Stage): number {
  const recorded = expected[`${stage}_train`].loss;
  const ratios = losses.map((loss, step) => loss / (recorded[step] ?? NaN) - 1);
  return largest(ratios);
}

async function expectProjection(got: Projection, name: string): Promise<void> {
  for (const part of ['weight', 'bias'] as const) {
    const want = await floats(`train.${name}.llama_proj.${part}`);
    const values = linearArrays(got.parameters)[part];
    const rms = Math.sqrt(
      values.reduce((sum, value, i) => sum + (value - (want[i] ?? NaN)) ** 2, 0) / want.length,
    );
    // AdamW turns a gradient near zero into a whole step: single elements may move
    expect(largestDifference(values, want)).toBeLessThan(1e-3);
    expect(rms).toBeLessThan(2e-5);
  }
}

describe('float32', () => {
  let stage1: Trained;
  let stage2: Trained;
  beforeAll(async () => {
    const model = await openTinyModel(tensorflow, 'float32');
    stage1 = await trainStage(model, 'stage1', await readProjection('init'));
    stage2 = await trainStage(model, 'stage2', await readProjection('stage1'));
    await model.close();
  });

  it('every loss of stage 1 is the reference’s within 1e-5', () => {
    expect(stage1.losses).toHaveLength(expected.stage1_train.loss.length);
    expect(lossSpread(stage1.losses, 'stage1')).toBeLessThan(1e-5);
  });

  it('every loss of stage 2 is the reference’s within 1e-5', () => {
    expect(stage2.losses).toHaveLength(expected.stage2_train.loss.length);
    expect(lossSpread(stage2.losses, 'stage2')).toBeLessThan(1e-5);
  });

  it('every step was taken with the reference’s learning rate', () => {
    for (const [{ rates }, { lr }] of [
      [stage1, expected.stage1_train],
      [stage2, expected.stage2_train],
    ] as const)
      expect(largest(rates.map((rate, step) => rate / (lr[step] ?? NaN) - 1))).toBeLessThan(1e-9);
  });

  it('the projection is the reference’s after 10 steps and at the end of both stages', async () => {
    await expectProjection(stage1.early, 'stage1_step10');
    await expectProjection(stage1.final, 'stage1_final');
    await expectProjection(stage2.final, 'stage2_final');
  });

  it('the checkpoints of the original saver hold those projections', async () => {
    await expectProjection(await readProjection('stage1'), 'stage1_final');
    await expectProjection(await readProjection('stage2'), 'stage2_final');
  });
});

describe('bfloat16', () => {
  it('the losses of both stages stay within 1 % of the reference’s', async () => {
    const model = await openTinyModel(tensorflow, 'bfloat16');
    const stage1 = await trainStage(model, 'stage1', await readProjection('init'));
    const stage2 = await trainStage(model, 'stage2', stage1.final); // errors of stage 1 carried along
    await model.close();
    expect(lossSpread(stage1.losses, 'stage1')).toBeLessThan(0.01);
    expect(lossSpread(stage2.losses, 'stage2')).toBeLessThan(0.01);
  });
});
