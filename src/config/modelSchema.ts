/** Schema of `model`: what the model is made of. */
import { Type } from '@sinclair/typebox';
import { choice, count, section } from './fields.js';

/** The tokens taken from the encoder. */
export const Tokens = section(
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

/** The projection: the only part that is trained. */
export const Projection = section(
  {
    kind: choice(['linear', 'linear3', 'mlp2x_gelu'], {
      default: 'linear',
      description:
        "what is trained: one linear layer (MiniGPT-4), three in a row (its paper's ablation), or two with GELU between (LLaVA 1.5)",
    }),
    standardise: Type.Boolean({
      default: false,
      description: 'standardise each feature channel with mean and deviation of the training set',
    }),
    layerNorm: Type.Boolean({
      default: false,
      description: 'LayerNorm without weights (eps 1e-5) before the projection, after standardising',
    }),
    init: choice(['torch', 'embedding-rms', 'captions'], {
      default: 'torch',
      description:
        "first weights: torch's Linear default; normal so that soft tokens start at the RMS of the word embeddings (bias 0); or, at that RMS, by ridge regression from the first training images to the mean word embedding of their captions, which helps where steps are few (kind linear)",
    }),
    initialScale: Type.Number({
      exclusiveMinimum: 0,
      default: 1,
      description: 'factor on the first weights',
    }),
  },
  { default: {}, description: 'the projection: the only part that is trained' },
);

/** What the model is made of. */
export const Model = section(
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
    imageSize: Type.Integer({
      minimum: 1,
      maximum: 4096, // of the addon that resizes, runtime/preprocess.cc
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
    identity: choice(['strict', 'ignore'], {
      default: 'strict',
      description:
        'strict: a projection is refused beside another encoder, Q-Former, LLM, tokenizer or prompt template than it was trained with; ignore: it is taken if its widths fit',
    }),
    threads: count({
      minimum: 0,
      default: 0,
      description: 'threads of TensorFlow, 0 = all cores; the last bits of the result depend on it',
    }),
    concurrency: count({
      default: 1,
      description:
        'images, micro-batches of a step, or batches of an evaluation that are computed at the same time; no result depends on it. On a CPU two share the cores better than the threads of one op after another do; each holds activations of its own (and bfloat16 weights that it has widened)',
    }),
    projection: Projection,
  },
  { default: {}, description: 'what the model is made of' },
);
