import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { allowedBad, BadSampleLedger } from '../../src/data/ledger.js';
import { randomAt } from '../../src/data/order/keyed.js';
import { UserError } from '../../src/errors.js';

let folder = '';
let path = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ledger-'));
  path = join(folder, 'ledger.jsonl');
});
afterEach(() => rm(folder, { recursive: true }));

const bad = (row: number, shard = 'part-00000.arrow', step?: number) => ({
  ...(step === undefined ? {} : { step }),
  shard,
  row,
  id: `id-${row}`,
  reason: row % 2 === 0 ? 'no bytes' : 'caption is empty',
});

async function linesOf(file: string): Promise<unknown[]> {
  const text = await readFile(file, 'utf8');
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as unknown);
}

describe('allowedBad', () => {
  it('lets a set well within the limit pass, in whatever order its bad samples come, and stops one above it', () => {
    const stops = (rate: number, seed: number): boolean => {
      let bad = 0;
      for (let total = 1; total <= 5000; total++) {
        if (randomAt(seed, total, 'bad') < rate) bad += 1;
        if (bad > allowedBad(total, 0.01)) return true;
      }
      return false;
    };
    const stopped = (rate: number) =>
      Array.from({ length: 200 }, (_, seed) => stops(rate, seed)).filter(Boolean).length;
    expect(stopped(0.005)).toBeLessThanOrEqual(2);
    expect(stopped(0.03)).toBe(200);
  });
});

describe('BadSampleLedger', () => {
  it('writes one line a sample, in the order of the calls', async () => {
    const ledger = await BadSampleLedger.open(path, { maxBadFraction: 0.1 });
    for (let i = 0; i < 50; i++) ledger.add(bad(i, 'a', i));
    expect(await linesOf(path)).toEqual(Array.from({ length: 50 }, (_, i) => bad(i, 'a', i)));
  });

  it('counts a sample once that its step meets twice, and again for another step', async () => {
    const ledger = await BadSampleLedger.open(path, { maxBadFraction: 0.1 });
    for (const step of [0, 0, 1]) ledger.add(bad(3, 'a', step));
    expect(await linesOf(path)).toHaveLength(2);
    const again = await BadSampleLedger.open(path, { maxBadFraction: 0.1 });
    again.add(bad(3, 'a', 1));
    expect(await linesOf(path)).toHaveLength(2);
  });

  it('stops a run of 10 % bad samples under a budget of 1 %, naming the counts and the worst shard', async () => {
    const ledger = await BadSampleLedger.open(path, { maxBadFraction: 0.01 });
    for (const row of [0, 2, 4, 6, 8, 10, 12, 5]) ledger.add(bad(row, 'worst.arrow', 9));
    for (const row of [1, 2]) ledger.add(bad(row, 'better.arrow', 9));
    const check = () => ledger.requireFew(10, 100, 9);
    expect(check).toThrow(UserError);
    expect(check).toThrow(
      /at most 0\.01 .* got 10 of 100; worst shard worst\.arrow with 8, commonest reason "no bytes"/,
    );
    expect(() => ledger.requireFew(10, 500, 9)).not.toThrow();
  });

  it('names the worst shard of the samples that count, each set’s own', async () => {
    const ledger = await BadSampleLedger.open(path, { maxBadFraction: 0.01 });
    for (let row = 0; row < 20; row++) ledger.add(bad(row, 'statistics', 0));
    for (const row of [0, 1, 2]) ledger.add(bad(row, 'steps', 1));
    for (let row = 0; row < 30; row++) ledger.add(bad(row, 'later', 2));
    expect(() => ledger.requireFew(20, 2000, 0)).not.toThrow();
    expect(() => ledger.requireFew(20, 200, 0)).toThrow(/got 20 of 200; worst shard statistics with 20/);
    expect(() => ledger.requireFew(3, 4, 1)).toThrow(/got 3 of 4; worst shard steps with 3/);
  });

  it('lists a row of each of two sets whose shards have the same name', async () => {
    const ledger = await BadSampleLedger.open(path, { maxBadFraction: 0.01 });
    for (const set of ['shards/cc', 'shards/sbu', 'shards/cc']) ledger.add({ set, ...bad(5, 'part', 1) });
    expect(await linesOf(path)).toHaveLength(2);
    expect(() => ledger.requireFew(9, 9, 1)).toThrow('worst shard shards/cc/part with 1');
  });

  it('with a budget of 1 never stops, with one of 0 at the first', async () => {
    const ledger = await BadSampleLedger.open(path, { maxBadFraction: 1 });
    expect(() => ledger.requireFew(9, 9, 1)).not.toThrow();
    const strict = await BadSampleLedger.open(path, { maxBadFraction: 0 });
    expect(() => strict.requireFew(0, 1_000_000, 1)).not.toThrow();
    expect(() => strict.requireFew(1, 1_000_000, 1)).toThrow(/got 1 of 1000000/);
  });

  it('on resume counts on, cuts the steps that run again, and a line that a crash cut short', async () => {
    const ledger = await BadSampleLedger.open(path, { maxBadFraction: 0.1 });
    for (const step of [1, 2, 3, 4]) ledger.add(bad(step, 'a', step));
    await writeFile(path, `${await readFile(path, 'utf8')}{"step":5,"sha`);
    const resumed = await BadSampleLedger.open(path, { maxBadFraction: 0.1, keepThroughStep: 2 });
    expect(() => resumed.requireFew(99, 99, 9)).toThrow(/worst shard a with 2/);
    resumed.add(bad(3, 'a', 3));
    expect(await linesOf(path)).toEqual([1, 2, 3].map((step) => bad(step, 'a', step)));
  });

  it('keeps steps that were not applied beside the bad samples, and does not count them', async () => {
    const step = (number: number) => ({
      step: number,
      reason: 'loss NaN',
      samples: [{ shard: 'a', row: 3, id: 'x' }],
    });
    const ledger = await BadSampleLedger.open(path, { maxBadFraction: 0 });
    ledger.addSkipped(step(2));
    ledger.addSkipped(step(4));
    ledger.close();
    const resumed = await BadSampleLedger.open(path, { maxBadFraction: 0, keepThroughStep: 3 });
    expect(() => resumed.requireFew(9, 9, 9)).toThrow(/worst shard none with 0/);
    expect(await readFile(path, 'utf8')).toBe(
      '{"step":2,"reason":"loss NaN","samples":[{"shard":"a","row":3,"id":"x"}]}\n',
    );
  });

  it('a folder that is not there is the user’s to fix', async () => {
    const ledger = await BadSampleLedger.open(join(folder, 'gone', 'ledger.jsonl'), { maxBadFraction: 0.1 });
    expect(() => ledger.add(bad(0))).toThrow(UserError);
  });
});
