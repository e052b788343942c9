/** Where a projection begins: the regression on captions, through the parts that a run opens. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseConfig } from '../../src/config/load.js';
import type { Config } from '../../src/config/schema.js';
import type { Projection } from '../../src/model/projection.js';
import { meanEmbeddings } from '../../src/model/projectionRegression.js';
import { openTraining } from '../../src/train/open.js';
import { cosine } from '../helpers/compare.js';
import { projectRows } from '../helpers/reference.js';
import { tinyConfig, writeTinyModels, writeTinyShards } from '../helpers/tinyFolders.js';

const ROWS = 24;
/** Of the line feed that ends a caption, in the tiny tokenizer. */
const END_TOKENS = 1;
let root: string;
let folders: { llm: string; encoder: string };
let text: string;

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'minigpt4-start-'));
  folders = await writeTinyModels(root);
  await writeTinyShards(join(root, 'shards'), ROWS);
  text = tinyConfig('pretrain', folders, root);
});
afterAll(() => rm(root, { recursive: true, force: true }));

const configOf = (name: string, scale: number): Config =>
  parseConfig(text, 'tiny.yaml', {
    set: [
      `run.folder=${join(root, 'runs', name)}`,
      'model.projection.init=captions',
      `model.projection.initialScale=${scale}`,
    ],
  });

interface Begun {
  readonly projection: Projection;
  /** Root mean square of the LLM's word embeddings. */
  readonly rms: number;
  /** Soft tokens of all samples. */
  readonly softTokens: readonly (readonly number[])[];
  /** What those of each sample should be. */
  readonly targets: readonly (readonly number[])[];
}

async function begin(config: Config): Promise<Begun> {
  const training = await openTraining(config, { folders });
  try {
    const { model, samples, projection } = training.parts;
    const softTokens: number[][] = [];
    const captions: number[][] = [];
    for (let position = 0; position < ROWS; position++) {
      const { features, example } = await samples.at(position, 0);
      softTokens.push(...projectRows(projection, features));
      captions.push(example.target.slice(0, -END_TOKENS));
    }
    const ids = [...new Set(captions.flat())];
    const targets = meanEmbeddings(
      captions,
      ids,
      await model.language.embeddings(ids),
      projection.outputSize,
    );
    const rms = await model.embeddingRms();
    return { projection, rms, softTokens, targets: targets.map((target) => [...target]) };
  } finally {
    await training.close({ wait: true });
  }
}

const meanOf = (rows: readonly (readonly number[])[]): number[] =>
  (rows[0] ?? []).map((_, d) => rows.reduce((sum, row) => sum + (row[d] ?? 0), 0) / rows.length);

describe('init captions', () => {
  it('gives soft tokens of the embeddings’ RMS that are in the mean the words of the captions', async () => {
    const { projection, rms, softTokens, targets } = await begin(configOf('a', 1));
    const values = softTokens.flat();
    const found = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
    expect(found / rms).toBeCloseTo(1, 4);
    expect(projection.statistics).toBeDefined();
    expect(cosine(meanOf(softTokens), meanOf(targets))).toBeGreaterThan(0.9999);
  });

  it('is a function of configuration and data, to the bit', async () => {
    const [one, two] = [await begin(configOf('b', 1)), await begin(configOf('c', 1))];
    expect(two.projection.parameters).toEqual(one.projection.parameters);
  });

  it('is scaled by initialScale', async () => {
    const [one, half] = [await begin(configOf('d', 1)), await begin(configOf('e', 0.5))];
    const [large = [], small = []] = [one, half].map(({ projection }) => [
      ...(projection.parameters['weight'] ?? []),
    ]);
    expect(small.map((value) => value.toPrecision(5))).toEqual(
      large.map((value) => (value / 2).toPrecision(5)),
    );
  });
});
