/**
 * The tiny MiniGPT-4 of test/fixtures/minigpt4-tiny, as the parity tests use it: what the reference recorded, and this
 * project's parts opened on the same files. Sizes and settings come from case.json, so that another case is another folder.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { openHuggingFaceFolder } from '../../src/model/weights/huggingface.js';
import { LanguageModel, type MicroBatch } from '../../src/model/language/languageModel.js';
import { llamaConfig, type LlamaConfig } from '../../src/model/language/llama.js';
import type { Projection } from '../../src/model/projection.js';
import { projectionFromTensors } from '../../src/model/projectionTensors.js';
import { Prompter } from '../../src/model/conversation/prompt.js';
import { openPyTorch } from '../../src/model/weights/pytorch.js';
import { openSafetensors } from '../../src/model/weights/safetensors.js';
import type { Example } from '../../src/model/language/sequence.js';
import { loadTokenizer } from '../../src/model/tokenizer/tokenizer.js';
import { toFloat32 } from '../../src/tensorflow/halfFloats.js';
import type { TensorFlow, Values } from '../../src/tensorflow/session.js';
import { microBatch } from '../../src/train/samples.js';
import { cleanCaption } from '../../src/data/captions.js';
import type { Schedule } from '../../src/train/schedule.js';
import type { CaseFile, Expected, RecordedBatch, Stage } from './minigpt4Recorded.js';

const FOLDER = join(import.meta.dirname, '../fixtures/minigpt4-tiny');
const OPTIONS = { kind: 'linear' as const, standardise: false, layerNorm: false };

/** Sizes, settings and file names. */
export const tiny = await readJson<CaseFile>('case.json');
/** What the reference's code gave. */
export const expected = await readJson<Expected>('expected.json');

const { num_query_tokens: Q, hidden: C } = tiny.qformer;
const D = tiny.llm.hidden;
/** [Q, C] of an image's features. */
export const FEATURE_SHAPE = [Q, C] as const;

const recorded = await openSafetensors(fixture('expected.safetensors'));

/** A file of the fixture. */
export function fixture(path: string): string {
  return join(FOLDER, path);
}

/** A recorded float tensor. */
export async function floats(name: string): Promise<Float32Array> {
  return toFloat32(await recorded.read(name)).slice();
}

/** A recorded tensor of bytes. */
export async function bytes(name: string): Promise<Uint8Array> {
  return (await recorded.read(name)).data.slice();
}

/** A recorded tensor of int64. */
export async function integers(name: string): Promise<number[]> {
  const { data } = await recorded.read(name);
  return Array.from(new BigInt64Array(data.slice().buffer), Number);
}

/** The Q-Former's recorded output of one image, float32[Q, C]. */
export async function imageFeatures(image: number): Promise<Float32Array> {
  const all = await floats('qformer_out');
  return all.slice(image * Q * C, (image + 1) * Q * C);
}

/** The Q-Former's recorded output of all images, float32[12, Q, C]. */
export async function allFeatures(): Promise<Values> {
  const data = await floats('qformer_out');
  return { shape: [data.length / (Q * C), Q, C], data };
}

/** The projection in a checkpoint of the original saver. */
export async function readProjection(checkpoint: 'init' | 'stage1' | 'stage2'): Promise<Projection> {
  const path = fixture(tiny.files[checkpoint]);
  const source = await openPyTorch(path, { root: 'model' });
  try {
    const names = ['llama_proj.weight', 'llama_proj.bias'];
    const tensors = await Promise.all(names.map(async (name) => [name, await source.read(name)] as const));
    return projectionFromTensors(Object.fromEntries(tensors), [C, D], OPTIONS, path);
  } finally {
    await source.close();
  }
}

/** The decoder's sizes, from its config.json. */
export async function tinyLlamaConfig(): Promise<LlamaConfig> {
  return llamaConfig(await readJson(`${tiny.files.llm}/config.json`));
}

/** The decoder with its projection, loaded from the Hugging Face folder. */
export async function openTinyModel(
  tensorflow: TensorFlow,
  precision: 'float32' | 'bfloat16',
): Promise<LanguageModel> {
  const source = await openHuggingFaceFolder(fixture(tiny.files.llm));
  try {
    const spec = { llama: llamaConfig(source.config), featureSize: C, precision, projection: OPTIONS };
    return await LanguageModel.open(tensorflow, spec, source);
  } finally {
    await source.close();
  }
}

/** The prompt format of a stage, bound to the fixture's tokenizer. */
export async function prompterOf(stage: Stage, tokenizerFile = ''): Promise<Prompter> {
  const { end_sym: endSymbol, max_txt_len: maxTargetTokens } = expected[`${stage}_batch`];
  const tokenizer = await loadTokenizer(fixture(join(tiny.files.llm, tokenizerFile)));
  const template = tiny.stage2_template;
  return new Prompter(tokenizer, {
    bos: 'tokenizer',
    template,
    captionPrefix: '',
    endSymbol,
    maxTargetTokens,
  });
}

/** A caption as stage 1 or stage 2 uses it, with the number of its image. */
export function pairsOf(stage: Stage): { readonly image: number; readonly caption: string }[] {
  if (stage === 'stage1')
    return expected.stage1_captions.map(({ raw }, image) => ({ image, caption: cleanCaption(raw) }));
  return expected.stage2_samples.map(({ image_index: image, text: caption }) => ({ image, caption }));
}

/** The question of a recorded prompt: what its template surrounds. */
export function questionOf(prompt: string): string {
  const [before = '', after = ''] = tiny.stage2_template.split('{}');
  return prompt.slice(before.length, prompt.length - after.length);
}

/** The batch of given samples, through the project's own prompt and sequence code. */
export async function batchOf(
  stage: Stage,
  prompter: Prompter,
  samples: readonly number[],
  prompt: string | null,
): Promise<{ readonly examples: readonly Example[]; readonly batch: MicroBatch }> {
  const pairs = pairsOf(stage);
  const question = prompt === null ? undefined : questionOf(prompt);
  const members = await Promise.all(
    samples.map(async (sample) => {
      const { image, caption } = pairs[sample] ?? { image: NaN, caption: '' };
      return { features: await imageFeatures(image), example: prompter.example(caption, question) };
    }),
  );
  return { examples: members.map(({ example }) => example), batch: microBatch(members, FEATURE_SHAPE) };
}

/** The recorded batch of a stage, built by this project. */
export async function recordedBatch(
  stage: Stage,
): Promise<RecordedBatch & Awaited<ReturnType<typeof batchOf>>> {
  const batch = expected[`${stage}_batch`];
  return { ...batch, ...(await batchOf(stage, await prompterOf(stage), batch.sample_indices, batch.prompt)) };
}

/** The learning-rate schedule of a stage. */
export function scheduleOfStage(stage: Stage): Schedule & { readonly stepsPerEpoch: number } {
  const { init_lr: peak, min_lr: floor, warmup_lr: start, warmup_steps: warmupSteps, ...run } = tiny[stage];
  const totalSteps = run.max_epoch * run.iters_per_epoch;
  return {
    kind: 'reference',
    peak,
    floor,
    start,
    warmupSteps,
    totalSteps,
    stepsPerEpoch: run.iters_per_epoch,
  };
}

async function readJson<T>(path: string): Promise<T> {
  return JSON.parse(await readFile(fixture(path), 'utf8')) as T; // the fixture's own files
}
