import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BadSampleLedger } from '../../src/data/ledger.js';
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

describe('BadSampleLedger', () => {
  it('writes one line a sample, in the order of the calls', async () => {
    const ledger = await BadSampleLedger.open(path, { maxBadFraction: 0.1 });
    for (let i = 0; i < 50; i++) ledger.add(bad(i, 'a', i));
    const lines = (await readFile(path, 'utf8')).trimEnd().split('\n');
    expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual(
      Array.from({ length: 50 }, (_, i) => bad(i, 'a', i)),
    );
    expect(ledger.countsByReason).toEqual(
      new Map([
        ['no bytes', 25],
        ['caption is empty', 25],
      ]),
    );
  });

  it('counts a sample once that its step meets twice, and again for another step', async () => {
    const ledger = await BadSampleLedger.open(path, { maxBadFraction: 0.1 });
    for (const step of [0, 0, 1]) ledger.add(bad(3, 'a', step));
    expect(ledger.count).toBe(2);
    const again = await BadSampleLedger.open(path, { maxBadFraction: 0.1 });
    again.add(bad(3, 'a', 1));
    expect(again.count).toBe(2);
  });

  it('stops a run of 5 % bad samples under a budget of 1 %, naming the counts and the worst shard', async () => {
    const ledger = await BadSampleLedger.open(path, { maxBadFraction: 0.01 });
    for (const row of [0, 2, 4, 5]) ledger.add(bad(row, 'worst.arrow', 9));
    ledger.add(bad(1, 'better.arrow', 9));
    const check = () => {
      ledger.check(95, 9);
    };
    expect(check).toThrow(UserError);
    expect(check).toThrow(
      /at most 0\.01 .* got 5 of 100; worst shard worst\.arrow with 4, commonest reason "no bytes"/,
    );
    expect(() => ledger.check(495, 9)).not.toThrow();
  });

  it('does not add what statistics met before the first step to what the steps meet', async () => {
    const ledger = await BadSampleLedger.open(path, { maxBadFraction: 0.01 });
    for (let row = 0; row < 20; row++) ledger.add(bad(row, 'a', 0)); // of 2000
    expect(() => ledger.check(1980, 0)).not.toThrow();
    ledger.add(bad(0, 'a', 1));
    expect(() => ledger.check(3, 1)).not.toThrow();
    ledger.add(bad(1, 'a', 1));
    expect(() => ledger.check(3, 1)).toThrow(/got 2 of 5/);
  });

  it('with a budget of 1 never stops', async () => {
    const ledger = await BadSampleLedger.open(path, { maxBadFraction: 1 });
    for (let row = 0; row < 9; row++) ledger.add(bad(row, 'a', 1));
    expect(() => ledger.check(0, 1)).not.toThrow();
  });

  it('one bad sample in the first batch does not stop a run, but a budget of 0 allows none', async () => {
    const lenient = await BadSampleLedger.open(path, { maxBadFraction: 0.01 });
    lenient.add(bad(0));
    expect(() => lenient.check(15, 0)).not.toThrow();
    const strict = await BadSampleLedger.open(path, { maxBadFraction: 0 });
    expect(strict.count).toBe(1);
    expect(() => strict.check(999_999, 0)).toThrow(/got 1 of 1000000/);
  });

  it('on resume counts on, cuts the steps that run again, and a line that a crash cut short', async () => {
    const ledger = await BadSampleLedger.open(path, { maxBadFraction: 0.1 });
    for (const step of [1, 2, 3, 4]) ledger.add(bad(step, 'a', step));
    await writeFile(path, `${await readFile(path, 'utf8')}{"step":5,"sha`);
    const resumed = await BadSampleLedger.open(path, { maxBadFraction: 0.1, keepThroughStep: 2 });
    expect(resumed.count).toBe(2);
    resumed.add(bad(3, 'a', 3));
    const whole = (await readFile(path, 'utf8')).trimEnd().split('\n');
    expect(whole.map((line) => JSON.parse(line) as unknown)).toEqual(
      [1, 2, 3].map((step) => bad(step, 'a', step)),
    );
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
    expect(() => ledger.check(10, 5)).not.toThrow();
    ledger.close();
    const resumed = await BadSampleLedger.open(path, { maxBadFraction: 0, keepThroughStep: 3 });
    expect(resumed.count).toBe(0);
    expect(await readFile(path, 'utf8')).toBe(
      '{"step":2,"reason":"loss NaN","samples":[{"shard":"a","row":3,"id":"x"}]}\n',
    );
  });

  it('a folder that is not there is the user’s to fix', async () => {
    const ledger = await BadSampleLedger.open(join(folder, 'gone', 'ledger.jsonl'), { maxBadFraction: 0.1 });
    expect(() => ledger.add(bad(0))).toThrow(UserError);
  });
});
