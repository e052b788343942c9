/**
 * Checks before the first step that training can work at all: the LLM predicts, the labels stand where they should, the
 * images are told apart and reach the LLM. Each finding has cost users of such systems days (MiniGPT-4's issues #67, #267).
 */
import { UserError } from '../errors.js';
import type { MicroBatch } from '../model/language/languageModel.js';
import { layOut, type Example } from '../model/language/sequence.js';
import type { Tokenizer } from '../model/tokenizer/tokenizer.js';
import type { Values } from '../tensorflow/session.js';
import type { TrainingParts } from './open.js';
import { microBatch, type Sample } from './samples.js';

/** Target tokens that are scored: enough to judge by, and few enough for 30 s on a 7B model. */
const MOST_TARGETS = 16;
/** Positions looked for two different images. */
const MOST_SAMPLES = 8;
/** Losses that all lie so near ln V, in nats, are those of a model that says nothing. */
const UNIFORM_WITHIN = 0.05;
/** Relative difference of two losses below which the images make none. */
const SAME_WITHIN = 1e-6;
/** Rows of the table that are printed. */
const MOST_ROWS = 12;

/** What of a training run is looked at. */
export type Preflighted = Pick<TrainingParts, 'config' | 'model' | 'projection' | 'samples'>;

/**
 * Looks at the first samples of a run and tells what it finds.
 *
 * @throws UserError naming what cannot work, and what to look at
 */
export async function preflight(training: Preflighted, note: (text: string) => void): Promise<void> {
  const start = performance.now();
  const samples = await firstSamples(training);
  const [first] = samples;
  if (!first) return;
  requireFeatures(samples);
  note(labelTable(first, training));
  note(await captionWithoutImage(first, training));
  note(await ownAndExchanged(samples, training));
  note(`preflight: passed in ${((performance.now() - start) / 1000).toFixed(1)} s`);
}

/** The first sample, and the next one with another image where there is one soon. */
async function firstSamples({ samples }: Preflighted): Promise<Sample[]> {
  const first = await samples.at(0, 0);
  for (let position = 1; position < Math.min(MOST_SAMPLES, samples.rows); position++) {
    const other = await samples.at(position, 0);
    if (Buffer.compare(other.pair.image, first.pair.image) !== 0) return [first, other];
  }
  return [first];
}

function shortened({ prefix, target }: Example): Example {
  return { prefix, target: target.slice(0, MOST_TARGETS) };
}

/** @throws UserError if features are not finite, or two images have the same ones */
function requireFeatures(samples: readonly Sample[]): void {
  const spoiled = samples.find(({ features }) => !features.every(Number.isFinite));
  if (spoiled)
    throw new UserError(
      `preflight: features must be finite numbers, got others for ${spoiled.pair.id} (model.encoder: are its weights whole?)`,
    );
  const [first, other] = samples;
  if (!first || !other) return;
  if (first.features.every((value, i) => value === other.features[i]))
    throw new UserError(
      `preflight: two images must have different features, got equal ones for ${first.pair.id} and ${other.pair.id} (model.encoder ignores its input)`,
    );
}

/** Each label beside what the LLM has read when it must say it. @throws if labels and inputs are not in step */
function labelTable({ pair, example, features }: Sample, { model }: Preflighted): string {
  const { sequence } = microBatch([{ example, features }], model.encoder.featureShape);
  const Q = model.encoder.featureShape[0];
  const read = (position: number): number | undefined => {
    const row = sequence.layout[position] ?? 0;
    return row < Q ? undefined : sequence.tokens[row - Q];
  };
  const labels = [...sequence.targetIds];
  const rows = labels.map((label, i) => ({ label, position: sequence.targetRows[i] ?? 0 }));
  const wrong = rows.find(({ label, position }, i) => i + 1 < rows.length && read(position + 1) !== label);
  if (wrong) throw new Error(`preflight: label ${wrong.label} must be the next input, got another`);
  const stem = sequence.stem.length;
  const lines = rows
    .slice(0, MOST_ROWS)
    .map(
      ({ label, position }) =>
        `  ${String(stem + position).padStart(4)}  ${quoted(model.tokenizer, read(position)).padEnd(16)} → ${quoted(model.tokenizer, label)}`,
    );
  const more = rows.length > MOST_ROWS ? [`        … ${rows.length - MOST_ROWS} more`] : [];
  return [
    `preflight: sample ${pair.id}: ${rows.length} target tokens; at each position the last token read, and the label`,
    ...lines,
    ...more,
  ].join('\n');
}

