/**
 * The configuration: one schema from which the TypeScript types, the validation, the defaults and the
 * text of `minigpt4 config` come. A field with a `default` may be left out of a file and is never missing in `Config`.
 */
import { Type, type Static } from '@sinclair/typebox';
import { Data, HeldOut, TrainSource } from './dataSchema.js';
import { count, section } from './fields.js';
import { Model, Projection, Tokens } from './modelSchema.js';
import { Prompt } from './promptSchema.js';
import { LearningRate, Optimizer, Train } from './trainSchema.js';

const Evaluate = section(
  {
    captions: count({ minimum: 0, default: 16, description: 'held-out pictures that are captioned' }),
    maxNewTokens: count({ default: 32, description: 'longest caption, in tokens' }),
    retrieval: Type.Boolean({
      default: true,
      description: 'rank all held-out captions for each picture (R@1, R@5, R@10)',
    }),
    batchSize: count({ default: 16, description: 'samples computed at once' }),
  },
  { default: {}, description: 'what is measured on data.heldOut' },
);

const RunFolder = section(
  {
    folder: Type.String({
      minLength: 1,
      description: 'the run folder: configuration, metrics, checkpoints, report',
    }),
    seed: Type.Integer({
      minimum: 0,
      maximum: 0xffffffff,
      default: 0,
      description: 'of the order of the data, the questions and the first weights',
    }),
  },
  { description: 'where it goes' },
);

/** The JSON schema of a configuration file. Paths in it are relative to the current directory. */
export const ConfigSchema = section(
  { model: Model, data: Data, prompt: Prompt, train: Train, evaluate: Evaluate, run: RunFolder },
  { description: 'Configuration of a training run. Paths are relative to the current directory.' },
);

/** A whole configuration: checked, with every default filled in. */
export type Config = Static<typeof ConfigSchema>;
/** What the model is made of. */
export type ModelConfig = Static<typeof Model>;
/** The tokens taken from the encoder. */
export type TokensConfig = Static<typeof Tokens>;
/** The projection: the only part that is trained. */
export type ProjectionConfig = Static<typeof Projection>;
/** What it learns from. */
export type DataConfig = Static<typeof Data>;
/** One set of the training mixture. */
export type TrainSourceConfig = Static<typeof TrainSource>;
/** Pairs never trained on, for evaluation. */
export type HeldOutConfig = Static<typeof HeldOut>;
/** The text around the image. */
export type PromptConfig = Static<typeof Prompt>;
/** How it learns. */
export type TrainConfig = Static<typeof Train>;
/** AdamW's numbers. */
export type OptimizerConfig = Static<typeof Optimizer>;
/** The learning rate over the steps. */
export type ScheduleConfig = Static<typeof LearningRate>;
/** What is measured on the held-out pairs. */
export type EvaluateConfig = Static<typeof Evaluate>;
/** Where a run goes. */
export type RunConfig = Static<typeof RunFolder>;
/** The two stages of training; one loop, different configuration. */
export type Stage = TrainConfig['stage'];
