/** Where a projection's weights come from when a run begins. */
import type { Config } from '../config/schema.js';
import { randomAt } from '../data/order.js';
import { UserError } from '../errors.js';
import type { MiniGpt4, PartHashes } from '../model/miniGpt4.js';
import {
  featureStatistics,
  initialProjection,
  projectionFromTensors,
  type FeatureStatistics,
  type Projection,
} from '../model/projection.js';
import { findProjection, type Checkpoint } from './checkpoint.js';
import { prefetch } from './prefetch.js';
import { readProjection } from './projectionFiles.js';
import type { Samples } from './samples.js';

/** Samples over which the feature statistics are taken: the first ones of the training order. */
const STATISTICS_SAMPLES = 2048;
/** Samples under way at once, so that decoding goes on while the encoder computes. */
const DECODED_AHEAD = 8;

/** What is told while a projection is made ready. */
export interface StartEvents {
  /** Share of the training images encoded for their statistics, 0…1. */
  readonly onProgress?: (done: number) => void;
  readonly note?: (text: string) => void;
}

/**
 * The run's own checkpoint, else the named stage-1 projection, else fresh weights.
 *
 * @throws UserError if the checkpoint belongs to another encoder or LLM
 */
export async function startProjection(
  config: Config,
  model: MiniGpt4,
  samples: Samples,
  checkpoint: Checkpoint | undefined,
  { onProgress, note }: StartEvents = {},
): Promise<Projection> {
  const sizes = projectionSizes(model);
  const { standardise, layerNorm, init, initialScale } = config.model.projection;
  const options = { standardise, layerNorm };
  if (checkpoint) {
    checkParts(checkpoint, model.hashes);
    return projectionFromTensors(checkpoint.projection, sizes, options, checkpoint.folder);
  }
  if (config.train.initFrom) return loadProjection(config.train.initFrom, config, model, note);
  const statistics = standardise ? await trainingStatistics(samples, sizes[0], onProgress) : undefined;
  const start =
    init === 'torch' ? { kind: init } : { kind: init, rms: await model.embeddingRms(), scale: initialScale };
  return initialProjection(sizes, options, start, deviates(config.run.seed), statistics);
}

/**
 * Loads a trained projection from a run, a checkpoint or a file, for the model of a configuration.
 *
 * @param note told which tensors of the file are no part of a projection, as official checkpoints hold some
 * @throws UserError naming both widths if it was trained for others, or what is missing
 */
export async function loadProjection(
  path: string,
  config: Config,
  model: MiniGpt4,
  note?: (text: string) => void,
): Promise<Projection> {
  const file = await findProjection(path);
  const { standardise, layerNorm } = config.model.projection;
  const { tensors, ignored } = await readProjection(file);
  if (ignored.length > 0) note?.(`${file}: not used: ${ignored.join(', ')}`);
  return projectionFromTensors(tensors, projectionSizes(model), { standardise, layerNorm }, file);
}

/** [C, D]: feature width and LLM width. */
export function projectionSizes({ encoder, language }: MiniGpt4): readonly [number, number] {
  return [encoder.featureShape[1], language.spec.llama.hiddenSize];
}

async function trainingStatistics(
  samples: Samples,
  C: number,
  onProgress: (done: number) => void = () => undefined,
): Promise<FeatureStatistics> {
  const count = Math.min(samples.rows, STATISTICS_SAMPLES);
  const features: Float32Array[] = [];
  for await (const sample of prefetch(0, count, DECODED_AHEAD, (position) => samples.at(position, 0))) {
    features.push(sample.features);
    onProgress(features.length / count);
  }
  return featureStatistics(features, C);
}

function deviates(seed: number): () => number {
  let index = 0;
  return () => randomAt(seed, index++, 'projection');
}

function checkParts(checkpoint: Checkpoint, hashes: PartHashes): void {
  const { parts } = checkpoint.state;
  const changed = (['encoder', 'llm', 'tokenizer'] as const).find((part) => parts[part] !== hashes[part]);
  if (!changed) return;
  throw new UserError(
    `${checkpoint.folder}: was trained with the ${changed} of SHA-256 ${parts[changed] ?? 'unknown'}, got ${hashes[changed]} (restore that ${changed}, or start another run)`,
  );
}
