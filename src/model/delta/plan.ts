/**
 * What is checked before a delta is added to its base: that the two belong together and are what they are said to be.
 * Only tables of contents, configuration and one small tensor are read for it.
 */
import { UserError } from '../../errors.js';
import { elementCount } from '../../tensorflow/dtypes.js';
import { toFloat32 } from '../../tensorflow/halfFloats.js';
import type { HuggingFaceFolder } from '../weights/huggingface.js';
import type { TensorInfo, WeightSource } from '../weights/weights.js';
import { tensorBytes } from '../weights/weightsFile.js';
import { FLOAT_DTYPES, isFloatDType } from './sum.js';

/** A merge that can be done. */
export interface MergePlan {
  readonly base: WeightSource;
  readonly delta: WeightSource;
  /** The model in words: `LLaMA 7B (4096 wide, 32 layers)`. */
  readonly model: string;
  /** What is to be written: the delta's names, dtypes and shapes, in its order. */
  readonly tensors: readonly PlannedTensor[];
  /** Rows of the embeddings: the base's, and all of the delta's. */
  readonly baseRows: number;
  readonly rows: number;
  /** Values and bytes of all tensors. */
  readonly values: number;
  readonly sizeBytes: number;
  /** What is possible but probably not wanted. */
  readonly notes: readonly string[];
}

/** A tensor of the sum. */
export interface PlannedTensor extends TensorInfo {
  readonly sizeBytes: number;
}

/** What tells one LLaMA from another. */
interface Size {
  /** Rows of the input embeddings: pieces of the vocabulary. */
  readonly rows: number;
  readonly width: number;
  readonly layers: number;
}

const EMBEDDINGS = 'model.embed_tokens.weight';
const GROWING = [EMBEDDINGS, 'lm_head.weight'];
/** A buffer that old checkpoints carry and every reader computes for itself. */
const IGNORED = '.rotary_emb.inv_freq';
/** Compared to tell a delta from whole weights: small, and far from zero in every LLaMA. */
const NORM = 'model.norm.weight';
/** Root mean square of the delta's norm weights over the base's: finetuning moves them by a few percent at most. */
const MAX_DELTA_SHARE = 0.5;
const LLAMA_ROWS = 32000; // of LLaMA-1; Vicuna v0 has one more for [PAD], later ones have not: minigpt4-spec.md 1.5
/** Width and layers of the released LLaMA-1 models, by the names people call them. */
const RELEASED: Readonly<Record<string, string>> = {
  '4096 32': '7B',
  '5120 40': '13B',
  '6656 60': '30B',
  '8192 80': '65B',
};

/**
 * Checks base and delta against each other.
 *
 * @throws UserError if they are of different sizes or exchanged, differ in names or shapes (but for rows of the
 * embeddings that only the delta has), hold no floats, if the delta's config.json is not of its weights, or if the delta
 * holds whole weights
 */
export async function planMerge(base: HuggingFaceFolder, delta: HuggingFaceFolder): Promise<MergePlan> {
  const [baseSize, size] = [sizeOf(base), sizeOf(delta)];
  requireSameModel(base, baseSize, delta, size);
  requireSameNames(base, delta);
  const tensors = namesOf(delta).map((name) => planTensor(base, delta, name, baseSize.rows, size.rows));
  requireConfig(delta, size);
  await requireDifferences(base, delta);
  return {
    base,
    delta,
    model: nameOf(size),
    tensors,
    baseRows: baseSize.rows,
    rows: size.rows,
    values: tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0),
    sizeBytes: tensors.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    notes: [...rowNotes(baseSize.rows, size.rows), ...dtypeNotes(base, tensors)],
  };
}

/** The names of a folder's weights, without what is computed anew. */
function namesOf(source: WeightSource): string[] {
  return source.names().filter((name) => !name.endsWith(IGNORED));
}

function sizeOf(source: WeightSource): Size {
  const { shape } = source.info(EMBEDDINGS);
  const [rows, width] = shape;
  if (rows === undefined || width === undefined || shape.length !== 2) {
    throw new UserError(
      `${source.path}: ${EMBEDDINGS} must have two dimensions, got [${shape.join(', ')}] (is it a LLaMA?)`,
    );
  }
  const layers = source.names().map((name) => Number(/^model\.layers\.(\d+)\./.exec(name)?.[1] ?? -1));
  return { rows, width, layers: 1 + layers.reduce((a, b) => Math.max(a, b), -1) };
}

function nameOf({ width, layers }: Size): string {
  const released = RELEASED[`${width} ${layers}`];
  return `LLaMA${released === undefined ? '' : ` ${released}`} (${width} wide, ${layers} layers)`;
}

