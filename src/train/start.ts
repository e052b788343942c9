/** Where a projection's weights come from when a run begins. */
import type { Config } from '../config/schema.js';
import type { BadSampleLedger } from '../data/ledger.js';
import { projectionSizes, type MiniGpt4 } from '../model/miniGpt4.js';
import { projectionOptions, type Projection } from '../model/projection.js';
import { projectionFromTensors } from '../model/projectionTensors.js';
import { findProjection, type Checkpoint } from './checkpoint.js';
import { freshProjection } from './freshProjection.js';
import {
  ALL_PARTS,
  FROZEN_PARTS,
  identityOf,
  recordedIdentity,
  requireIdentity,
  type Part,
} from './identity.js';
import { readProjection } from './projectionFiles.js';
import type { Samples } from './samples.js';

/** What is told while a projection is made ready. */
export interface StartEvents {
  /** Share of the training images encoded from which the projection begins, 0…1. */
  readonly onProgress?: (done: number) => void;
  readonly note?: (text: string) => void;
}

/**
 * The run's own checkpoint, else the named stage-1 projection, else fresh weights.
 *
 * @throws UserError if the checkpoint belongs to another encoder or LLM, or too many of the samples are bad
 */
export async function startProjection(
  config: Config,
  model: MiniGpt4,
  samples: Samples,
  ledger: BadSampleLedger,
  checkpoint: Checkpoint | undefined,
  { onProgress, note }: StartEvents = {},
): Promise<Projection> {
  const sizes = projectionSizes(model);
  const options = projectionOptions(config.model.projection);
  if (checkpoint) {
    requireIdentity(
      checkpoint.folder,
      checkpoint.state.parts,
      identityOf(config, model),
      ALL_PARTS,
      'restore that part, or start another run',
    );
    return projectionFromTensors(checkpoint.projection, sizes, options, checkpoint.folder);
  }
  if (config.train.initFrom)
    return loadProjection(config.train.initFrom, config, model, { parts: FROZEN_PARTS, note });
  return freshProjection(config, model, samples, ledger, onProgress);
}

/**
 * Loads a trained projection from a run, a checkpoint or a file, for the model of a configuration.
 *
 * @param options.note told which tensors of the file are no part of a projection, as official checkpoints hold some, and
 * where the file does not say what it was trained with
 * @param options.parts what must be as it was trained with; all by default
 * @throws UserError naming both widths if it was trained for others, what is missing, or the part that is another one
 */
export async function loadProjection(
  path: string,
  config: Config,
  model: MiniGpt4,
  { note, parts = ALL_PARTS }: LoadOptions = {},
): Promise<Projection> {
  const file = await findProjection(path);
  const { tensors, ignored } = await readProjection(file);
  const projection = projectionFromTensors(
    tensors,
    projectionSizes(model),
    projectionOptions(config.model.projection),
    file,
  );
  const recorded = await recordedIdentity(file);
  if (Object.keys(recorded).length === 0)
    note?.(`${file}: does not say which encoder, LLM and prompts it was trained with`);
  if (config.model.identity === 'strict')
    requireIdentity(
      file,
      recorded,
      identityOf(config, model),
      parts,
      'name that part, or set model.identity=ignore',
    );
  if (ignored.length > 0) note?.(`${file}: not used: ${ignored.join(', ')}`);
  return projection;
}

/** How a projection is loaded. */
export interface LoadOptions {
  readonly note?: ((text: string) => void) | undefined;
  readonly parts?: readonly Part[];
}
