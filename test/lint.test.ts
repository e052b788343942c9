import { rmSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { ImageTextPair } from '../src/data/pairs.js';
import { writeShards } from '../src/data/shards/shardWriter.js';
import { checkLint, lintShards } from '../src/lint.js';
import { lintLines } from '../src/lintLines.js';
import { failure } from './helpers/failure.js';
import { answerWith, FileServer, type Fault } from './helpers/fileServer.js';

let folder = '';
let jpeg = new Uint8Array(0);
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lint-'));
  const noise = Buffer.from(Array.from({ length: 40 * 30 * 3 }, (_, i) => (i * 7919) % 256));
  jpeg = await sharp(noise, { raw: { width: 40, height: 30, channels: 3 } })
    .jpeg()
    .toBuffer();
  await writeShards(join(folder, 'bad'), pairs(), { rowsPerShard: 20 });
  await writeShards(join(folder, 'good'), pairs().slice(0, 5));
});
afterAll(() => rm(folder, { recursive: true }));

const bad: Record<number, Partial<ImageTextPair>> = {
  5: { image: new Uint8Array(0) },
  23: { image: Buffer.from('<!DOCTYPE html><html></html>') },
  24: { caption: ' .!* ' },
  25: { caption: '' },
};
/** 40 pairs, of which 26 is a truncated JPEG, and 30 has the id of 10. */
function pairs(): ImageTextPair[] {
  return Array.from({ length: 40 }, (_, i) => ({
    id: `p${i === 30 ? 10 : i}`,
    image: i === 26 ? jpeg.slice(0, jpeg.length / 2) : jpeg,
    caption: 'word '.repeat(1 + (i % 4)),
    extra: {},
    ...bad[i],
  }));
}

