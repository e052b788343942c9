/** Which set and which question the samples of a step come from. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseConfig } from '../../src/config/load.js';
import type { Config } from '../../src/config/schema.js';
import { BadSampleLedger } from '../../src/data/ledger.js';
import { Prompter } from '../../src/model/conversation/prompt.js';
import { loadTokenizer, type Tokenizer } from '../../src/model/tokenizer/tokenizer.js';
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

function configOf(draw: 'sample' | 'batch'): Config {
  const train = WEIGHTS.map((weight, set) => ({ shards: join(scratch, `set${set}`), weight }));
  return parseConfig(
    JSON.stringify({
      data: { train, draw, captions: 'verbatim' },
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
