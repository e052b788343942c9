/** The assembled system: tokenizer, frozen encoder, frozen LLM, opened from a configuration's `model` section. */
import type { ModelConfig } from '../config/schema.js';
import { toFloat32 } from '../tensorflow/halfFloats.js';
import { nativePrecision } from '../tensorflow/precision.js';
import { TensorFlow } from '../tensorflow/session.js';
import { Encoder } from './vision/encoder.js';
import { hashWeights } from './weights/hashes.js';
import { openHuggingFaceFolder } from './weights/huggingface.js';
import { LanguageModel } from './language/languageModel.js';
import type { Precision } from './layers.js';
import { projectionOptions } from './projection.js';
import { llamaConfig } from './language/llama.js';
import { loadTokenizer, type Tokenizer } from './tokenizer/tokenizer.js';
import { openVision } from './vision/vision.js';

/** Folders, or files, of the frozen parts, names already resolved. */
export interface ModelFolders {
  readonly encoder: string;
  readonly llm: string;
  /** Where `ln_vision` and Q-Former lie, if not with the encoder. */
  readonly qformer?: string | undefined;
}

/** SHA-256 of what a projection was trained against. */
export interface PartHashes {
  readonly encoder: string;
  /** Where it lies apart from the encoder. */
  readonly qformer?: string;
  readonly llm: string;
  readonly tokenizer: string;
}

/** Everything frozen, loaded. Whoever opened it closes it. */
export interface MiniGpt4 {
  readonly tensorflow: TensorFlow;
  readonly encoder: Encoder;
  readonly language: LanguageModel;
  readonly tokenizer: Tokenizer;
  /** Root mean square of the LLM's word embeddings; reads them again, since only a fresh projection asks. */
  embeddingRms(): Promise<number>;
  readonly hashes: PartHashes;
  close(): Promise<void>;
}

/**
 * Loads the frozen parts.
 *
 * @param onProgress told what is being loaded and the share done, 0…1
 * @throws UserError if set-up has not run, or a file is missing, damaged or of another architecture
 */
export async function openMiniGpt4(
  config: ModelConfig,
  folders: ModelFolders,
  onProgress?: (part: string, done: number) => void,
): Promise<MiniGpt4> {
  const tokenizer = await loadTokenizer(folders.llm);
  const vision = await openVision(config, folders);
  const tensorflow = await TensorFlow.open(config);
  try {
    const spec = { ...vision.spec, ...arithmeticOf(config, tensorflow) };
    const encoder = await Encoder.open(tensorflow, spec, vision.sources, (done) =>
      onProgress?.('vision encoder', done),
    );
    const language = await openLanguageModel(
      tensorflow,
      config,
      { folder: folders.llm, featureSize: encoder.featureShape[1] },
      (done) => onProgress?.('language model', done),
    );
    const hashes = {
      encoder: await hashWeights(folders.encoder),
      ...(folders.qformer !== undefined && { qformer: await hashWeights(folders.qformer) }),
      llm: await hashWeights(folders.llm),
      tokenizer: tokenizer.sha256,
    };
    return {
      tensorflow,
      encoder,
      language,
      tokenizer,
      embeddingRms: () => embeddingRms(folders.llm),
      hashes,
      close: () => tensorflow.close(),
    };
  } catch (error) {
    await tensorflow.close();
    throw error;
  } finally {
    await vision.close();
  }
}

/** [C, D]: feature width and LLM width, which a projection of this model has. */
export function projectionSizes({
  encoder,
  language,
}: Pick<MiniGpt4, 'encoder' | 'language'>): readonly [C: number, D: number] {
  return [encoder.featureShape[1], language.spec.llama.hiddenSize];
}

/**
 * Loads the frozen LLM alone, with the projection of a configuration before it.
 *
 * @param llm.featureSize C: channels of the features that will be given
 * @throws UserError if a file is missing, damaged or of another architecture
 */
export async function openLanguageModel(
  tensorflow: TensorFlow,
  config: ModelConfig,
  { folder, featureSize }: { readonly folder: string; readonly featureSize: number },
  onProgress?: (done: number) => void,
): Promise<LanguageModel> {
  const source = await openHuggingFaceFolder(folder);
  try {
    const spec = {
      llama: llamaConfig(source.config),
      featureSize,
      ...arithmeticOf(config, tensorflow),
      projection: projectionOptions(config.projection),
    };
    return await LanguageModel.open(tensorflow, spec, source, onProgress);
  } finally {
    await source.close();
  }
}

/** The precision of a configuration on this machine, and whether its products are made in float32 all the same. */
function arithmeticOf(
  { precision: wanted }: ModelConfig,
  { facts: { device } }: TensorFlow,
): { precision: Precision; widen: boolean } {
  const native = nativePrecision(device);
  const precision = wanted === 'auto' ? native : wanted;
  return { precision, widen: precision === 'bfloat16' && native === 'float32' };
}

async function embeddingRms(folder: string): Promise<number> {
  const source = await openHuggingFaceFolder(folder);
  try {
    return rootMeanSquare(toFloat32(await source.read('model.embed_tokens.weight')));
  } finally {
    await source.close();
  }
}

function rootMeanSquare(values: Float32Array): number {
  let sum = 0;
  for (const value of values) sum += value * value;
  return Math.sqrt(sum / values.length);
}
