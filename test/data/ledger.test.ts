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
    await Promise.all(Array.from({ length: 50 }, (_, i) => ledger.add(bad(i, 'a', i))));
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
    for (const step of [0, 0, 1]) await ledger.add(bad(3, 'a', step));
    expect(ledger.count).toBe(2);
    const again = await BadSampleLedger.open(path, { maxBadFraction: 0.1 });
    await again.add(bad(3, 'a', 1));
    expect(again.count).toBe(2);
  });

  it('stops a run of 5 % bad samples under a budget of 1 %, naming the counts and the worst shard', async () => {
    const ledger = await BadSampleLedger.open(path, { maxBadFraction: 0.01 });
    for (const row of [0, 2, 4, 5]) await ledger.add(bad(row, 'worst.arrow'));
    await ledger.add(bad(1, 'better.arrow'));
    const check = () => {
      ledger.check(100);
    };
    expect(check).toThrow(UserError);
    expect(check).toThrow(
      /at most 0\.01 .* got 5 of 100; worst shard worst\.arrow with 4, commonest reason "no bytes"/,
    );
    expect(() => ledger.check(500)).not.toThrow();
  });

  it('one bad sample in the first batch does not stop a run, but a budget of 0 allows none', async () => {
    const lenient = await BadSampleLedger.open(path, { maxBadFraction: 0.01 });
    await lenient.add(bad(0));
    expect(() => lenient.check(16)).not.toThrow();
    const strict = await BadSampleLedger.open(path, { maxBadFraction: 0 });
    expect(strict.count).toBe(1);
    expect(() => strict.check(1e6)).toThrow(/got 1 of 1000000/);
  });

  it('on resume counts on, cuts the steps that run again, and a line that a crash cut short', async () => {
    const ledger = await BadSampleLedger.open(path, { maxBadFraction: 0.1 });
    for (const step of [1, 2, 3, 4]) await ledger.add(bad(step, 'a', step));
    await writeFile(path, `${await readFile(path, 'utf8')}{"step":5,"sha`);
    const resumed = await BadSampleLedger.open(path, { maxBadFraction: 0.1, keepThroughStep: 2 });
    expect(resumed.count).toBe(2);
    await resumed.add(bad(3, 'a', 3));
    const whole = (await readFile(path, 'utf8')).trimEnd().split('\n');
    expect(whole.map((line) => JSON.parse(line) as unknown)).toEqual(
      [1, 2, 3].map((step) => bad(step, 'a', step)),
    );
  });

  it('a folder that is not there is the user’s to fix', async () => {
    const ledger = await BadSampleLedger.open(join(folder, 'gone', 'ledger.jsonl'), { maxBadFraction: 0.1 });
    await expect(ledger.add(bad(0))).rejects.toThrow(UserError);
  });
});
