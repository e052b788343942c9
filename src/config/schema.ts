/**
 * The configuration: one schema from which the TypeScript types, the validation, the defaults and the
 * text of `minigpt4 config` come. A field with a `default` may be left out of a file and is never missing in `Config`.
 */
import { Type, type Static, type TSchema } from '@sinclair/typebox';

/** A closed object: unknown keys are errors. With only optional fields below, it may itself be left out. */
const section = <T extends Record<string, TSchema>>(
  properties: T,
  options: { description: string; default?: object },
) => Type.Object(properties, { additionalProperties: false, ...options });

/** A string out of a fixed list. One `enum` rather than an `anyOf`, so that an error names the choices once. */
const choice = <const T extends string>(
  values: readonly T[],
  options: { description: string; default?: T; defaultText?: string },
) => Type.Unsafe<T>({ type: 'string', enum: [...values], ...options });

const count = (options: { description: string; default?: number; minimum?: number }) =>
  Type.Integer({ minimum: 1, ...options });

const ratio = (options: { description: string; default?: number }) =>
  Type.Number({ minimum: 0, exclusiveMaximum: 1, ...options });

const Tokens = section(
  {
    kind: choice(['all', 'grid', 'patches', 'qformer'], {
      default: 'grid',
      description:
        "which vision tokens go to the projection: all, the class token's with them; patches averaged to a grid; patches alone; or the Q-Former's queries, which read all",
    }),
    grid: count({
      default: 2,
      description: 'with kind "grid": patches are average-pooled to grid × grid tokens',
    }),
    cls: Type.Boolean({
      default: true,
      description: 'with kind "grid": put the CLS token before the patch tokens',
    }),
    concat: count({
      default: 1,
      description:
        'with kind "patches": so many neighbours in a row become one token, 4 in MiniGPT-4\'s Llama-2 release, 1 in LLaVA',
    }),
  },
  { default: {}, description: 'the tokens taken from the encoder' },
);

const Projection = section(
  {
    kind: choice(['linear'], { default: 'linear', description: 'the trained layer' }),
    standardise: Type.Boolean({
      default: false,
      description: 'standardise each feature channel with mean and deviation of the training set',
    }),
    layerNorm: Type.Boolean({
      default: false,
      description: 'LayerNorm without weights (eps 1e-5) before the projection, after standardising',
    }),
    init: choice(['torch', 'embedding-rms'], {
      default: 'torch',
      description:
        "first weights: torch's Linear default, or normal so that soft tokens start at the RMS of the word embeddings (bias 0)",
    }),
    initialScale: Type.Number({
      exclusiveMinimum: 0,
      default: 1,
      description: 'factor on the first weights',
    }),
  },
  { default: {}, description: 'the projection: the only part that is trained' },
);

const Model = section(
  {
    encoder: Type.String({
      minLength: 1,
      default: 'vit-s14-focus',
      description:
        'vision encoder: the name vit-s14-focus, a Hugging Face folder (DINOv2, CLIP, LLaVA, BLIP-2, InstructBLIP), or eva_vit_g.pth',
    }),
    encoderLayer: Type.Optional(
      count({
        description:
          "take the output after this block, counted from 1; left out: after the last that the model's users take (39 of ViT-g, the last but one of CLIP)",
      }),
    ),
    encoderHeads: Type.Optional(
      count({ description: 'attention heads of a .pth encoder that is not 1408 wide, as ViT-g is' }),
    ),
    qformer: Type.Optional(
      Type.String({
        minLength: 1,
        description:
          "file or folder with BLIP-2's ln_vision and Q-Former (blip2_pretrained_flant5xxl.pth); left out: the encoder's own where it is a BLIP-2 folder",
      }),
    ),
    qformerHeads: Type.Optional(
      count({ description: "attention heads of a .pth Q-Former that is not 768 wide, as BLIP-2's is" }),
    ),
    imageSize: count({
      default: 224,
      description: 'height and width in pixels to which images are resized; a multiple of the patch size',
    }),
    tokens: Tokens,
    llm: Type.String({
      minLength: 1,
      default: 'smollm2-135m-instruct',
      description: 'language model: folder with weights and tokenizer, or the name smollm2-135m-instruct',
    }),
    precision: choice(['auto', 'bfloat16', 'float32'], {
      default: 'auto',
      description:
        'of the frozen weights; projection, gradient, AdamW and loss are always float32. auto: bfloat16 where the machine computes it natively, else float32',
    }),
    threads: count({
      minimum: 0,
      default: 0,
      description: 'threads of TensorFlow, 0 = all cores; the last bits of the result depend on it',
    }),
    projection: Projection,
  },
  { default: {}, description: 'what the model is made of' },
);

