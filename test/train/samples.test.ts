/** Which set and which question the samples of a step come from, whoever reads them. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseConfig } from '../../src/config/load.js';
import type { Config } from '../../src/config/schema.js';
import { BadImage } from '../../src/data/images/images.js';
import { BadSampleLedger } from '../../src/data/ledger.js';
import { Prompter } from '../../src/model/conversation/prompt.js';
import { loadTokenizer, type Tokenizer } from '../../src/model/tokenizer/tokenizer.js';
import type { FeatureReader } from '../../src/train/features.js';
import { openSources, Samples, type Sample } from '../../src/train/samples.js';
import { writeTinyShards } from '../helpers/tinyFolders.js';

const BATCH = 4;
/** Batches of the first set for each of the second. */
const WEIGHTS = [3, 1];
const ROWS = [24, 20];

let scratch = '';
let tokenizer: Tokenizer;
beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'samples-'));
  for (const [set, rows] of ROWS.entries()) await writeTinyShards(join(scratch, `set${set}`), rows);
  tokenizer = await loadTokenizer(join(import.meta.dirname, '../fixtures/tokenizers/tiny-llama'));
});
afterAll(() => rmSync(scratch, { recursive: true }));

function configOf(draw: 'sample' | 'batch', data: object = {}): Config {
  const train = WEIGHTS.map((weight, set) => ({ shards: join(scratch, `set${set}`), weight }));
  return parseConfig(
    JSON.stringify({
      data: { train, draw, captions: 'verbatim', ...data },
      prompt: { template: '{} Answer: ', questions: ['a <ImageHere>', 'b <ImageHere>', 'c <ImageHere>'] },
      train: {
        stage: 'finetune',
        initFrom: 'other',
        steps: 40,
        batchSize: BATCH,
        microBatchSize: 2,
        schedule: { peak: 1, warmupSteps: 0 },
      },
      run: { folder: join(scratch, 'run'), seed: 5 },
    }),
    'test',
  );
}

/** The first 40 batches, the number of the set and the question's tokens beside each sample. */
async function batches(draw: 'sample' | 'batch'): Promise<{ set: number; question: string; id: string }[][]> {
  const config = configOf(draw);
  const sources = await openSources(config);
  const ledger = await BadSampleLedger.open(join(scratch, 'ledger.jsonl'), { maxBadFraction: 0 });
  const prompter = new Prompter(tokenizer, config.prompt);
  const drawn: number[] = [];
  const watched = sources.map((source, set) => ({
    ...source,
    shards: new Proxy(source.shards, {
      get: (shards, name) =>
        name === 'read'
          ? (row: number) => (drawn.push(set), shards.read(row))
          : (Reflect.get(shards, name) as unknown),
    }),
  }));
  const samples = new Samples(watched, () => Promise.resolve(new Float32Array(4)), prompter, config, ledger);
  const all: { set: number; question: string; id: string }[] = [];
  for (let position = 0; position < 40 * BATCH; position++) {
    const sample: Sample = await samples.at(position, 0);
    all.push({
      set: drawn.at(-1) ?? -1,
      question: JSON.stringify(sample.example.prefix),
      id: sample.pair.id,
    });
  }
  for (const { shards } of sources) shards.close();
  return Array.from({ length: 40 }, (_, step) => all.slice(step * BATCH, (step + 1) * BATCH));
}

describe('drawn for a batch', () => {
  it('a batch has one set and one question, the sets in their ratio', async () => {
    const drawn = await batches('batch');
    for (const batch of drawn) {
      expect(new Set(batch.map(({ set }) => set)).size).toBe(1);
      expect(new Set(batch.map(({ question }) => question)).size).toBe(1);
    }
    expect(drawn.filter(([first]) => first?.set === 0)).toHaveLength(30); // 3 : 1
    expect(new Set(drawn.map(([first]) => first?.question)).size).toBe(3);
  });

  it('every sample of a set comes once before any comes again', async () => {
    const drawn = (await batches('batch')).flat();
    for (const [set, rows] of ROWS.entries()) {
      const ids = drawn.filter((sample) => sample.set === set).map(({ id }) => id);
      const passes = Math.floor(ids.length / rows);
      expect(passes).toBeGreaterThan(1);
      for (let pass = 0; pass < passes; pass++)
        expect(new Set(ids.slice(pass * rows, (pass + 1) * rows)).size).toBe(rows);
    }
  });
});

