/** `minigpt4 export`: a trained projection as one file that other programs read, checked after writing. */
import { existsSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { dirname, extname, join } from 'node:path';

import { RESOLVED_HEADER } from '../config/describe.js';
import { loadConfig } from '../config/load.js';
import type { Config } from '../config/schema.js';
import { UserError } from '../errors.js';
import { fileError } from '../files.js';
import { projectionShapes } from '../model/projection.js';
import { kindOfTensors, sizesOfTensors } from '../model/projectionTensors.js';
import type { HostTensor } from '../tensorflow/dtypes.js';
import { packageVersion } from '../version.js';
import { findProjection, stateBeside } from './checkpoint.js';
import type { StoredState } from './checkpointState.js';
import { probeLogits, type Probe } from './exportProbe.js';
import type { NamedTensors } from './namedTensors.js';
import {
  FORMAT_ENDINGS,
  projectionMetadata,
  readProjection,
  writeProjection,
  type ProjectionFormat,
} from './projectionFiles.js';

/** Options of `exportProjection`. */
export interface ExportOptions {
  /** Replace a file that is there. */
  readonly force?: boolean;
  /** What programs are to read the file; safetensors if left out. */
  readonly format?: ProjectionFormat;
  /**
   * Gives the folder of a configuration's LLM, through which both projections are then probed. Left out: the tensors alone
   * are compared.
   */
  readonly llmFolder?: (config: Config) => Promise<string>;
  /** Told the share of the LLM that is loaded for the probe, 0…1. */
  readonly onProgress?: (done: number) => void;
}

/** What was written. */
export interface ExportResult {
  readonly file: string;
  /** The projection file it was made from. */
  readonly source: string;
  /** Name, dtype and shape of each tensor, as read back from `file` and found equal to the source's. */
  readonly tensors: readonly (Pick<HostTensor, 'dtype' | 'shape'> & { readonly name: string })[];
  /** Other tensors of the source, which are no part of a projection and were left out. */
  readonly ignored: readonly string[];
  readonly metadata: Readonly<Record<string, string>>;
  /** Logits that the file gives, found equal to the source's; missing where none were asked for or the LLM is not known. */
  readonly probe?: Probe;
}

/**
 * Writes the projection of `from` to `out`: `llama_proj.weight` float32[D, C], `llama_proj.bias` float32[D] (of a deeper
 * projection `llama_proj.0.weight` …) and, where the features are standardised, `feature_norm.mean` and `feature_norm.std` float32[C]. The metadata say the step, what
 * happens to the features before the projection, and the SHA-256 of the frozen parts it was trained with. Formats
 * `minigpt4` and `llava` hold the two tensors under their programs' names. The file is written whole, read back, and
 * compared tensor by tensor; where the run's LLM is at hand, both projections also give the logits of a probe batch.
 *
 * @param from run folder (its newest checkpoint), checkpoint folder, or `.safetensors`, `.pth` or `.bin` file
 * @throws UserError if `from` holds no whole projection, the format has no room for it, or `out` is there already, has
 * another format's ending or cannot be written
 */
export async function exportProjection(
  from: string,
  out: string,
  { force = false, format = 'safetensors', llmFolder, onProgress }: ExportOptions = {},
): Promise<ExportResult> {
  requireTarget(out, format, force);
  const source = await findProjection(from);
  const { tensors, ignored } = await readProjection(source);
  requireProjection(source, tensors);
  const state = await stateBeside(source);
  const config = state && (await configOf(source));
  const metadata = await metadataOf(source, state, config);
  await mkdir(dirname(out), { recursive: true }).catch((error: unknown) => {
    throw fileError(dirname(out), error);
  });
  await writeProjection(out, format, tensors, metadata);
  const written = await requireEqual(out, tensors);
  const probe =
    llmFolder && config
      ? await probeLogits(config, await llmFolder(config), [tensors, written], onProgress)
      : undefined;
  return {
    file: out,
    source,
    tensors: Object.entries(tensors).map(([name, { dtype, shape }]) => ({ name, dtype, shape })),
    ignored,
    metadata,
    ...(probe && { probe }),
  };
}

function requireTarget(out: string, format: ProjectionFormat, force: boolean): void {
  const endings = FORMAT_ENDINGS[format];
  if (!endings.includes(extname(out))) {
    throw new UserError(`export: the file must end in ${endings.join(' or ')}, got ${out} (name it so)`);
  }
  if (!force && existsSync(out)) {
    throw new UserError(`export: ${out} must be a new file, got one that is there (--force replaces it)`);
  }
}

function requireProjection(source: string, tensors: NamedTensors): void {
  const kind = kindOfTensors(Object.keys(tensors));
  if (kind === undefined) {
    throw new UserError(
      `${source}: a projection must hold llama_proj.weight and llama_proj.bias, or those of its layers, got ${Object.keys(tensors).join(', ') || 'neither'}`,
    );
  }
  const [C, D] = sizesOfTensors(tensors, kind);
  const layers = Object.entries(projectionShapes(kind, [C, D])).map(
    ([name, shape]) => [`llama_proj.${name}`, shape] as const,
  );
  const [first] = layers[0] ?? [''];
  for (const [name, shape] of [...layers, ['feature_norm.mean', [C]], ['feature_norm.std', [C]]] as const) {
    const tensor = tensors[name];
    if (tensor === undefined || tensor.shape.join() === shape.join()) continue;
    throw new UserError(
      `${source}: ${name} must be [${shape.join(', ')}] beside ${first} [${tensors[first]?.shape.join(', ') ?? ''}], got [${tensor.shape.join(', ')}]`,
    );
  }
}

/** What is known about the projection: from its checkpoint and run, else what the file itself says. */
async function metadataOf(
  source: string,
  state: StoredState | undefined,
  config: Config | undefined,
): Promise<Record<string, string>> {
  const common = { format: 'pt', producer: `minigpt4-align ${packageVersion}` };
  if (!state) return { ...(await projectionMetadata(source)), ...common };
  return { ...common, ...stateMetadata(state), ...(config && configMetadata(config)) };
}

function stateMetadata({ step, seed, precision, parts }: StoredState): Record<string, string> {
  const hashes = Object.entries(parts).map(([part, sha256]) => [`sha256.${part}`, sha256] as const);
  return { step: String(step), seed: String(seed), precision, ...Object.fromEntries(hashes) };
}

function configMetadata({ model, train }: Config): Record<string, string> {
  const { kind, standardise, layerNorm } = model.projection;
  return {
    stage: train.stage,
    'projection.kind': kind,
    'features.encoder_layer': String(model.encoderLayer ?? 'last'),
    'features.tokens': JSON.stringify(model.tokens),
    'features.standardise': String(standardise), // (x - feature_norm.mean) / feature_norm.std, per channel
    'features.layer_norm': String(layerNorm), // then LayerNorm over channels without weights, eps 1e-5
  };
}

/** The configuration of the run that a checkpoint's file lies in: `RUN/checkpoints/step-…/projection.safetensors`. */
async function configOf(source: string): Promise<Config | undefined> {
  const file = join(dirname(source), '..', '..', 'config.yaml');
  if (!existsSync(file) || !(await readFile(file, 'utf8')).startsWith(RESOLVED_HEADER)) return undefined;
  return loadConfig(file);
}

async function requireEqual(file: string, expected: NamedTensors): Promise<NamedTensors> {
  const { tensors: written } = await readProjection(file);
  const names = new Set([...Object.keys(written), ...Object.keys(expected)]);
  const different = [...names].filter((name) => !areEqual(written[name], expected[name]));
  if (different.length === 0) return written;
  throw new Error(
    `export: ${file} must read back as it was written, got other values for ${different.join(', ')}`,
  );
}

function areEqual(a: HostTensor | undefined, b: HostTensor | undefined): boolean {
  if (!a || !b) return false;
  return a.dtype === b.dtype && a.shape.join() === b.shape.join() && Buffer.compare(a.data, b.data) === 0;
}
