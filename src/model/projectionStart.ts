/** First weights of a projection, and the statistics of the features before it. */
import {
  projectionLayers,
  type FeatureStatistics,
  type Projection,
  type ProjectionLayer,
  type ProjectionOptions,
} from './projection.js';

/** Added to the channels' standard deviations so that a constant channel stays finite. */
const STD_FLOOR = 1e-3;
/** Root mean square of GELU's output for inputs of unit variance. */
const GELU_RMS = 0.652;

/** How the weights begin: as torch.nn.Linear does, or so that soft prompts have the scale of the LLM's embeddings. */
export type ProjectionStart =
  | { readonly kind: 'torch' }
  | { readonly kind: 'embedding-rms'; readonly rms: number; readonly scale: number };

/**
 * A fresh projection.
 *
 * `torch`: uniform ±1/√in for weights and biases (torch.nn.Linear's kaiming_uniform with a = √5).
 * `embedding-rms`: normal, biases 0, so that features of unit variance become soft prompts with the root mean square
 * `rms · scale`: that of the LLM's own embeddings.
 *
 * @param random uniform [0, 1) deviates; the same ones give the same weights
 */
export function initialProjection(
  [C, D]: readonly [number, number],
  options: ProjectionOptions,
  start: ProjectionStart,
  random: () => number,
  statistics?: FeatureStatistics,
): Projection {
  const layers = projectionLayers(options.kind, [C, D]);
  const parameters = layers.flatMap((layer, i): [string, Float32Array][] => {
    const { weight, bias } = initialLayer(layer, start, i === layers.length - 1, random);
    return [
      [`${layer.name}weight`, weight],
      [`${layer.name}bias`, bias],
    ];
  });
  return {
    options,
    inputSize: C,
    outputSize: D,
    parameters: Object.fromEntries(parameters),
    ...(statistics ? { statistics } : {}),
  };
}

function initialLayer(
  { inputSize, outputSize, geluBefore }: ProjectionLayer,
  start: ProjectionStart,
  last: boolean,
  random: () => number,
): { weight: Float32Array; bias: Float32Array } {
  const weights = { length: outputSize * inputSize };
  const biases = { length: outputSize };
  if (start.kind === 'torch') {
    const uniform = (): number => (2 * random() - 1) / Math.sqrt(inputSize);
    return { weight: Float32Array.from(weights, uniform), bias: Float32Array.from(biases, uniform) };
  }
  const wanted = last ? start.rms * start.scale : 1;
  const std = wanted / Math.sqrt(inputSize) / (geluBefore ? GELU_RMS : 1);
  const normal = (): number =>
    std * Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  return { weight: Float32Array.from(weights, normal), bias: new Float32Array(outputSize) };
}

/** Channel means and standard deviations over all tokens of the training features, accumulated in float64. */
export function featureStatistics(features: Iterable<Float32Array>, C: number): FeatureStatistics {
  const sum = new Float64Array(C);
  const squares = new Float64Array(C);
  let rows = 0;
  for (const feature of features) {
    rows += feature.length / C;
    feature.forEach((value, i) => {
      sum[i % C] = (sum[i % C] ?? 0) + value;
      squares[i % C] = (squares[i % C] ?? 0) + value * value;
    });
  }
  if (rows === 0) throw new Error('projection: statistics need at least one feature');
  const mean = sum.map((total) => total / rows);
  const std = squares.map(
    (total, c) => Math.sqrt(Math.max(total / rows - (mean[c] ?? 0) ** 2, 0)) + STD_FLOOR,
  );
  return { mean: Float32Array.from(mean), std: Float32Array.from(std) };
}
