/**
 * First weights of a linear projection by ridge regression: from the features of images to the mean word embedding of
 * their captions. The frozen LLM then reads, in place of each image token, a blur of the words that such images are
 * described with, which it can say at once. It helps where steps are few: on the quick start's validation part (images of
 * 112, steps of 8, one seed) 120 steps end at loss 3.94 and image gap 1.01, against 4.08 and 0.80 from random weights; after
 * 180 at twice the rate the losses are equal and the gap is 1.2 against 1.0.
 */
import {
  broadcastTo,
  concat,
  flattenRows,
  matMul,
  mul,
  reshape,
  slice,
  solve,
  sub,
  sum,
} from '../tensorflow/ops.js';
import { Graph, only, type GraphTensor } from '../tensorflow/graph.js';
import type { Session, TensorFlow, Values } from '../tensorflow/session.js';
import { joined } from './language/batches.js';
import {
  normalise,
  statisticsFeeds,
  statisticsInputs,
  type FeatureStatistics,
  type Projection,
  type ProjectionOptions,
} from './projection.js';

/** Images that are multiplied at once, and bytes of their features: bounds the memory. */
const IMAGES_AT_ONCE = 128;
const BYTES_AT_ONCE = 2 ** 26;
/**
 * Penalty on the weights, as a share of the channels' mean power. With `GAIN`, chosen by the loss that the projection
 * begins with on the validation part of the quick start's training concepts: 5.60, against 5.85 with 0.3 and no gain and
 * 7.39 with random weights.
 */
const RIDGE = 0.1;
/** Regressed tokens are nearly alike, as a ridge shrinks what tells images apart: their distance from the mean one is enlarged. */
const GAIN = 3;

/** What is regressed on what. */
export interface RegressionSamples {
  /** [Q, C] of one image's features. */
  readonly featureShape: readonly [Q: number, C: number];
  /** float32[Q, C] of each image. */
  readonly features: readonly Float32Array[];
  /** float32[D] of each image: what all its soft tokens should be. */
  readonly targets: readonly Float32Array[];
}

/**
 * The linear projection whose soft tokens come nearest to the targets in the mean of squares, under a penalty on its
 * weights (not on its bias); then their distances from the mean soft token are enlarged, and all is scaled.
 *
 * @param options of kind `linear`; features are normalised as they say before they are regressed on
 * @param statistics of the training features, where the options standardise
 * @param wantedRms root mean square of the soft tokens of these images after scaling
 * @throws if there are no samples, or the options are of another kind
 */
export async function regressedProjection(
  tensorflow: TensorFlow,
  options: ProjectionOptions,
  samples: RegressionSamples,
  wantedRms: number,
  statistics?: FeatureStatistics,
): Promise<Projection> {
  const [Q, C] = samples.featureShape;
  const D = samples.targets[0]?.length ?? 0;
  if (options.kind !== 'linear' || D === 0)
    throw new Error(
      `projection: regression must have samples and kind linear, got ${samples.targets.length} of kind ${options.kind}`,
    );
  const session = await tensorflow.load(regressionGraph([C, D], options));
  try {
    const moments = await momentsOf(session, samples, statistics);
    const penalised = withPenalty(moments, C);
    const { solution, means, power } = await session.run('solve', penalised, ['solution', 'means', 'power']);
    const rows = samples.features.length * Q; // of X
    const mean = Float32Array.from(means.data, (sum) => sum / rows); // of the soft tokens, [D]
    const sharedPower = mean.reduce((sum, value) => sum + value * value, 0);
    const ownPower = (power.data[0] ?? 0) / rows - sharedPower; // of their distance from the mean one
    const factor = wantedRms / Math.sqrt((sharedPower + GAIN ** 2 * ownPower) / D);
    return {
      options,
      inputSize: C,
      outputSize: D,
      parameters: parametersOf(solution.data as Float32Array, mean, C, factor), // the graph's outputs are float32
      ...(statistics && { statistics }),
    };
  } finally {
    await session.close();
  }
}

/**
 * The mean embedding of each caption's tokens. Those that many captions have tell little of the image: a token weighs
 * 1 / √(times it is in all captions).
 *
 * @param captions token ids; a caption without any gives zeros
 * @param vocabulary every id that is in them, once
 * @param embeddings float32[ids, D] of the vocabulary
 * @returns float32[D] each
 */
export function meanEmbeddings(
  captions: readonly (readonly number[])[],
  vocabulary: readonly number[],
  embeddings: Float32Array,
  D: number,
): Float32Array[] {
  const rowOf = new Map(vocabulary.map((id, row) => [id, embeddings.subarray(row * D, (row + 1) * D)]));
  const times = new Map<number, number>();
  for (const id of captions.flat()) times.set(id, (times.get(id) ?? 0) + 1);
  const weightOf = (id: number): number => 1 / Math.sqrt(times.get(id) ?? 1);
  return captions.map((ids) => {
    const total = ids.reduce((sum, id) => sum + weightOf(id), 0);
    const mean = new Float64Array(D);
    for (const id of ids) {
      const [row, weight] = [rowOf.get(id), weightOf(id) / total];
      if (!row) throw new Error(`projection: the vocabulary must hold every token, got ${id} besides`);
      for (let d = 0; d < D; d++) mean[d] = (mean[d] ?? 0) + weight * (row[d] ?? 0);
    }
    return Float32Array.from(mean);
  });
}

