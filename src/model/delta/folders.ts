/** Opening the two folders of a merge, and telling the usual ways in which people's copies of them are not whole. */
import { open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';

import { UserError } from '../../errors.js';
import { fileError } from '../../files.js';
import { openHuggingFaceFolder, type HuggingFaceFolder } from '../weights/huggingface.js';

const POINTER_START = 'version https://git-lfs';
const POINTER_BYTES = 1024; // git-lfs, docs/spec.md: a pointer file is shorter than this
const SHARD = /^(.+)-(\d{5})-of-(\d{5})(\.safetensors|\.bin)$/;

/**
 * Opens a model folder in the Hugging Face layout.
 *
 * @throws UserError as `openHuggingFaceFolder` does, and if files are git-lfs pointers, shards are missing (naming all
 * of them), or the folder is in the layout in which Meta gives LLaMA out
 */
export async function openForMerge(folder: string): Promise<HuggingFaceFolder> {
  const files = await readdir(folder).catch((error: unknown) => {
    throw fileError(folder, error);
  });
  await refusePointers(folder, files);
  try {
    return await openHuggingFaceFolder(folder);
  } catch (error) {
    const fault = error instanceof UserError ? explain(files) : undefined;
    throw fault === undefined ? error : new UserError(`${folder}: ${fault}`, { cause: error });
  }
}

/** A clone without `git lfs pull` holds short texts in place of weights and tokenizer. */
async function refusePointers(folder: string, files: readonly string[]): Promise<void> {
  const pointers: string[] = [];
  for (const file of files) if (await isPointer(join(folder, file))) pointers.push(file);
  if (pointers.length === 0) return;
  throw new UserError(
    `${folder}: files must be there themselves, got git-lfs pointers for ${pointers.join(', ')} (git lfs pull in that folder, or fetch the files)`,
  );
}

async function isPointer(path: string): Promise<boolean> {
  try {
    const stats = await stat(path);
    if (!stats.isFile() || stats.size >= POINTER_BYTES) return false;
    const handle = await open(path, 'r');
    try {
      const { buffer, bytesRead } = await handle.read(Buffer.alloc(POINTER_START.length), 0);
      return buffer.toString('latin1', 0, bytesRead) === POINTER_START;
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw fileError(path, error);
  }
}

/** What is wrong with a folder that cannot be opened, where its files' names tell it. */
function explain(files: readonly string[]): string | undefined {
  const meta = files.filter((file) => /^consolidated\.\d+\.pth$|^params\.json$/.test(file)).sort();
  if (meta.length > 0 && !files.includes('config.json')) {
    return `must be in the Hugging Face layout, got Meta's own with ${meta.join(', ')} (convert it first, with transformers' convert_llama_weights_to_hf.py)`;
  }
  const missing = missingShards(files);
  if (missing.length === 0) return undefined;
  return `must hold all its shards, got none of the name ${missing.join(', ')} (fetch what is missing)`;
}

/** Names that the numbering of the shards that are there asks for: `pytorch_model-00002-of-00002.bin`. */
function missingShards(files: readonly string[]): string[] {
  const wanted = files.flatMap((file) => {
    const [, stem = '', , count = '', ending = ''] = SHARD.exec(file) ?? [];
    const numbers = Array.from({ length: Number(count) }, (_, i) => String(i + 1).padStart(5, '0'));
    return numbers.map((number) => `${stem}-${number}-of-${count}${ending}`);
  });
  return [...new Set(wanted)].filter((file) => !files.includes(file)).sort();
}
