/** A projection that nothing was learnt with yet: random, or regressed on the captions of the first samples. */
import type { Config } from '../config/schema.js';
import type { BadSampleLedger } from '../data/ledger.js';
import { randomAt } from '../data/order/keyed.js';
import { Prompter } from '../model/conversation/prompt.js';
import { endOf } from '../model/language/generate.js';
import { projectionSizes, type MiniGpt4 } from '../model/miniGpt4.js';
import { projectionOptions, type Projection } from '../model/projection.js';
import { meanEmbeddings, regressedProjection } from '../model/projectionRegression.js';
import { featureStatistics, initialProjection } from '../model/projectionStart.js';
import { IMAGES_AHEAD } from './features.js';
import { prefetch } from './prefetch.js';
import type { Samples } from './samples.js';

/** Samples from which statistics and regression are taken: the first ones of the training order. */
const FIRST_SAMPLES = 2048;
/** Their features lie in memory together: where they are large, the samples are fewer. */
const MOST_FEATURE_BYTES = 2 ** 30;

/**
 * First weights as `model.projection.init` says, and the statistics of the features where they are standardised.
 *
 * @param onProgress told the share of the first samples that are encoded, 0…1
 * @throws UserError if too many of these samples are bad
 */
export async function freshProjection(
  config: Config,
  model: MiniGpt4,
  samples: Samples,
  ledger: BadSampleLedger,
  onProgress?: (done: number) => void,
): Promise<Projection> {
  const { standardise, init, initialScale } = config.model.projection;
  const options = projectionOptions(config.model.projection);
  const { featureShape } = model.encoder;
  const sizes = projectionSizes(model);
  const wanted = Math.min(
    FIRST_SAMPLES,
    Math.floor(MOST_FEATURE_BYTES / (4 * featureShape[0] * featureShape[1])),
  );
  const first =
    standardise || init === 'captions' ? await firstSamples(samples, wanted, ledger, onProgress) : [];
  const features = first.map((sample) => sample.features);
  const statistics = standardise ? featureStatistics(features, sizes[0]) : undefined;
  if (init === 'captions') {
    const captions = first.map(({ target }) => target);
    const regressed = { featureShape, features, targets: await captionEmbeddings(model, config, captions) };
    const rms = (await model.embeddingRms()) * initialScale;
    return regressedProjection(model.tensorflow, options, regressed, rms, statistics);
  }
  const start =
    init === 'torch' ? { kind: init } : { kind: init, rms: await model.embeddingRms(), scale: initialScale };
  return initialProjection(sizes, options, start, deviates(config.run.seed), statistics);
}

/** What of a sample a projection begins from: its image's bytes need not stay in memory. */
interface FirstSample {
  /** float32[Q, C] */
  readonly features: Float32Array;
  /** Tokens of its caption. */
  readonly target: readonly number[];
}

async function firstSamples(
  samples: Samples,
  wanted: number,
  ledger: BadSampleLedger,
  onProgress: (done: number) => void = () => undefined,
): Promise<FirstSample[]> {
  const count = Math.min(samples.rows, wanted);
  const first: FirstSample[] = [];
  let bad = 0;
  for await (const sample of prefetch(0, count, IMAGES_AHEAD, (position) => samples.at(position, 0))) {
    first.push({ features: sample.features, target: sample.example.target });
    if (sample.isReplacement) bad += 1;
    ledger.requireFew(bad, first.length, 0);
    onProgress(first.length / count);
  }
  return first;
}

/** What the soft tokens of each sample are regressed on: the mean word embedding of its caption, float32[D]. */
async function captionEmbeddings(
  { language, tokenizer }: MiniGpt4,
  { prompt }: Config,
  targets: readonly (readonly number[])[],
): Promise<Float32Array[]> {
  const prompter = new Prompter(tokenizer, prompt);
  const captions = targets.map((target) => target.slice(0, target.length - endOf(target, prompter).length));
  const D = language.spec.llama.hiddenSize;
  const vocabulary = [...new Set(captions.flat())];
  return meanEmbeddings(captions, vocabulary, await language.embeddings(vocabulary), D);
}

function deviates(seed: number): () => number {
  let index = 0;
  return () => randomAt(seed, index++, 'projection');
}
