/** `minigpt4 pretrain` and `minigpt4 finetune`: the same verb for the two stages. */
import type { Stage } from '../config/schema.js';
import { decimal, flag, requiredText, settings, text, verb, type Verb } from './verb.js';

const options = {
  config: requiredText('config', 'configuration file (YAML); minigpt4 config describes it'),
  set: settings('train.steps=100'),
  run: text('run', "run folder in place of the file's run.folder; a run that is there is resumed"),
  fresh: flag('refuse to resume: a run folder with a checkpoint is an error'),
  'verify-cache': decimal(
    'verify-cache',
    'share of the features found in the cache, as 0.01, that is computed again and must be the same to the bit',
    { above: 0, atMost: 1 },
  ),
} as const;

/** Stage 1. */
export const pretrain = trainingVerb(
  'pretrain',
  'Trains the projection on captions alone (stage 1); resumes by itself.',
  'pretrain --config configs/quickstart/stage1.yaml',
);

/** Stage 2. */
export const finetune = trainingVerb(
  'finetune',
  'Trains a pretrained projection to follow instructions (stage 2); resumes by itself.',
  'finetune --config configs/quickstart/stage2.yaml',
);

function trainingVerb(stage: Stage, describe: string, example: string): Verb {
  return verb({
    command: stage,
    describe,
    options,
    example,
    async run({ config, set, run, fresh, 'verify-cache': verify }) {
      const { runTraining } = await import('./training.js');
      const folder = run === undefined ? [] : [`run.folder=${JSON.stringify(run)}`];
      const verified = verify === undefined ? [] : [`data.verifyCache=${verify}`];
      await runTraining(stage, { config, set: [...set, ...folder, ...verified], fresh });
    },
  });
}
