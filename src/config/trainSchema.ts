/** Schema of `train`: how the projection learns. */
import { Type } from '@sinclair/typebox';
import { choice, count, ratio, section } from './fields.js';

/** AdamW's numbers. */
export const Optimizer = section(
  {
    beta1: ratio({ default: 0.9, description: 'decay of the mean gradient' }),
    beta2: ratio({ default: 0.999, description: 'decay of the mean squared gradient' }),
    epsilon: Type.Number({ exclusiveMinimum: 0, default: 1e-8, description: 'added to the denominator' }),
    weightDecay: Type.Number({
      minimum: 0,
      default: 0.05,
      description: 'decoupled, on the weight, not on the bias',
    }),
  },
  { default: {}, description: 'AdamW' },
);

/** The learning rate over the steps. */
export const LearningRate = section(
  {
    kind: choice(['cosine', 'reference'], {
      default: 'cosine',
      description:
        "cosine: linear warm-up, then a cosine from its end; reference: MiniGPT-4's, whose cosine counts from step 0",
    }),
    peak: Type.Number({ exclusiveMinimum: 0, description: 'highest learning rate' }),
    floor: Type.Number({ minimum: 0, default: 0, description: 'learning rate at the end' }),
    start: Type.Number({ minimum: 0, default: 0, description: 'learning rate at step 0 of the warm-up' }),
    warmupSteps: count({ minimum: 0, default: 0, description: 'steps of the warm-up' }),
    totalSteps: Type.Optional(
      count({
        description:
          'where the cosine ends; left out: train.steps. Larger to stop early on a longer schedule',
      }),
    ),
    stepsPerEpoch: Type.Optional(
      count({
        description: 'with kind "reference": its iters_per_epoch; the warm-up restarts with each epoch',
      }),
    ),
  },
  { description: 'the learning rate over the steps' },
);

/** What keeps one bad batch from spoiling the weights. */
export const Guard = section(
  {
    deviations: Type.Number({
      minimum: 0,
      default: 10,
      description:
        'a step is not applied when its loss is above twice the median of the last steps and further above it than this many standard deviations (taken from their median deviation), once half a window of them is known; 0: only when it is no number',
    }),
    window: count({
      minimum: 8,
      default: 64,
      description: 'last applied steps that a loss is compared with',
    }),
    stopAfter: count({
      default: 3,
      description: 'stop the run after this many steps in a row that were not applied',
    }),
  },
  {
    default: {},
    description: 'steps that are not applied; each one is in ledger.jsonl with the samples of its batch',
  },
);

/** How it learns. */
export const Train = section(
  {
    stage: choice(['pretrain', 'finetune'], {
      description:
        'pretrain: captions alone (stage 1); finetune: instructions, from a stage-1 projection (stage 2)',
    }),
    steps: count({ description: 'optimizer steps' }),
    batchSize: count({ description: 'samples of a step' }),
    microBatchSize: count({
      description:
        'samples computed at once; must divide batchSize. Less memory when smaller; part of the result to the bit',
    }),
    initFrom: Type.Optional(
      Type.String({
        minLength: 1,
        description:
          'start from this projection: run folder, checkpoint folder, .safetensors file or official .pth checkpoint; finetune needs it',
      }),
    ),
    optimizer: Optimizer,
    schedule: LearningRate,
    maxGradNorm: Type.Number({
      minimum: 0,
      default: 0,
      description: 'scale gradients down to this norm; 0 = off, as in the reference',
    }),
    guard: Guard,
    preflight: Type.Boolean({
      default: true,
      description:
        'before the first step: check that the LLM predicts, that labels are aligned and that images are told apart',
    }),
    logEvery: count({ default: 10, description: 'steps between logged lines' }),
    evalEvery: count({
      minimum: 0,
      default: 0,
      description:
        'steps between evaluations on data.heldOut during the run, 0 = none; minigpt4 evaluate measures more when it has ended',
    }),
    saveEvery: count({
      default: 100,
      description: 'steps between checkpoints; one is also saved at the end and on Ctrl-C',
    }),
    keepCheckpoints: count({ default: 3, description: 'checkpoints kept, the newest' }),
    keepEvery: count({
      minimum: 0,
      default: 0,
      description: 'also keep each checkpoint whose step is a multiple of this, 0 = only the newest',
    }),
  },
  { description: 'how it learns' },
);
