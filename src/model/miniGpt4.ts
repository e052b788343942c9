/** The assembled system: tokenizer, frozen encoder, frozen LLM, opened from a configuration's `model` section. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { ModelConfig } from '../config/schema.js';
import { toFloat32 } from '../tensorflow/halfFloats.js';
import { nativePrecision } from '../tensorflow/precision.js';
import { TensorFlow } from '../tensorflow/session.js';
import { Encoder } from './vision/encoder.js';
import { openHuggingFaceFolder } from './weights/huggingface.js';
import { LanguageModel } from './language/languageModel.js';
import type { Precision } from './layers.js';
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
  const llmSource = await openHuggingFaceFolder(folders.llm);
  const tensorflow = await TensorFlow.open({ threads: config.threads });
  try {
    const precision: Precision =
      config.precision === 'auto' ? nativePrecision(tensorflow.facts.device) : config.precision;
    const encoder = await Encoder.open(tensorflow, { ...vision.spec, precision }, vision.sources, (done) =>
      onProgress?.('vision encoder', done),
    );
    const { standardise, layerNorm } = config.projection;
    const spec = {
      llama: llamaConfig(llmSource.config),
      featureSize: encoder.featureShape[1],
      precision,
      projection: { standardise, layerNorm },
    };
    const language = await LanguageModel.open(tensorflow, spec, llmSource, (done) =>
      onProgress?.('language model', done),
    );
    const hashes = {
      encoder: await hashWeights(folders.encoder, folders.qformer),
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
    await closeAll(vision, llmSource);
  }
}

/** SHA-256 over weights: of a folder its `config.json` and weight files, else the file itself. */
export async function hashWeights(...paths: readonly (string | undefined)[]): Promise<string> {
  const hash = createHash('sha256');
  for (const path of paths)
    for (const file of path === undefined ? [] : await weightFiles(path))
      await pipeline(createReadStream(file, { highWaterMark: 4 << 20 }), hash, { end: false });
  return hash.digest('hex');
}

async function weightFiles(path: string): Promise<string[]> {
  if (!(await stat(path)).isDirectory()) return [path];
  const names = (await readdir(path)).filter(
    (name) => name === 'config.json' || /\.(safetensors|bin)$/.test(name),
  );
  return names.sort().map((name) => join(path, name));
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

async function closeAll(...sources: readonly { close(): Promise<void> }[]): Promise<void> {
  for (const source of sources) await source.close();
}