function quoted(tokenizer: Tokenizer, id: number | undefined): string {
  return id === undefined ? '(image)' : JSON.stringify(tokenizer.decode([id]));
}

/** The loss of the caption alone: a language model that works guesses better than evenly. */
async function captionWithoutImage(sample: Sample, { model, projection }: Preflighted): Promise<string> {
  const example = withoutImage(shortened(sample.example));
  if (!example) return 'preflight: the caption is too short to be scored without its image';
  const [Q, C] = model.encoder.featureShape;
  const batch: MicroBatch = {
    features: { shape: [0, Q, C], data: new Float32Array() },
    sequence: layOut([example], Q),
  };
  // Fetched as below: another choice of outputs would cost TensorFlow another preparation of the graph
  const losses = Float32Array.from((await model.language.inspect(projection, batch)).losses.data);
  requireFinite(
    losses,
    'a caption without image',
    'model.llm: are its weights whole, is model.precision right?',
  );
  const { vocabSize } = model.language.spec.llama;
  const even = Math.log(vocabSize);
  const [loss, guess] = [mean(losses), `${even.toFixed(2)} = ln(${vocabSize})`];
  if (losses.every((one) => Math.abs(one - even) < UNIFORM_WITHIN))
    throw new UserError(
      `preflight: a caption must be likelier than chance, got a loss of ${loss.toFixed(2)} at every token, ${guess}: the LLM ignores its input (model.llm: are its weights whole, and of this config.json?)`,
    );
  const verdict =
    loss > even ? `; evenly guessed it would be ${guess}: is this the LLM's own tokenizer?` : '';
  return `preflight: loss of its caption without the image ${loss.toFixed(2)}${verdict}`;
}

/** BOS and caption; without BOS the caption's first token stands in for it. */
function withoutImage({ prefix, target }: Example): Example | undefined {
  const [begin] = prefix;
  if (begin?.kind === 'text' && begin.ids[0] !== undefined)
    return { prefix: [{ kind: 'text', ids: [begin.ids[0]] }], target };
  const [opening, ...rest] = target;
  if (opening === undefined || !rest.length) return undefined;
  return { prefix: [{ kind: 'text', ids: [opening] }], target: rest };
}

/** The loss of a caption with its own image and with another one, in one run. */
async function ownAndExchanged(
  samples: readonly Sample[],
  { model, projection }: Preflighted,
): Promise<string> {
  const example = shortened(samples[0]?.example ?? { prefix: [], target: [] });
  const paired = samples.map(({ features }) => ({ example, features }));
  const batch = microBatch(paired, model.encoder.featureShape);
  const { losses: all, softPrompt } = await model.language.inspect(projection, batch);
  const losses = Float32Array.from(all.data);
  requireFinite(
    losses,
    'a caption with its image',
    'train.initFrom and model.projection: what do they hold?',
  );
  const T = example.target.length;
  const own = mean(losses.subarray(0, T));
  if (samples.length === 1) return `preflight: loss with its image ${own.toFixed(3)}`;
  requireSoftPrompts(softPrompt.data);
  const exchanged = mean(losses.subarray(T));
  const verdict = Math.abs(own / exchanged - 1) < SAME_WITHIN ? ': the image says nothing yet' : '';
  return `preflight: loss with its image ${own.toFixed(4)}, with another one ${exchanged.toFixed(4)}${verdict}`;
}

/** @throws UserError if two images, one half of the values each, become the same soft prompts */
function requireSoftPrompts(values: Values['data']): void {
  const half = values.length / 2;
  if (values.subarray(0, half).some((value, i) => value !== values[half + i])) return;
  throw new UserError(
    'preflight: two images must become different soft prompts, got equal ones: the image does not reach the LLM (train.initFrom: is its projection zero?)',
  );
}

function requireFinite(losses: Float32Array, what: string, advice: string): void {
  if (losses.every(Number.isFinite)) return;
  throw new UserError(`preflight: the loss of ${what} must be a number, got ${mean(losses)} (${advice})`);
}

function mean(values: Float32Array): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