const TrainSource = section(
  {
    shards: Type.String({ minLength: 1, description: 'folder of Arrow shards' }),
    weight: Type.Number({
      exclusiveMinimum: 0,
      default: 1,
      description:
        'share in the mixture: each sample comes from this set with probability weight / sum of weights',
    }),
    prompt: choice(['none', 'instruction'], {
      defaultText: 'none in stage pretrain, instruction in stage finetune',
      description: 'what its samples are asked: nothing, or one of prompt.questions within prompt.template',
    }),
    maxRows: Type.Optional(count({ description: 'use only the first rows; left out: all' })),
  },
  { description: 'one set of the training mixture' },
);

const HeldOut = section(
  {
    shards: Type.String({ minLength: 1, description: 'folder of Arrow shards' }),
    maxRows: Type.Optional(count({ description: 'use only the first rows; left out: all' })),
  },
  { description: 'pairs never trained on, for evaluation; left out: no evaluation during training' },
);

const Data = section(
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
    heldOut: Type.Optional(HeldOut),
    captions: choice(['clean', 'verbatim'], {
      default: 'clean',
      description:
        "clean: MiniGPT-4's blip_caption (lower case, punctuation to blanks, 50 words); verbatim: as they are",
    }),
    maxBadFraction: Type.Number({
      minimum: 0,
      maximum: 1,
      default: 0.01,
      description:
        'stop the run when more than this part of the samples is unreadable; each one is in ledger.jsonl',
    }),
    prefetch: count({
      default: 4,
      description: 'micro-batches prepared ahead of the step; never changes the result',
    }),
    workers: count({ default: 2, description: 'images decoded at the same time; never changes the result' }),
    featureCache: Type.Boolean({
      default: true,
      description:
        "keep the encoder's output on disk and compute it once per image; never changes the result",
    }),
  },
  { description: 'what it learns from' },
);

const Prompt = section(
  {
    bos: Type.String({
      minLength: 1,
      default: 'tokenizer',
      description:
        "what opens a sequence: tokenizer (the tokenizer's BOS), none, or a token such as <|endoftext|>",
    }),
    template: Type.String({
      default: '',
      description:
        'the conversation around a question, which goes where {} stands; empty: no instruction prompts',
    }),
    questions: Type.Array(
      Type.String({ minLength: 1, description: 'a question; the image goes where <ImageHere> stands' }),
      { default: [], description: 'the questions, one drawn at random per sample' },
    ),
    captionPrefix: Type.String({ default: '', description: 'text put before every caption, e.g. a blank' }),
    endSymbol: Type.String({
      default: '\n',
      description: 'text that ends every caption and is learnt with it',
    }),
    maxTargetTokens: count({
      default: 32,
      description: 'longer targets are cut (and lose their end symbol)',
    }),
  },
  { default: {}, description: 'the text around the image' },
);

const Optimizer = section(
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

const LearningRate = section(
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

const Train = section(
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
    logEvery: count({ default: 10, description: 'steps between logged lines' }),
    evalEvery: count({
      minimum: 0,
      default: 0,
      description: 'steps between evaluations on data.heldOut, 0 = at the end only',
    }),
    saveEvery: count({
      default: 100,
      description: 'steps between checkpoints; one is also saved at the end and on Ctrl-C',
    }),
    keepCheckpoints: count({ default: 3, description: 'checkpoints kept, the newest' }),
  },
  { description: 'how it learns' },
);

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