describe('lint', () => {
  it.each([1, 3])('finds what is bad, in the order of the rows, with %i workers', async (workers) => {
    const seen: [number, number, number][] = [];
    const report = join(folder, `bad-${workers}.jsonl`);
    const found = await lintShards(join(folder, 'bad'), {
      workers,
      report,
      onProgress: (...state) => seen.push(state),
    });
    expect(found).toMatchObject({ rows: 40, bad: 5, unreadable: 0 });
    expect(found.first.map(({ shard, row, id }) => [shard, row, id])).toEqual([
      ['part-00000.arrow', 5, 'p5'],
      ['part-00001.arrow', 3, 'p23'],
      ['part-00001.arrow', 4, 'p24'],
      ['part-00001.arrow', 5, 'p25'],
      ['part-00001.arrow', 6, 'p26'],
    ]);
    expect(found.byReason[0]).toEqual(['caption is empty', 2]);
    expect(found.first[0]?.reason).toBe('no bytes');
    expect(found.worstShard).toEqual({ shard: 'part-00001.arrow', bad: 4 });
    expect(found.duplicateIds).toEqual({ rows: 1, first: ['p10'] });
    expect(found.sizes.width).toEqual(Array(7).fill(40));
    expect(found.sizes.height).toEqual(Array(7).fill(30));
    expect(found.sizes['caption words']).toEqual([1, 1, 1, 3, 3, 4, 4]); // 9, 8, 9 and 9 good rows
    expect(seen.at(-1)).toEqual([40, 40, 5]);
    expect(seen.map(([done]) => done)).toEqual(Array.from({ length: 40 }, (_, i) => i + 1));
    const lines = (await readFile(report, 'utf8')).trimEnd().split('\n');
    expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual(found.first);
  });

  it('captions that are used as they are may be of signs alone', async () => {
    const { byReason } = await lintShards(join(folder, 'bad'), { captions: 'verbatim' });
    expect(byReason).toContainEqual(['caption is empty', 1]);
  });

  it('says it in lines, and fails where a run would', async () => {
    const found = await lintShards(join(folder, 'bad'));
    const lines = lintLines(found, 0.01);
    expect(lines[0]).toBe('40 rows, 5 bad: 13 % (data.maxBadFraction allows 1 %)');
    expect(lines).toContain('  2 caption is empty');
    expect(lines).toContain('worst shard: part-00001.arrow with 4');
    expect(lines).toContain('  part-00000.arrow row 5, p5: no bytes');
    expect(lines.at(-1)).toBe('1 rows have an id that came before: p10');
    expect(() => checkLint(found, 0.1)).toThrow('at most 0.1 of the rows may be bad, got 5 of 40');
    expect(() => checkLint(found, 0.124)).toThrow('at most 0.124 of the rows may be bad'); // 4.96 of 40
    expect(() => checkLint(found, 0.125)).not.toThrow();
    expect(() => checkLint({ ...found, rows: 100, bad: 29 }, 0.29)).not.toThrow(); // 100 · 0.29 is below 29
  });

  it('good data is said to be good', async () => {
    const found = await lintShards(join(folder, 'good'));
    expect(lintLines(found, 0.01)).toEqual([
      '5 rows, 0 bad: 0 % (data.maxBadFraction allows 1 %)',
      expect.stringMatching(/^good rows +least +1 % +25 % +median +75 % +99 % +most$/),
      expect.stringMatching(/^width( +40){7}$/),
      expect.stringMatching(/^height( +30){7}$/),
      expect.stringMatching(new RegExp(`^image bytes( +${Number(jpeg.length.toPrecision(3))}){7}$`)),
      expect.stringMatching(/^caption words +1 +1 +1 +2 +3 +3 +4$/),
      'no id comes twice',
    ]);
    expect(() => checkLint(found, 0)).not.toThrow();
  });

  /** `good` with an offset that leaves its batch: rows 0 and 1 cannot be read. */
  async function damaged(): Promise<Buffer> {
    const bytes = await readFile(join(folder, 'good', 'part-00000.arrow'));
    const at = bytes.indexOf(Buffer.from(Int32Array.of(0, jpeg.length, 2 * jpeg.length).buffer));
    bytes.writeInt32LE(2 ** 30, at + 4); // where the first image ends, and the second begins
    return bytes;
  }

  it('rows of a damaged batch are named, and what follows is looked at all the same', async () => {
    const path = join(folder, 'damaged.arrow');
    await writeFile(path, await damaged());
    const found = await lintShards(path);
    expect(found).toMatchObject({ rows: 5, bad: 2, unreadable: 2 });
    expect(found.first[0]?.reason).toMatch(/the image of row 0 .* lies outside of it: .*damaged\.arrow/);
    expect(() => checkLint(found, 1)).toThrow('2 rows cannot be read, a run would stop at them');
  });

  it('of an address too; only a server that fails ends it', async () => {
    const server = await FileServer.start({ '/damaged.arrow': await damaged() });
    try {
      const found = await lintShards(server.at('/damaged.arrow'));
      expect(found).toMatchObject({ rows: 5, bad: 2, unreadable: 2 });
      const refuse = () => server.faults.push(...Array<Fault>(5).fill(answerWith(403)));
      const lint = lintShards(server.at('/damaged.arrow'), { workers: 1, onProgress: refuse });
      expect(await failure(lint)).toMatch(/the server refuses access, it answered 403/);
    } finally {
      await server.stop();
    }
  });

  it('a row that cannot be read has no id that another could have again', async () => {
    const ids = ['x', 'y', '0', '1', 'z'];
    await writeShards(join(folder, 'numbered'), pairs().slice(0, 5).map((pair, i) => ({ ...pair, id: ids[i] ?? '' }))); // prettier-ignore
    const path = join(folder, 'numbered', 'part-00000.arrow');
    const bytes = await readFile(path);
    const at = bytes.indexOf(Buffer.from(Int32Array.of(0, jpeg.length, 2 * jpeg.length).buffer));
    bytes.writeInt32LE(2 ** 30, at + 4);
    await writeFile(path, bytes);
    const { unreadable, duplicateIds } = await lintShards(path);
    expect([unreadable, duplicateIds.rows]).toEqual([2, 0]);
  });

  it('a report that cannot be written is told before a row is looked at', async () => {
    const report = join(folder, 'reports');
    await mkdir(report);
    let looked = 0;
    const lint = lintShards(join(folder, 'good'), { report, onProgress: () => (looked += 1) });
    expect(await failure(lint)).toBe(`${report}: is a folder, not a file (name a file for the bad rows)`);
    expect(looked).toBe(0);
  });

  it('that is told to end while a server does not answer ends at once, and before it begins too', async () => {
    const server = await FileServer.start({ '/a.arrow': await damaged() });
    const end = new AbortController();
    const hang: Fault = () => {
      end.abort(new Error('enough'));
      return true; // and no answer, ever
    };
    server.faults.push(hang);
    try {
      await expect(lintShards(server.at('/a.arrow'), { signal: end.signal })).rejects.toThrow('enough');
      server.faults.push(hang);
      await expect(lintShards(server.at('/a.arrow'), { signal: end.signal })).rejects.toThrow('enough');
    } finally {
      await server.stop();
    }
  }, 1000);

  it('a shard that the disk has lost meanwhile ends it: no row is to blame', async () => {
    const place = join(folder, 'lost');
    await writeShards(place, pairs(), { rowsPerShard: 20 });
    const lose = (done: number) => {
      if (done === 1) rmSync(join(place, 'part-00001.arrow'));
    };
    const lint = lintShards(place, { workers: 1, onProgress: lose });
    expect(await failure(lint)).toMatch(/part-00001\.arrow: no such file or folder/);
  });

  it('that is told to end leaves no half of a report', async () => {
    const report = join(folder, 'ended', 'bad.jsonl');
    await mkdir(join(folder, 'ended'));
    const end = new AbortController();
    const lint = lintShards(join(folder, 'bad'), {
      report,
      signal: end.signal,
      onProgress: (done) => {
        if (done === 7) end.abort(new Error('enough'));
      },
    });
    await expect(lint).rejects.toThrow('enough');
    expect(await readdir(join(folder, 'ended'))).toEqual([]);
  });
});
