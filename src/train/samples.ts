/**
 * From a position in the order of samples to what the model computes on: the pair is read, its image encoded (or its
 * features found in the cache), its caption turned into tokens. A bad sample is written to the ledger and replaced by
 * the next good one, the same one in every run.
 */
import type { Config } from '../config/schema.js';
import { cleanCaption } from '../data/captions.js';
import { cropAt, type Crop } from '../data/images/crop.js';
import { BadImage } from '../data/images/images.js';
import type { BadSampleLedger } from '../data/ledger.js';
import { randomAt } from '../data/order/keyed.js';
import { drawAt, type MixtureDraw } from '../data/order/mixture.js';
import { rowAt } from '../data/order/order.js';
import type { ImageTextPair } from '../data/pairs.js';
import { ShardSet, type ShardRow } from '../data/shards/shards.js';
import { UserError } from '../errors.js';
import type { MicroBatch } from '../model/language/languageModel.js';
import type { Prompter } from '../model/conversation/prompt.js';
import { layOut, type Example } from '../model/language/sequence.js';
import type { FeatureReader } from './features.js';

/** How many times a bad sample is replaced before the data is given up. */
const MAX_REPLACEMENTS = 100;

/** A pair with what the model needs of it. */
export interface Sample {
  readonly pair: ImageTextPair;
  readonly place: ShardRow;
  /** Bad samples that it was taken instead of. */
  readonly replaced: number;
  /** float32[Q, C] */
  readonly features: Float32Array;
  readonly example: Example;
}

/** One set of pairs and how its samples are asked. */
export interface SampleSource {
  readonly shards: ShardSet;
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
      return { shards, rows: Math.min(shards.rows, maxRows), weight, prompt };
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
    const tries = Math.min(MAX_REPLACEMENTS, source.rows);
    for (let replaced = 0; replaced < tries; replaced++) {
      const row = (first + replaced) % source.rows;
      const found = await this.#read(source, row, position, step);
      if (found) return { ...found, replaced };
    }
    const { shard, row } = source.shards.location(first);
    throw new UserError(
      `data.train: one of ${tries} samples in a row must be usable, got none from row ${row} of ${shard} on (see ledger.jsonl in the run folder)`,
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
  ): Promise<Omit<Sample, 'replaced'> | undefined> {
    const pair = await source.shards.read(row);
    const caption = this.config.data.captions === 'clean' ? cleanCaption(pair.caption) : pair.caption;
    const place = source.shards.location(row);
    const reject = (reason: string): void => {
      this.ledger.add({ step, ...place, id: pair.id, reason });
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

/** Joins samples into one micro-batch, padded to its longest sample. */
export function microBatch(
  samples: readonly Pick<Sample, 'features' | 'example'>[],
  [Q, C]: readonly [number, number],
): MicroBatch {
  const data = new Float32Array(samples.length * Q * C);
  samples.forEach(({ features }, b) => data.set(features, b * Q * C));
  return {
    features: { shape: [samples.length, Q, C], data },
    sequence: layOut(
      samples.map(({ example }) => example),
      Q,
    ),
  };
}
