/** The tiny decoder behind MiniGPT-4's tiny tokenizer, as something that answers. */
import { join } from 'node:path';
import type { Assistant } from '../../src/model/conversation/reply.js';
import { LanguageModel } from '../../src/model/language/languageModel.js';
import type { LlamaConfig } from '../../src/model/language/llama.js';
import type { ProjectionOptions } from '../../src/model/projection.js';
import { loadTokenizer } from '../../src/model/tokenizer/tokenizer.js';
import type { TensorFlow } from '../../src/tensorflow/session.js';
import { TINY_FEATURES, tinyLlama, tinyProjection } from './tinyModels.js';

/** @param llama with at least the tokenizer's 601 rows */
export async function tinyAssistant(
  tensorflow: TensorFlow,
  llama: LlamaConfig,
  options: ProjectionOptions,
): Promise<Assistant> {
  const tokenizer = await loadTokenizer(
    join(import.meta.dirname, '../fixtures/minigpt4-tiny/weights/llm/tokenizer.model'),
  );
  const spec = {
    llama,
    featureSize: TINY_FEATURES.channels,
    precision: 'float32' as const,
    projection: options,
  };
  const model = await LanguageModel.open(tensorflow, spec, tinyLlama(llama).source);
  return { model, projection: tinyProjection(options), tokenizer };
}
