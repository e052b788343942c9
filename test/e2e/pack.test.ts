/** Packing by the built command: killed at any instant, stopped, and gone on with. */
import { createWriteStream, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { finished } from 'node:stream/promises';
import sharp from 'sharp';
import { pack } from 'tar-stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { mulberry32 } from '../helpers/random.js';
import { MINIGPT4, run, sha256, start, type Finished } from './commands.js';

const PAIRS = 1200;
const root = mkdtempSync(join(tmpdir(), 'pack-e2e-'));
const tar = join(root, '00000.tar');
const options = ['--rows-per-shard', '60', '--max-side', '96', '--dedup', 'image', '--workers', '2'];
const command = (out: string, ...more: string[]) => [
  MINIGPT4,
  'pack',
  tar,
  '--out',
  out,
  ...options,
  ...more,
];

/** All files of a folder, by name. */
const filesOf = (folder: string) =>
  Object.fromEntries(readdirSync(folder).sort().map((name) => [name, sha256(join(folder, name))] as const)); // prettier-ignore

let expected: Record<string, string> = {};
let unbroken: Finished;
beforeAll(async () => {
  await writeTar();
  unbroken = await run('node', command(join(root, 'unbroken')));
  expected = filesOf(join(root, 'unbroken'));
  expect(Object.keys(expected).length).toBeGreaterThan(12);
});
afterAll(() => rmSync(root, { recursive: true }));

describe('pack', () => {
  it('tells of the first twenty problems, counts all by reason, and lists all beside the manifest', async () => {
    const { stdout, stderr } = unbroken;
    const out = join(root, 'unbroken');
    expect(stdout.trimEnd().split('\n')).toEqual([
      `${out}: ${PAIRS - 30 - 24} pairs`,
      `images stored anew: ${PAIRS - 30 - 24}`,
      'duplicates left out: 30',
      `left out: 24, listed in ${join(out, 'problems.jsonl')}`,
      '  24 × the image cannot be decoded',
    ]);
    expect(
      stderr.match(/^left out: 00000\/\d{9}: the image cannot be decoded: JPEG damaged or cut short$/gm),
    ).toHaveLength(20);
    expect(stderr).toContain(`further ones are listed in ${join(out, 'problems.jsonl')} only`);
    expect(stderr.match(/^packing, MB .* 100 %.* pairs/gm)).toHaveLength(1);
    expect(readFileSync(join(out, 'problems.jsonl'), 'utf8').split('\n')).toHaveLength(25);
    const { stderr: wrong } = await run('node', [MINIGPT4, 'pack', tar, '--out', out, '--shard-size', '5'], {
      code: 2,
    });
    expect(wrong).toContain('--shard-size must be a size in kB, MB or GB, as 512MB, got "5"');
  });

  it('killed at random instants goes on until it is done, byte for byte as if it had not been', async () => {
    const out = join(root, 'killed');
    const random = mulberry32(7);
    let [kills, moved] = [0, 0];
    let before = 0;
    for (; !existsSync(out); kills++) {
      const { child, finished: ended } = start('node', command(out));
      // The first ones die early and late in one start, those after them get time to go on; the last may end by themselves
      const timer = setTimeout(() => child.kill('SIGKILL'), (0.1 + 0.5 * random()) * unbroken.seconds * 1000);
      const { signal, code } = await ended;
      clearTimeout(timer);
      if (signal === null) expect(code).toBe(0);
      const whole = existsSync(out) ? readdirSync(out) : wholeShards(out);
      expect(whole.length).toBeGreaterThanOrEqual(before);
      if (whole.length > before) moved += 1;
      before = whole.length;
      expect(kills).toBeLessThan(60);
    }
    expect(kills).toBeGreaterThan(3);
    expect(moved).toBeGreaterThan(2);
    expect(filesOf(out)).toEqual(expected);
    expect(readdirSync(root).filter((name) => name.startsWith('.killed'))).toEqual([]);
  });

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('at %s ends at once with %i, says that it goes on, and does', async (signal, code) => {
    const out = join(root, signal);
    const running = start('node', command(out));
    await running.said('webdataset tars');
    await expect.poll(() => wholeShards(out).length, { timeout: 30_000 }).toBeGreaterThan(1);
    running.child.kill(signal);
    const stopped = await running.finished;
    expect([stopped.code, stopped.stderr]).toEqual([code, expect.stringContaining(`${signal}: ends at once; the same command goes on`)]); // prettier-ignore
    expect(existsSync(out)).toBe(false);
    const { stderr } = await run('node', command(out));
    expect(stderr).toMatch(/goes on after \d+ whole shards of an earlier start/);
    expect(filesOf(out)).toEqual(expected);
  });

  it('refuses a second process at the same output, which does not disturb the first', async () => {
    const out = join(root, 'both');
    const first = start('node', command(out));
    await first.said('webdataset tars');
    await expect.poll(() => wholeShards(out).length, { timeout: 30_000 }).toBeGreaterThan(0);
    const second = await run('node', command(out), { code: 2 });
    expect(second.stderr).toMatch(/is in use by process \d+ since .*choose another --out/);
    expect((await first.finished).code).toBe(0);
    expect(filesOf(out)).toEqual(expected);
  });
});

/** Shards on record of a packing under way; each must be the unbroken one's. */
function wholeShards(out: string): string[] {
  const work = join(root, `.${out.slice(root.length + 1)}.pack`);
  if (!existsSync(join(work, 'journal.json'))) return [];
  const { shards } = JSON.parse(readFileSync(join(work, 'journal.json'), 'utf8')) as {
    shards: { file: string }[];
  };
  for (const { file } of shards) {
    const path = join(work, 'shards', file);
    if (existsSync(path)) expect([file, sha256(path)]).toEqual([file, expected[file]]); // it may just be published
  }
  return shards.map(({ file }) => file);
}

/** Images of noise, every 50th one cut short, every 40th a repetition. */
async function writeTar(): Promise<void> {
  const stream = pack();
  const file = stream.pipe(createWriteStream(tar));
  const add = (name: string, data: Buffer) =>
    new Promise<void>((resolve, reject) => stream.entry({ name }, data, (error) => (error ? reject(error) : resolve()))); // prettier-ignore
  let last: Buffer = Buffer.alloc(0);
  for (let i = 0; i < PAIRS; i++) {
    const key = String(i).padStart(9, '0');
    if (i % 40 !== 39) last = await jpeg(i);
    await add(`${key}.jpg`, i % 50 === 13 ? last.subarray(0, last.length / 2) : last);
    await add(
      `${key}.json`,
      Buffer.from(JSON.stringify({ caption: `caption ${i}`, url: `http://example.com/${i}` })),
    );
  }
  stream.finalize();
  await finished(file);
}

async function jpeg(seed: number): Promise<Buffer> {
  const [width, height] = [160 + (seed % 7) * 40, 120 + (seed % 5) * 40];
  const noise = { type: 'gaussian', mean: 128, sigma: 20 + (seed % 30) } as const;
  return sharp({ create: { width, height, channels: 3, background: '#000', noise } })
    .jpeg({ quality: 80 })
    .toBuffer();
}
