/** Schema of `data`: what the projection learns from. */
import { Type } from '@sinclair/typebox';
import { choice, count, section } from './fields.js';

/** One set of the training mixture. */
export const TrainSource = section(
  {
    shards: Type.String({
      minLength: 1,
      description: 'folder of Arrow shards, one .arrow file, or the http(s) address of either',
    }),
    weight: Type.Number({
      exclusiveMinimum: 0,
      default: 1,
      description:
        'share in the mixture: of all samples this set gives weight / sum of weights, kept to half a draw after each block of some 4096 draws',
    }),
    prompt: choice(['none', 'instruction'], {
      defaultText: 'none in stage pretrain, instruction in stage finetune',
      description: 'what its samples are asked: nothing, or one of prompt.questions within prompt.template',
    }),
    maxRows: Type.Optional(count({ description: 'use only the first rows; left out: all' })),
  },
  { description: 'one set of the training mixture' },
);

/** Pairs never trained on, for evaluation. */
export const HeldOut = section(
  {
    shards: Type.String({
      minLength: 1,
      description: 'folder of Arrow shards, one .arrow file, or the http(s) address of either',
    }),
    maxRows: Type.Optional(count({ description: 'use only the first rows; left out: all' })),
  },
  { description: 'pairs never trained on, for evaluation; left out: no evaluation during training' },
);

/** What it learns from. */
export const Data = section(
  {
    train: Type.Array(TrainSource, {
      minItems: 1,
      description: 'the training mixture',
    }),
    draw: choice(['sample', 'batch'], {
      default: 'sample',
      description:
        'what set and question are drawn for: each sample, or a whole batch at once, as MiniGPT-4 does (115 : 14 batches of LAION and CC-SBU)',
    }),
    order: choice(['shuffle', 'local', 'replacement'], {
      default: 'shuffle',
      description:
        'in which order the rows of a set come. shuffle: all of them in a new order each epoch; local: the same, but in runs of neighbouring rows, mixed within data.window, so that a disk or a server is read in runs; replacement: each drawn at random, as MiniGPT-4 does, so that some come twice before others come once',
    }),
    window: count({
      minimum: 256,
      default: 4096,
      description: 'with order local: rows that are mixed with each other',
    }),
    heldOut: Type.Optional(HeldOut),
    captions: choice(['clean', 'verbatim'], {
      default: 'clean',
      description:
        "clean: MiniGPT-4's blip_caption (lower case, punctuation to blanks, 50 words); verbatim: as they are",
    }),
    transform: choice(['resize', 'random-crop'], {
      default: 'resize',
      description:
        "how an image becomes a square. resize: all of it, stretched, as MiniGPT-4's later releases and any evaluation; random-crop: training images are cropped first, to 50–100 % of their area at a ratio of 3:4 to 4:3, another part at each pass, as MiniGPT-4 v1",
    }),
    maxBadFraction: Type.Number({
      minimum: 0,
      maximum: 1,
      default: 0.01,
      description:
        'stop the run when more than this part of the samples is unusable, with a slack of three standard deviations and one; each one is in ledger.jsonl',
    }),
    prefetch: count({
      default: 4,
      description: 'micro-batches prepared ahead of the step; never changes the result',
    }),
    workers: count({ default: 2, description: 'images decoded at the same time; never changes the result' }),
    featureCache: Type.Unsafe<boolean | 'always'>({
      enum: [true, false, 'always'],
      default: true,
      description:
        "keep the encoder's output on disk and compute it once per image; never changes the result. true: where it pays, so not for training images that come only once, or cropped at random each time; always: also for those that come once, for runs to follow; false: never",
    }),
    featureCacheGB: Type.Number({
      exclusiveMinimum: 0,
      default: 50,
      description:
        'size of the feature cache in 10^9 bytes, all files of its folder counted, those of other encoders too; when it is full, the rest is computed anew each time',
    }),
    verifyCache: Type.Number({
      minimum: 0,
      maximum: 1,
      default: 0,
      description:
        'share of the features found in the cache that is computed again and must be the same to the bit; --verify-cache sets it',
    }),
  },
  { description: 'what it learns from' },
);
