/**
 * From a position in the order of samples to what the model computes on: the pair is read, its image encoded (or its
 * features found in the cache), its caption turned into tokens. A bad sample is written to the ledger and replaced by
 * another one of its set, the same one in every run: drawn anywhere, as bad ones often lie together.
 */
import type { Config } from '../config/schema.js';
import { cleanCaption } from '../data/captions.js';
import { cropAt, type Crop } from '../data/images/crop.js';
import { BadImage } from '../data/images/images.js';
import type { BadSampleLedger } from '../data/ledger.js';
import { keyOf, permute, randomAt } from '../data/order/keyed.js';
import { shownPlace } from '../data/bytes/remoteFile.js';
import { drawAt, type MixtureDraw } from '../data/order/mixture.js';
import { rowAt } from '../data/order/order.js';
import type { ImageTextPair } from '../data/pairs.js';
import { ShardSet, type ShardRow } from '../data/shards/shards.js';
import { UserError } from '../errors.js';
import type { MicroBatch } from '../model/language/languageModel.js';
import type { Prompter } from '../model/conversation/prompt.js';
import { joined } from '../model/language/batches.js';
import { layOut, type Example } from '../model/language/sequence.js';
import type { FeatureReader } from './features.js';

/** Samples that are tried in place of a bad one before the data is given up. */
const MOST_REPLACEMENTS = 100;

/** A pair with what the model needs of it. */
export interface Sample {
  readonly pair: ImageTextPair;
  readonly place: ShardRow;
  /** It was drawn in place of a bad one. */
  readonly isReplacement: boolean;
  /** float32[Q, C] */
  readonly features: Float32Array;
  readonly example: Example;
}

/** One set of pairs and how its samples are asked. */
export interface SampleSource {
  readonly shards: ShardSet;
  /** As the configuration names it, without secrets. */
  readonly place: string;
  /** Rows in use: the first `rows` of the shards. */
  readonly rows: number;
  readonly weight: number;
  /** `none`: the bare image; `instruction`: one of the questions. */
  readonly prompt: 'none' | 'instruction';
}

/** Opens the training mixture of a configuration. */
export async function openSources({ data }: Config): Promise<SampleSource[]> {
  return Promise.all(
    data.train.map(async ({ shards: path, weight, prompt, maxRows = Infinity }) => {
      const shards = await ShardSet.open(path);
      return { shards, place: shownPlace(path), rows: Math.min(shards.rows, maxRows), weight, prompt };
    }),
  );
}

/** Reads the samples of a training mixture by position. */
export class Samples {
  constructor(
    private readonly sources: readonly SampleSource[],
    private readonly features: FeatureReader,
    private readonly prompter: Prompter,
    private readonly config: Config,
    private readonly ledger: BadSampleLedger,
  ) {}

  /** Rows in use of each source. */
  get rowsBySource(): readonly number[] {
    return this.sources.map(({ rows }) => rows);
  }

  /** Rows of all sources together. */
  get rows(): number {
    return this.sources.reduce((sum, { rows }) => sum + rows, 0);
  }

  /**
   * The sample at a position of the training order: a pure function of (seed, position) and the data.
   *
   * @param position samples drawn before it, from 0
   * @param step the step it is for, for the ledger
   */
  async at(position: number, step: number): Promise<Sample> {
    const { data, run } = this.config;
    const { source: number, index } = this.#draw(position);
    const source = this.sources[number];
    if (!source) throw new Error(`samples: the mixture drew source ${number} of ${this.sources.length}`);
    const order = { kind: data.order, window: data.window };
    const first = rowAt(order, run.seed + number, index, source.rows);
    for (const row of candidates(run.seed, position, first, source.rows)) {
      const found = await this.#read(source, row, position, step);
      if (found) return { ...found, isReplacement: row !== first };
    }
    throw new UserError(
      `data.train: one of ${MOST_REPLACEMENTS} samples drawn at random must be usable, got none of ${source.place} (see ledger.jsonl in the run folder)`,
    );
  }

  /** The source of a position, and the position in it. Where a batch is drawn at once, its samples follow each other there. */
  #draw(position: number): MixtureDraw {
    const size = this.#drawnTogether;
    const weights = this.sources.map(({ weight }) => weight);
    const { source, index } = drawAt(this.config.run.seed, Math.floor(position / size), weights);
    return { source, index: index * size + (position % size) };
  }

  /** Samples that share one draw of source and question. */
  get #drawnTogether(): number {
    return this.config.data.draw === 'batch' ? this.config.train.batchSize : 1;
  }

  async #read(
    source: SampleSource,
    row: number,
    position: number,
    step: number,
  ): Promise<Omit<Sample, 'isReplacement'> | undefined> {
    const pair = await source.shards.read(row);
    const caption = this.config.data.captions === 'clean' ? cleanCaption(pair.caption) : pair.caption;
    const place = source.shards.location(row);
    const reject = (reason: string): void => {
      const set = this.sources.length > 1 ? { set: source.place } : {};
      this.ledger.add({ step, ...set, ...place, id: pair.id, reason });
    };
    if (!caption.trim()) {
      reject('caption is empty');
      return undefined;
    }
    try {
      const features = await this.features(pair, this.#crop(position));
      return {
        pair,
        place,
        features,
        example: this.prompter.example(caption, this.#question(source, position)),
      };
    } catch (error) {
      if (!(error instanceof BadImage)) throw error;
      reject(error.message);
      return undefined;
    }
  }

  #crop(position: number): Crop | undefined {
    const { data, run } = this.config;
    return data.transform === 'random-crop' ? cropAt(run.seed, position) : undefined;
  }

  #question({ prompt }: SampleSource, position: number): string | undefined {
    const { questions } = this.config.prompt;
    if (prompt === 'none' || !questions.length) return undefined;
    const drawn = Math.floor(position / this.#drawnTogether);
    return questions[Math.floor(randomAt(this.config.run.seed, drawn, 'question') * questions.length)];
  }
}

/** The row to read, then those to try in place of a bad one, in a keyed order: of a small set all. */
function* candidates(seed: number, position: number, first: number, rows: number): Generator<number> {
  yield first;
  const key = keyOf(seed, position, 'in stead');
  for (let draw = 0; draw < Math.min(rows, MOST_REPLACEMENTS); draw++) {
    const row = permute(key, draw, rows);
    if (row !== first) yield row;
  }
}

/** Joins samples into one micro-batch, padded to its longest sample. */
export function microBatch(
  samples: readonly Pick<Sample, 'features' | 'example'>[],
  [Q, C]: readonly [number, number],
): MicroBatch {
  return {
    features: { shape: [samples.length, Q, C], data: joined(samples.map(({ features }) => features)) },
    sequence: layOut(
      samples.map(({ example }) => example),
      Q,
    ),
  };
}
