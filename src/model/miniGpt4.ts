/** The assembled system: tokenizer, frozen encoder, frozen LLM, opened from a configuration's `model` section. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { ModelConfig } from '../config/schema.js';
import { toFloat32 } from '../tensorflow/halfFloats.js';
import { nativePrecision } from '../tensorflow/precision.js';
import { TensorFlow } from '../tensorflow/session.js';
import { Encoder } from './encoder.js';
import { openHuggingFaceFolder } from './huggingface.js';
import { LanguageModel } from './languageModel.js';
import type { Precision } from './layers.js';
import { llamaConfig } from './llama.js';
import { loadTokenizer, type Tokenizer } from './tokenizer.js';
import { vitConfig } from './vit.js';
import type { WeightSource } from './weights.js';

/** Folders of the frozen parts, names already resolved. */
export interface ModelFolders {
  readonly encoder: string;
  readonly llm: string;
}

/** SHA-256 of what a projection was trained against. */
export interface PartHashes {
  readonly encoder: string;
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
  const encoderSource = await openHuggingFaceFolder(folders.encoder);
  const llmSource = await openHuggingFaceFolder(folders.llm);
  const tensorflow = await TensorFlow.open({ threads: config.threads });
  try {
    const precision: Precision =
      config.precision === 'auto' ? nativePrecision(tensorflow.facts.device) : config.precision;
    const vit = vitConfig(encoderSource.config, config.imageSize);
    const encoderSpec = { vit, depth: config.encoderLayer ?? vit.layers, tokens: config.tokens, precision };
    const encoder = await Encoder.open(tensorflow, encoderSpec, encoderSource, (done) =>
      onProgress?.('vision encoder', done),
    );
    const { standardise, layerNorm } = config.projection;
    const spec = {
      llama: llamaConfig(llmSource.config),
      featureSize: vit.hiddenSize,
      precision,
      projection: { standardise, layerNorm },
    };
    const language = await LanguageModel.open(tensorflow, spec, llmSource, (done) =>
      onProgress?.('language model', done),
    );
    const hashes = {
      encoder: await hashFolder(folders.encoder),
      llm: await hashFolder(folders.llm),
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
    await closeAll(encoderSource, llmSource);
  }
}

/** SHA-256 over `config.json` and the weight files of a model folder. */
export async function hashFolder(folder: string): Promise<string> {
  const names = (await readdir(folder))
    .filter((name) => name === 'config.json' || /\.(safetensors|bin)$/.test(name))
    .sort();
  const hash = createHash('sha256');
  for (const name of names)
    await pipeline(createReadStream(join(folder, name), { highWaterMark: 4 << 20 }), hash, { end: false });
  return hash.digest('hex');
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

async function closeAll(...sources: WeightSource[]): Promise<void> {
  for (const source of sources) await source.close();
}
