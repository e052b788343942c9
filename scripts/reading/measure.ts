/**
 * Measures random access to shards: one of 5 GB, and a set of 1,000. Makes both of random bytes, reads rows of each in a
 * fresh process (from the page cache, and after it was dropped), and compares what was read with pyarrow's reading.
 *
 * Run: npx tsx scripts/reading/measure.ts FOLDER [PYTHON]
 *      FOLDER needs 7 GB and is kept; PYTHON is an interpreter with pyarrow, left out: no comparison.
 */
import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { randomAt } from '../../src/data/order/keyed.js';
import { rowAt } from '../../src/data/order/order.js';
import type { ImageTextPair } from '../../src/data/pairs.js';
import { ShardSet } from '../../src/data/shards/shards.js';
import { writeShards } from '../../src/data/shards/shardWriter.js';

const SETS = [
  { name: 'one-shard', rows: 222_000, rowsPerShard: 222_000, meanBytes: 22_500 },
  { name: 'thousand-shards', rows: 256_000, rowsPerShard: 256, meanBytes: 4_000 },
] as const;
const ROWS = 2000; // read at random
const LOCAL = { kind: 'local', window: 4096 } as const; // data.order, data.window
const [command = '', ...rest] = process.argv.slice(2);

if (command === 'read') await readRandom(rest[0] ?? '', rest[1] ?? '');
else if (command === 'local') await readLocally(rest[0] ?? '');
else await measure(command, rest[0]);

async function measure(folder: string, python: string | undefined): Promise<void> {
  if (folder === '') throw new Error('measure: give a folder');
  for (const { name, rows, rowsPerShard, meanBytes } of SETS) {
    const place = join(folder, name);
    if (!existsSync(place)) await writeShards(place, pairs(rows, meanBytes), { rowsPerShard });
    const hashes = join(folder, `${name}.json`);
    console.log(`${name}: ${rows} rows`);
    runSelf('read', place, hashes);
    for (const path of (await ShardSet.open(place)).paths)
      spawnSync('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none']); // drops the file from the page cache
    console.log('  the same with the files dropped from the page cache:');
    runSelf('read', place, hashes);
    runSelf('local', place);
    if (python !== undefined) compare(python, place, hashes);
  }
}

function runSelf(...args: string[]): void {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['--import', 'tsx', fileURLToPath(import.meta.url), ...args],
    { encoding: 'utf8' },
  );
  if (status !== 0) throw new Error(stderr);
  process.stdout.write(stdout);
}

/** Pairs whose images are random bytes of 0.2 to 1.8 times the mean, beginning as a JPEG does. */
function* pairs(rows: number, meanBytes: number): Generator<ImageTextPair> {
  const pool = randomBytes(64 * 2 ** 20);
  for (let row = 0; row < rows; row++) {
    const length = Math.floor(meanBytes * (0.2 + 1.6 * randomAt(1, row, 'length')));
    const start = Math.floor(randomAt(1, row, 'start') * (pool.length - length));
    const image = Uint8Array.prototype.slice.call(pool, start, start + length);
    image.set([0xff, 0xd8, 0xff, 0xe0]);
    yield {
      id: `pair-${row}`,
      image,
      caption: `what is seen in picture ${row}, ${'words '.repeat(row % 20)}`,
      extra: { url: `https://example.org/${row}.jpg` },
    };
  }
}

/** Reads rows at random, one after the other; prints the times and the memory, and writes what each row hashes to. */
async function readRandom(place: string, hashesFile: string): Promise<void> {
  const began = performance.now();
  const set = await ShardSet.open(place);
  const openMs = performance.now() - began;
  const times: number[] = [];
  const hashes: [number, string][] = [];
  for (let i = 0; i < ROWS; i++) {
    const row = Math.floor(randomAt(2, i, 'row') * set.rows);
    const start = performance.now();
    const { id, image, caption } = await set.read(row);
    times.push(performance.now() - start);
    hashes.push([row, createHash('sha256').update(`${id}\0${caption}\0`).update(image).digest('hex')]);
  }
  await writeFile(hashesFile, JSON.stringify(hashes));
  const sorted = times.sort((a, b) => a - b);
  const at = (part: number) => (sorted[Math.floor(part * sorted.length)] ?? NaN).toFixed(2);
  console.log(
    `  open ${openMs.toFixed(0)} ms; ${ROWS} rows at random: median ${at(0.5)} ms, p95 ${at(0.95)}, p99 ${at(0.99)}, ` +
      `slowest ${at(1 - 1e-9)}; ${peakMemory()}`,
  );
}

/** Reads rows in the order `local`, 32 at a time, each once; prints how much was read for them. */
async function readLocally(place: string): Promise<void> {
  const set = await ShardSet.open(place);
  await set.read(0);
  const before = bytesRead();
  const began = performance.now();
  let imageBytes = 0;
  const rows = Math.min(2 * LOCAL.window, set.rows);
  for (let start = 0; start < rows; start += 32) {
    const some = Array.from({ length: 32 }, (_, i) => set.read(rowAt(LOCAL, 3, start + i, set.rows)));
    for (const { image } of await Promise.all(some)) imageBytes += image.length;
  }
  const perSecond = (rows / (performance.now() - began)) * 1000;
  const ratio = (bytesRead() - before) / imageBytes;
  console.log(
    `  ${rows} rows in local order: ${perSecond.toFixed(0)} rows/s, read ${ratio.toFixed(2)} times the bytes of the images; ${peakMemory()}`,
  );
}

function compare(python: string, place: string, hashesFile: string): void {
  const script = fileURLToPath(new URL('pyarrow_rows.py', import.meta.url));
  const { status, stdout, stderr } = spawnSync(python, [script, place, hashesFile], { encoding: 'utf8' });
  if (status !== 0) throw new Error(stderr);
  process.stdout.write(`  ${stdout}`);
}

function peakMemory(): string {
  const kilobytes = /VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  return `peak resident memory ${(Number(kilobytes) / 1024).toFixed(0)} MiB`;
}

function bytesRead(): number {
  return Number(/rchar: (\d+)/.exec(readFileSync('/proc/self/io', 'utf8'))?.[1]);
}
