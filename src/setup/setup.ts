/** Everything a fresh machine needs: the TensorFlow runtime and the default models. */
import type { Config } from '../config/schema.js';
import type { ModelFolders } from '../model/miniGpt4.js';
import type { RuntimeFolder } from '../runtimeFolder.js';
import { ensureDefaultModels, modelFolder, type DefaultModels } from './models.js';
import type { OnProgress } from './progress.js';
import { ensureRuntime } from './runtime.js';

/** Options of `setup`. */
export interface SetupOptions {
  readonly onProgress?: OnProgress;
  /** Fetch the default models too (about 0.2 GB, 0.65 GB on disk). */
  readonly models?: boolean;
  /** Which TensorFlow; by default the GPU's where an NVIDIA driver is found. */
  readonly device?: 'cpu' | 'gpu';
}

/** What is set up. */
export interface SetupResult {
  readonly runtime: RuntimeFolder;
  /** Missing where they were not asked for. */
  readonly models?: DefaultModels;
}

/**
 * Sets up what is missing, under the per-user cache; returns within milliseconds when all is there.
 *
 * @throws UserError saying what to install or do, as `ensureRuntime` and `ensureDefaultModels` do
 */
export async function setup({ models = true, ...options }: SetupOptions = {}): Promise<SetupResult> {
  const runtime = await ensureRuntime(options);
  if (!models) return { runtime };
  return { runtime, models: await ensureDefaultModels(options) };
}

/**
 * Folders of a configuration's models: paths as they are, the default models by name.
 *
 * @throws UserError if one is not set up or not there
 */
export async function modelFolders({ model }: Pick<Config, 'model'>): Promise<ModelFolders> {
  const { encoder, llm, qformer } = model;
  return { encoder: await modelFolder(encoder), llm: await modelFolder(llm), qformer };
}
