/**
 * Converts the model files people have into Hugging Face folders (config.json, model.safetensors), once, so that
 * everything after it knows one layout. A folder appears whole or not at all; the same input gives the same bytes.
 */
import { basename, join } from 'node:path';

import { sha256OfFile, writeFileWhole, writeFolderWhole } from '../../files.js';
import type { ModelContent } from './convertContent.js';
import { dinov2Model } from './convertDinov2.js';
import { llamaModel } from './convertLlama.js';
import { openGguf } from '../weights/gguf.js';
import { openOnnx } from '../weights/onnx.js';
import { writeSafetensors } from '../weights/safetensors.js';

/**
 * Converts a GGUF file of architecture `llama` to a Hugging Face LLaMA folder in float32.
 *
 * @param outFolder made by this; must not exist, or be empty
 * @throws UserError if the file is damaged, of another architecture, or holds tensors that a LLaMA has not
 */
export async function convertGgufLlama(ggufPath: string, outFolder: string): Promise<void> {
  const gguf = await openGguf(ggufPath);
  try {
    await writeModelFolder(outFolder, llamaModel(gguf), ggufPath);
  } finally {
    await gguf.close();
  }
}

/**
 * Converts an ONNX file that holds a DINOv2 encoder, as torch exports it, to a Hugging Face Dinov2 folder in float32.
 * Whatever else the file holds (heads, decoders) is left out.
 *
 * @param outFolder made by this; must not exist, or be empty
 * @throws UserError if the file is damaged or no DINOv2 is found in it
 */
export async function convertOnnxDinov2(onnxPath: string, outFolder: string): Promise<void> {
  const onnx = await openOnnx(onnxPath);
  try {
    await writeModelFolder(outFolder, dinov2Model(onnx), onnxPath);
  } finally {
    await onnx.close();
  }
}

async function writeModelFolder(outFolder: string, model: ModelContent, source: string): Promise<void> {
  await writeFolderWhole(outFolder, async (folder) => {
    const origin = { file: basename(source), sha256: await sha256OfFile(source) };
    const config = { ...model.config, minigpt4_origin: origin };
    await writeSafetensors(join(folder, 'model.safetensors'), model.tensors, { format: 'pt' });
    await writeFileWhole(join(folder, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
  });
}
