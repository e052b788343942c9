/** What goes wrong for a user: one message that says what, where and what to do, exit code 2, no stack. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { appendFile, cp, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest';
import { writeShards } from '../../src/data/shards/shardWriter.js';
import { tinyConfig, tinyPicture, writeTinyModels, writeTinyShards } from '../helpers/tinyFolders.js';
import { MINIGPT4, run, start, type Finished } from './commands.js';

let root: string;
let folders: { llm: string; encoder: string };

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'minigpt4-bad-'));
  folders = await writeTinyModels(root);
  await writeTinyShards(join(root, 'shards'), 20);
  await writeFile(join(root, 'pretrain.yaml'), tinyConfig('pretrain', folders, root));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** Runs stage 1 with changed settings in a run folder of its own. */
function pretrain(name: string, set: readonly string[], code: number): Promise<Finished> {
  const settings = [`run.folder=${join(root, 'runs', name)}`, 'train.steps=6', ...set];
  return run(
    'node',
    [
      MINIGPT4,
      'pretrain',
      '--config',
      join(root, 'pretrain.yaml'),
      ...settings.flatMap((value) => ['--set', value]),
    ],
    { code },
  );
}

async function message(name: string, set: readonly string[]): Promise<string> {
  const { stderr } = await pretrain(name, set, 2);
  expect(stderr).not.toMatch(/^\s+at /m);
  return stderr;
}

describe('bad input', () => {
  it('an unknown key is named with file, line, column and the key that was meant', async () => {
    const file = join(root, 'typo.yaml');
    await writeFile(
      file,
      (await readFile(join(root, 'pretrain.yaml'), 'utf8')).replace('batchSize: 4', 'batchSise: 4'),
    );
    const { stderr } = await run('node', [MINIGPT4, 'pretrain', '--config', file], { code: 2 });
    expect(stderr).toMatch(/typo\.yaml:\d+:\d+: train\.batchSise: .*batchSize/);
  });

  it('missing shards, an empty shard and a truncated one are named', async () => {
    expect(await message('missing', [`data.train.0.shards=${join(root, 'nowhere')}`])).toContain('nowhere');
    const empty = join(root, 'empty.arrow');
    await writeFile(empty, '');
    expect(await message('empty', [`data.train.0.shards=${empty}`])).toMatch(/file is empty: .*empty\.arrow/);
    const cut = join(root, 'cut');
    await cp(join(root, 'shards'), cut, { recursive: true });
    const manifest = JSON.parse(readFileSync(join(cut, 'manifest.json'), 'utf8')) as {
      shards: [{ file: string; bytes: number }];
    };
    await truncate(join(cut, manifest.shards[0].file), manifest.shards[0].bytes - 100);
    expect(await message('cut', [`data.train.0.shards=${cut}`])).toContain(manifest.shards[0].file);
  });

  it('too many bad samples end the run with the counts, the worst shard and the setting', async () => {
    const shards = join(root, 'spoilt');
    const pictures = await Promise.all(Array.from({ length: 12 }, (_, i) => tinyPicture(i)));
    await writeShards(
      shards,
      pictures.map((image, i) => ({
        id: `p${i}`,
        image: i === 7 ? image.slice(0, 40) : image,
        caption: `picture ${i}`,
        extra: {},
      })),
      { rowsPerShard: 6 },
    );
    expect(await message('budget', [`data.train.0.shards=${shards}`, 'data.maxBadFraction=0'])).toMatch(
      /\(data\.maxBadFraction\), got 1 of \d+; worst shard part-00001\.arrow with 1/,
    );
  });

  it('a projection of another width is refused and both widths are named', async () => {
    const wide = join(root, 'wide.safetensors');
    const header = JSON.stringify({
      'llama_proj.weight': { dtype: 'F32', shape: [8, 4], data_offsets: [0, 128] },
      'llama_proj.bias': { dtype: 'F32', shape: [8], data_offsets: [128, 160] },
    }).padEnd(168);
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(header.length));
    await writeFile(wide, Buffer.concat([length, Buffer.from(header), Buffer.alloc(160)]));
    expect(await message('wide', [`train.initFrom=${wide}`])).toMatch(/\[32, 16\].*\[8, 4\]/);
  });

  it('a truncated weights file is named', async () => {
    const broken = join(root, 'broken-llm');
    await cp(folders.llm, broken, { recursive: true });
    await truncate(join(broken, 'model.safetensors'), 5000);
    expect(await message('broken', [`model.llm=${broken}`])).toContain('model.safetensors');
  });

  it('a grid that does not divide the patches is refused; the process ends well though TensorFlow computed nothing', async () => {
    expect(await message('grid', ['model.tokens.grid=3'])).toMatch(
      /model\.tokens\.grid must divide \d+, got 3/,
    );
  });

  it('a full disk does not end a run; it is told, and what waited is written once there is space', async (context) => {
    await onSmallDisk(context, '400k', async (disk) => {
      const folder = join(disk, 'run');
      const steps = 600;
      const set = [
        `run.folder=${folder}`,
        `train.steps=${steps}`,
        'train.saveEvery=20',
        'data.featureCache=false',
      ];
      const running = start('node', [
        MINIGPT4,
        'pretrain',
        '--config',
        join(root, 'pretrain.yaml'),
        ...set.flatMap((value) => ['--set', value]),
      ]);
      await running.said('preflight: passed');
      const filler = join(disk, 'filler');
      for (let fits = true; fits;) fits = await appendFile(filler, Buffer.alloc(4096)).then(...FITS);
      await running.said(/not saved: .*no space left.*; the run goes on and tries again in 20 steps/);
      await rm(filler);
      const { code, stderr } = await running.finished;
      expect([code, stderr.split('\n').at(-1)]).toEqual([0, '']);
      const logged = readFileSync(join(folder, 'metrics.jsonl'), 'utf8').trimEnd().split('\n');
      expect(logged.map((line) => (JSON.parse(line) as { step: number }).step)).toEqual(
        Array.from({ length: steps }, (_, i) => i + 1),
      );
      await run('node', [MINIGPT4, 'inspect', join(folder, 'checkpoints', `step-00000${steps}`)]);
    });
  }, 120_000);

  it('a disk that stays full ends the run with a message and leaves no half checkpoint', async (context) => {
    await onSmallDisk(context, '48k', async (disk) => {
      const folder = join(disk, 'run');
      const stderr = await message('full', [
        `run.folder=${folder}`,
        'train.saveEvery=1',
        'train.keepCheckpoints=50',
        'train.steps=40',
        'data.featureCache=false',
      ]);
      expect(stderr).toMatch(/no space left/i);
      const names = readdirSync(join(folder, 'checkpoints'));
      expect(names.length).toBeGreaterThan(0);
      for (const name of names) await run('node', [MINIGPT4, 'inspect', join(folder, 'checkpoints', name)]);
    });
  }, 120_000);
});

/** For a promise of a write: whether it fitted. */
const FITS = [() => true, () => false] as const;

/** Uses a tmpfs of some size, where this user may mount one. */
async function onSmallDisk(
  context: TestContext,
  size: string,
  use: (disk: string) => Promise<void>,
): Promise<void> {
  const disk = await mkdtemp(join(root, 'disk-'));
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', disk]).status === 0;
  if (!mounted)
    context.skip(
      'needs the right to mount a small tmpfs; the same paths are tested with a simulated ENOSPC in test/files.test.ts and test/appendFile.test.ts',
    );
  try {
    await use(disk);
  } finally {
    spawnSync('umount', [disk]);
  }
}