describe('drawn for each sample', () => {
  it('sets and questions mix within batches', async () => {
    const drawn = await batches('sample');
    expect(drawn.some((batch) => new Set(batch.map(({ set }) => set)).size > 1)).toBe(true);
    expect(drawn.some((batch) => new Set(batch.map(({ question }) => question)).size > 1)).toBe(true);
    expect(drawn.flat().filter(({ set }) => set === 0)).toHaveLength(120);
  });
});

describe('read by several ranks', () => {
  const POSITIONS = 160;

  /** What one rank reads with readers of its own, the last first: each position with what the model would get of it. */
  async function readAs(rank: number, ranks: number, data: object): Promise<[number, string][]> {
    const config = configOf('sample', data);
    const sources = await openSources(config);
    const ledger = await BadSampleLedger.open(join(scratch, `ledger${rank}.jsonl`), { maxBadFraction: 1 });
    const features: FeatureReader = ({ id }, crop) =>
      id.endsWith('3')
        ? Promise.reject(new BadImage('JPEG damaged or cut short'))
        : Promise.resolve(Float32Array.from(Object.values(crop?.(640, 480) ?? {})));
    const samples = new Samples(sources, features, new Prompter(tokenizer, config.prompt), config, ledger);
    const read: [number, string][] = [];
    for (let position = POSITIONS - 1; position >= 0; position--) {
      if (position % ranks !== rank) continue;
      const { pair, place, example, features } = await samples.at(position, 0);
      read.push([position, JSON.stringify([pair.id, place, example, [...features]])]);
    }
    for (const { shards } of sources) shards.close();
    return read;
  }

  async function readBy(ranks: number, data: object): Promise<string[]> {
    const parts = await Promise.all(Array.from({ length: ranks }, (_, rank) => readAs(rank, ranks, data)));
    return parts
      .flat()
      .sort(([a], [b]) => a - b)
      .map(([, sample]) => sample);
  }

  it.each(['shuffle', 'local', 'replacement'])(
    'the global batches are those of one, bad samples and crops included, in the order %s',
    async (order) => {
      const data = { order, window: 256, transform: 'random-crop' };
      const one = await readBy(1, data);
      expect(new Set(one).size).toBeGreaterThan(100);
      expect(one.some((sample) => sample.startsWith('["tiny-3"'))).toBe(false); // it was bad, and is replaced
      expect(await readBy(2, data)).toEqual(one);
      expect(await readBy(4, data)).toEqual(one);
    },
  );
});

describe('bad samples', () => {
  const rowOf = (id: string): number => Number(id.replace('tiny-', ''));

  /** Reads a pass over set 0, of which some rows are bad. */
  async function readPass(isBad: (row: number) => boolean): Promise<{ samples: Sample[]; lines: number }> {
    const config = configOf('sample', { train: [{ shards: join(scratch, 'set0') }] });
    const sources = await openSources(config);
    const file = join(scratch, `bad${Math.random()}.jsonl`);
    const ledger = await BadSampleLedger.open(file, { maxBadFraction: 1 });
    const features: FeatureReader = ({ id }) =>
      isBad(rowOf(id))
        ? Promise.reject(new BadImage('JPEG damaged or cut short'))
        : Promise.resolve(new Float32Array(4));
    const reader = new Samples(sources, features, new Prompter(tokenizer, config.prompt), config, ledger);
    const samples: Sample[] = [];
    for (let position = 0; position < 24; position++) samples.push(await reader.at(position, 1));
    for (const { shards } of sources) shards.close();
    return { samples, lines: readFileSync(file, 'utf8').trimEnd().split('\n').length };
  }

  it('that lie together cost a replacement each, from anywhere in the set, and no more', async () => {
    const { samples, lines } = await readPass((row) => row >= 4 && row < 10);
    expect(samples.filter(({ isReplacement }) => isReplacement)).toHaveLength(6);
    expect(lines).toBe(6);
    const instead = samples.filter(({ isReplacement }) => isReplacement).map(({ pair }) => rowOf(pair.id));
    expect(instead.every((row) => row < 4 || row >= 10)).toBe(true);
    expect(new Set(instead).size).toBeGreaterThan(2); // the next good row would be 10 each time
  });

  it('are replaced where one alone is good, and end a run where none is', async () => {
    const { samples } = await readPass((row) => row !== 17);
    expect(new Set(samples.map(({ pair }) => pair.id))).toEqual(new Set(['tiny-17']));
    await expect(readPass(() => true)).rejects.toThrow(
      /one of 100 samples drawn at random must be usable, got none of .*set0/,
    );
  });
});
