import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shuffleLines } from '../src/shuffle.js';
import { writeShards } from '../src/data/shards/shardWriter.js';

let folder = '';
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'shuffle-'));
  const pairs = Array.from({ length: 4096 }, (_, i) => ({
    id: `${i}`,
    image: Uint8Array.of(i & 255),
    caption: 'c',
    extra: {},
  }));
  await writeShards(join(folder, 'set'), pairs, { rowsPerShard: 512 });
  await writeShards(join(folder, 'few'), pairs.slice(0, 63), { rowsPerShard: 16 });
  await writeShards(join(folder, 'many'), pairs.slice(0, 64), { rowsPerShard: 8 });
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Entropy, share of the shuffle's, shards a batch and drift by name. */
async function table(window: number): Promise<Map<string, number[]>> {
  const lines = await shuffleLines(join(folder, 'set'), { window, batchSize: 64 });
  expect(lines[0]).toBe('4096 rows in 8 shards; first 4096 samples, batches of 64');
  return new Map(
    lines.slice(2, 5).map((line) => {
      const [name = '', ...cells] = line.trim().split(/ {2,}/);
      return [name, cells.map((cell) => Number.parseFloat(cell))];
    }),
  );
}

describe('inspect --shuffle', () => {
  it('tells a full shuffle from runs of rows, by shards and places', async () => {
    const measured = await table(256); // one run a window: a shard at a time
    expect(measured.get('shuffle')?.[1]).toBe(100);
    expect(measured.get('shuffle')?.[0]).toBeGreaterThan(2.97); // log2(8) = 3
    expect(measured.get('shuffle')?.[2]).toBeGreaterThan(7.9);
    expect(measured.get('local, window 256')?.[1]).toBeLessThan(5);
    expect(measured.get('local, window 256')?.[2]).toBe(1);
    expect(measured.get('replacement')?.[1]).toBeGreaterThan(99);
    for (const kind of ['shuffle', 'replacement'])
      expect(Math.abs(measured.get(kind)?.[3] ?? 1)).toBeLessThan(0.08); // standard deviation 1/64
  });

  it('says what it counts: shards, or groups of them where there are more than the samples tell apart', async () => {
    const lastLine = async (place: string) =>
      (await shuffleLines(place, { window: 256, batchSize: 64 })).at(-1);
    expect(await lastLine(join(folder, 'set'))).toMatch(/^entropy: of the shard that a sample is from, when/);
    expect(await lastLine(join(folder, 'many'))).toMatch(
      /^entropy: of the group of neighbouring shards, of 2 such groups, that/,
    );
  });

  it('says so where the rows are too few to tell any shards apart', async () => {
    const lines = await shuffleLines(join(folder, 'few'), { window: 256, batchSize: 4 });
    expect(lines[2]).toMatch(/^ {2}shuffle +– +– +\d/);
    expect(lines.at(-1)).toBe(
      'entropy: too few rows to tell shards apart; drift: rank correlation of place and row',
    );
  });

  it('shows that a window over all rows mixes as a shuffle does', async () => {
    const measured = await table(4096);
    expect(measured.get('local, window 4096')?.[1]).toBeGreaterThan(99.5);
  });
});