/** Entry points `moments` (XᵀX and XᵀY of some images; X has a last column of ones for the bias) and `solve`. */
function regressionGraph([C, D]: readonly [number, number], options: ProjectionOptions): Graph {
  const graph = new Graph();
  const features = graph.placeholder('features', 'float32', ['I', 'Q', C]);
  const targets = graph.placeholder('targets', 'float32', ['I', D]);
  const statistics = statisticsInputs(graph, C);
  const tokens = normalise(features, statistics, options); // [I, Q, C]
  const x = withOnes(tokens, ['I', 'Q', 1]); // [I, Q, C+1]
  const rows = flattenRows(x); // [I·Q, C+1]
  graph.entryPoint('moments', {
    inputs: { features, targets, ...statistics },
    outputs: {
      gram: matMul(rows, rows, { transposeA: true }),
      cross: matMul(sum(x, [1]), targets, { transposeA: true }), // all tokens of an image have one target
    },
  });
  const gram = graph.placeholder('gram', 'float32', [C + 1, C + 1]);
  const cross = graph.placeholder('cross', 'float32', [C + 1, D]);
  const penalty = graph.placeholder('penalty', 'float32', [C + 1, 1]);
  const solution = solve(gram, cross); // [C+1, D]; the gram holds the penalty
  const moved = sub(cross, mul(penalty, solution)); // XᵀX · solution, by what was solved: [C+1, D]
  graph.entryPoint('solve', {
    inputs: { gram, cross, penalty },
    outputs: {
      solution,
      means: reshape(slice(moved, [C, 0], [1, D]), [D]), // the row of the ones: soft tokens summed over all rows
      power: reshape(sum(mul(solution, moved), [0, 1]), [1]), // their squares summed
    },
  });
  return graph;
}

function withOnes(x: GraphTensor, shape: readonly (string | number)[]): GraphTensor {
  return concat([x, broadcastTo(reshape(x.graph.constant(1), [1, 1, 1]), shape)], 2);
}

/** Moments over all images, summed in their order. */
async function momentsOf(
  session: Session,
  { featureShape: [Q, C], features, targets }: RegressionSamples,
  statistics: FeatureStatistics | undefined,
): Promise<Record<'gram' | 'cross', Float32Array>> {
  const D = only(targets).length;
  const gram = new Float32Array((C + 1) ** 2);
  const cross = new Float32Array((C + 1) * D);
  const atOnce = Math.max(1, Math.min(IMAGES_AT_ONCE, Math.floor(BYTES_AT_ONCE / (4 * Q * C))));
  for (let first = 0; first < features.length; first += atOnce) {
    const last = Math.min(first + atOnce, features.length);
    const part = await session.run(
      'moments',
      {
        features: { shape: [last - first, Q, C], data: joined(features.slice(first, last)) },
        targets: { shape: [last - first, D], data: joined(targets.slice(first, last)) },
        ...statisticsFeeds(statistics, C),
      },
      ['gram', 'cross'],
    );
    addTo(gram, part.gram.data);
    addTo(cross, part.cross.data);
  }
  return { gram, cross };
}

/**
 * The moments with the ridge on the gram's diagonal, and the ridge itself: relative to the channels' mean power, so that it
 * means the same for features of any scale; none on the bias.
 */
function withPenalty(
  { gram, cross }: Readonly<Record<'gram' | 'cross', Float32Array>>,
  C: number,
): Record<'gram' | 'cross' | 'penalty', Values> {
  let power = 0;
  for (let c = 0; c < C; c++) power += gram[c * (C + 2)] ?? 0;
  const ridge = Math.fround((RIDGE * power) / C || 1); // features that are all 0 give weights 0
  const penalised = gram.slice();
  for (let c = 0; c < C; c++) penalised[c * (C + 2)] = (gram[c * (C + 2)] ?? 0) + ridge;
  return {
    gram: { shape: [C + 1, C + 1], data: penalised },
    cross: { shape: [C + 1, cross.length / (C + 1)], data: cross },
    penalty: { shape: [C + 1, 1], data: new Float32Array(C + 1).fill(ridge, 0, C) },
  };
}

/** From [C+1, D] to torch's [D, C] and [D]: the distances from the mean soft token enlarged, then everything scaled. */
function parametersOf(
  solution: Float32Array,
  mean: Float32Array,
  C: number,
  factor: number,
): Projection['parameters'] {
  const D = mean.length;
  const weight = new Float32Array(D * C);
  for (let c = 0; c < C; c++)
    for (let d = 0; d < D; d++) weight[d * C + c] = factor * GAIN * (solution[c * D + d] ?? 0);
  const bias = solution.slice(C * D).map((value, d) => factor * (GAIN * value - (GAIN - 1) * (mean[d] ?? 0)));
  return { weight, bias };
}

function addTo(sums: Float32Array, values: ArrayLike<number>): void {
  for (let i = 0; i < sums.length; i++) sums[i] = (sums[i] ?? 0) + (values[i] ?? 0);
}
