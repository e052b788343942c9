/** Where set-up puts TensorFlow and our addon: one folder of the per-user cache for each version of the recipe. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { cacheFolder } from './cache.js';
import { UserError } from './errors.js';

/** Raised whenever set-up builds something different, so that old folders are left alone. */
export const RUNTIME_RECIPE = 'tf-2.21.0-tfjs-4.22.0-r3';

/** Paths inside the runtime folder. */
export interface RuntimeFolder {
  readonly folder: string;
  /** package.json from which `require` finds tfjs-node-gpu. */
  readonly modules: string;
  /** Our addon, of the sources in `runtime`; native.ts loads it. */
  readonly native: string;
  /** Written last: set-up is complete. Holds what was installed. */
  readonly marker: string;
}

/** The paths for the CPU or the GPU build; nothing is checked. */
export function runtimeFolder(device: 'cpu' | 'gpu'): RuntimeFolder {
  const folder = join(
    cacheFolder(),
    'runtime',
    `${RUNTIME_RECIPE}-${device}-${process.platform}-${process.arch}`,
  );
  return {
    folder,
    modules: join(folder, 'package.json'),
    native: join(folder, 'native.node'),
    marker: join(folder, 'complete.json'),
  };
}

/** The runtime that is set up: the GPU build where there is one, else the CPU build. */
export function requireRuntime(): RuntimeFolder {
  const found = (['gpu', 'cpu'] as const).map(runtimeFolder).find(({ marker }) => existsSync(marker));
  if (!found)
    throw new UserError(
      `tensorflow: the runtime is not set up in ${cacheFolder()} (run "npm run -s minigpt4 -- setup" in a clone, "npx minigpt4 setup" elsewhere)`,
    );
  return found;
}