function requireSameModel(base: WeightSource, baseSize: Size, delta: WeightSource, size: Size): void {
  if (baseSize.width !== size.width || baseSize.layers !== size.layers) {
    throw new UserError(
      `merge-delta: base and delta must be of one size, got the base ${base.path} of ${nameOf(baseSize)} and the delta ${delta.path} of ${nameOf(size)} (fetch the delta of the base's size)`,
    );
  }
  if (baseSize.rows <= size.rows) return;
  throw new UserError(
    `merge-delta: the base must not have more rows of ${EMBEDDINGS} than the delta, got ${baseSize.rows} in ${base.path} and ${size.rows} in ${delta.path} (exchange --base and --delta?)`,
  );
}

function requireSameNames(base: WeightSource, delta: WeightSource): void {
  const [baseNames, deltaNames] = [namesOf(base), namesOf(delta)];
  const only = (names: readonly string[], others: readonly string[], path: string): string[] => {
    const there = new Set(others);
    const lone = names.filter((name) => !there.has(name));
    if (lone.length === 0) return [];
    return [`${lone.slice(0, 3).join(', ')}${lone.length > 3 ? ' …' : ''} (${lone.length}) only in ${path}`];
  };
  const faults = [...only(baseNames, deltaNames, base.path), ...only(deltaNames, baseNames, delta.path)];
  if (faults.length === 0) return;
  throw new UserError(
    `merge-delta: base and delta must hold tensors of the same names, got ${faults.join(' and ')} (are both of one LLaMA?)`,
  );
}

function planTensor(
  base: WeightSource,
  delta: WeightSource,
  name: string,
  baseRows: number,
  rows: number,
): PlannedTensor {
  const [from, to] = [base.info(name), delta.info(name)];
  for (const [{ path }, { dtype }] of [[base, from] as const, [delta, to] as const]) {
    if (isFloatDType(dtype)) continue;
    throw new UserError(
      `${path}: ${name} must be ${FLOAT_DTYPES.join(', ')}, got ${dtype} (quantised weights cannot be merged; fetch the originals)`,
    );
  }
  const grown = GROWING.includes(name);
  const wanted = grown ? [baseRows, ...to.shape.slice(1)] : to.shape;
  if (!isSame(from.shape, wanted) || (grown && to.shape[0] !== rows)) {
    const got = `[${from.shape.join(', ')}] and [${to.shape.join(', ')}]`;
    const rule = grown ? ` but for the rows ${baseRows} and ${rows}` : '';
    throw new UserError(
      `merge-delta: ${name} must have one shape in base and delta${rule}, got ${got} (are both of one LLaMA?)`,
    );
  }
  return { ...to, sizeBytes: tensorBytes(to.dtype, to.shape) };
}

/** The delta's config.json becomes the merged model's. */
function requireConfig({ path, config }: HuggingFaceFolder, { rows, width, layers }: Size): void {
  const wanted = { vocab_size: rows, hidden_size: width, num_hidden_layers: layers };
  for (const [key, value] of Object.entries(wanted)) {
    if (config[key] === value) continue;
    throw new UserError(
      `${path}/config.json: ${key} must be that of the weights, ${value}, got ${JSON.stringify(config[key])} (files of two versions? fetch the folder again)`,
    );
  }
}

/** Whole weights in the delta's place would be added without any other sign than gibberish. */
async function requireDifferences(base: WeightSource, delta: WeightSource): Promise<void> {
  const [whole, difference] = [await rootMeanSquare(base, NORM), await rootMeanSquare(delta, NORM)];
  if (difference < whole * MAX_DELTA_SHARE) return;
  throw new UserError(
    `merge-delta: a delta must be small beside its base, got ${NORM} of root mean square ${difference.toPrecision(3)} in ${delta.path} and ${whole.toPrecision(3)} in ${base.path} (whole weights in place of the delta? base and delta exchanged?)`,
  );
}

async function rootMeanSquare(source: WeightSource, name: string): Promise<number> {
  const values = toFloat32(await source.read(name));
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / Math.max(1, values.length));
}

function rowNotes(baseRows: number, rows: number): string[] {
  if (baseRows < rows) return [];
  if (rows === LLAMA_ROWS) {
    return [
      `the delta has ${rows} rows: it is Vicuna's v1.1 or later. MiniGPT-4 v1 was trained with v0, which has ${LLAMA_ROWS + 1}; with another its answers get worse`,
    ];
  }
  return [
    `the base has ${rows} rows as the delta has, so none is added; LLaMA-1 has ${LLAMA_ROWS} (is the base merged already?)`,
  ];
}

function dtypeNotes(base: WeightSource, tensors: readonly PlannedTensor[]): string[] {
  const pairs = tensors.map(({ name, dtype }) => `${base.info(name).dtype} to ${dtype}`);
  const different = [...new Set(pairs)].filter((pair) => new Set(pair.split(' to ')).size > 1);
  if (different.length === 0) return [];
  return [
    `base and delta differ in dtype, so the base is rounded first, ${different.join(', ')}, as the reference does`,
  ];
}

function isSame(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, i) => size === b[i]);
}
