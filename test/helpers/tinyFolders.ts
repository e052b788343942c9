/** The tiny random models as folders on disk, with the tiny LLaMA tokenizer: what the command line opens. */
import { cp, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { writeSafetensors } from '../../src/model/weights/safetensors.js';
import type { WeightSource } from '../../src/model/weights/weights.js';
import sharp from 'sharp';
import { writeShards } from '../../src/data/shards/shardWriter.js';
import type { ImageTextPair } from '../../src/data/pairs.js';
import { TINY_LLAMA, TINY_VIT, tinyLlama, tinyVit } from './tinyModels.js';

const TOKENIZER = fileURLToPath(new URL('../fixtures/tokenizers/tiny-llama', import.meta.url));
/** Pieces of the tiny tokenizer. */
const VOCABULARY = 600;

/** Writes `llm` and `encoder` into `folder`. */
export async function writeTinyModels(folder: string): Promise<{ llm: string; encoder: string }> {
  const [llm, encoder] = [join(folder, 'llm'), join(folder, 'encoder')];
  const llama = { ...TINY_LLAMA, vocabSize: VOCABULARY };
  await cp(TOKENIZER, llm, { recursive: true });
  await writeModel(llm, tinyLlama(llama).source, {
    model_type: 'llama',
    hidden_size: llama.hiddenSize,
    intermediate_size: llama.intermediateSize,
    num_hidden_layers: llama.layers,
    num_attention_heads: llama.heads,
    num_key_value_heads: llama.kvHeads,
    head_dim: llama.headWidth,
    rms_norm_eps: llama.rmsNormEps,
    rope_theta: llama.ropeTheta,
    vocab_size: llama.vocabSize,
    tie_word_embeddings: llama.tiedHead,
  });
  await writeModel(encoder, tinyVit().source, {
    model_type: 'dinov2',
    hidden_size: TINY_VIT.hiddenSize,
    num_hidden_layers: TINY_VIT.layers,
    num_attention_heads: TINY_VIT.heads,
    mlp_ratio: TINY_VIT.mlpSize / TINY_VIT.hiddenSize,
    patch_size: TINY_VIT.patchSize,
    layer_norm_eps: TINY_VIT.layerNormEps,
    image_mean: TINY_VIT.imageMean,
    image_std: TINY_VIT.imageStd,
  });
  return { llm, encoder };
}

/** Shards of `rows` small coloured pictures. */
export async function writeTinyShards(folder: string, rows: number): Promise<void> {
  async function* pairs(): AsyncGenerator<ImageTextPair> {
    for (let i = 0; i < rows; i++)
      yield { id: `tiny-${i}`, image: await tinyPicture(i), caption: `a picture of number ${i}`, extra: {} };
  }
  await writeShards(folder, pairs(), { rowsPerShard: 16 });
}

/** A PNG of one colour. */
export async function tinyPicture(i: number): Promise<Uint8Array> {
  const background = { r: (i * 37) % 256, g: (i * 91) % 256, b: (i * 151) % 256 };
  return sharp({ create: { width: 12, height: 10, channels: 3, background } })
    .png()
    .toBuffer();
}

/** A configuration of the tiny models: file text. */
export function tinyConfig(
  stage: 'pretrain' | 'finetune',
  folders: { llm: string; encoder: string },
  root: string,
): string {
  return `
model: { encoder: ${folders.encoder}, llm: ${folders.llm}, imageSize: ${TINY_VIT.imageSize}, precision: float32, tokens: { kind: grid, grid: 2, cls: true }, projection: { standardise: true, layerNorm: true } }
data: { train: [{ shards: ${join(root, 'shards')} }], heldOut: { shards: ${join(root, 'shards')}, maxRows: 6 } }
prompt: { ${stage === 'finetune' ? "template: '{} Answer: ', questions: ['<ImageHere> What is it?', 'See <ImageHere>.']," : ''} maxTargetTokens: 16 }
train:
  stage: ${stage}
  steps: 60
  batchSize: 4
  microBatchSize: 2
  schedule: { peak: 1e-2, warmupSteps: 5 }
  logEvery: 1
  saveEvery: 5
  ${stage === 'finetune' ? `initFrom: ${join(root, 'runs', 'stage1')}` : ''}
evaluate: { captions: 2, maxNewTokens: 4, batchSize: 4 }
run: { folder: ${join(root, 'runs', stage === 'finetune' ? 'stage2' : 'stage1')}, seed: 3 }
`;
}

async function writeModel(folder: string, source: WeightSource, config: object): Promise<void> {
  await mkdir(folder, { recursive: true });
  const entries = source
    .names()
    .map((name) => ({ ...source.info(name), read: async () => (await source.read(name)).data }));
  await writeSafetensors(join(folder, 'model.safetensors'), entries);
  await writeFile(join(folder, 'config.json'), JSON.stringify(config));
}
