/** A shard with every kind of bad sample: the run finishes, the ledger names them, and the others come as they would have. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseConfig } from '../../src/config/load.js';
import { preprocess } from '../../src/data/images/images.js';
import { BadSampleLedger, type BadSample } from '../../src/data/ledger.js';
import type { ImageTextPair } from '../../src/data/pairs.js';
import { writeShards } from '../../src/data/shards/shardWriter.js';
import { Prompter } from '../../src/model/conversation/prompt.js';
import { loadTokenizer } from '../../src/model/tokenizer/tokenizer.js';
import { openSources, Samples } from '../../src/train/samples.js';
import { badImages, oddImages } from '../helpers/oddImages.js';
import { tinyConfig, tinyPicture, writeTinyModels } from '../helpers/tinyFolders.js';
import { MINIGPT4, run, sha256 } from './commands.js';

const GOOD = 12;
let root: string;
let folders: { llm: string; encoder: string };
let ids: string[];

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'minigpt4-odd-'));
  folders = await writeTinyModels(root);
  await writeFile(join(root, 'pretrain.yaml'), tinyConfig('pretrain', folders, root));
  const pair = (id: string, image: Uint8Array, caption = `a picture of ${id}`): ImageTextPair => ({
    id,
    image,
    caption,
    extra: {},
  });
  const bad = Object.entries(await badImages()).map(([kind, image]) => pair(`bad-${kind}`, image));
  const odd = Object.entries(await oddImages()).map(([kind, image]) => pair(`odd-${kind}`, image));
  const good = await Promise.all(
    Array.from({ length: GOOD }, async (_, i) => pair(`good-${i}`, await tinyPicture(i))),
  );
  const silent = pair('bad-caption', await tinyPicture(50), ' \n');
  const all = [...bad, ...good.slice(0, 6), silent, ...odd, ...good.slice(6)];
  ids = all.map(({ id }) => id);
  await writeShards(join(root, 'shards'), all);
  const clean = await Promise.all(
    all.map(async ({ id }, i) => (id.startsWith('bad') ? pair(id, await tinyPicture(i)) : all[i]!)), // eslint-disable-line @typescript-eslint/no-non-null-assertion
  );
  await writeShards(join(root, 'clean'), clean);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

function ledgerOf(folder: string): BadSample[] {
  return readFileSync(join(folder, 'ledger.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as BadSample);
}

describe('eight kinds of bad sample in one shard', () => {
  it('the run finishes, the ledger names each with its reason, whatever the number of workers', async () => {
    const hashes = [];
    for (const workers of [1, 3]) {
      const folder = join(root, 'runs', `workers${workers}`);
      const set = [
        `run.folder=${folder}`,
        'train.steps=12',
        'data.maxBadFraction=1',
        `data.workers=${workers}`,
      ];
      const command = [MINIGPT4, 'pretrain', '--config', join(root, 'pretrain.yaml')];
      await run('node', [...command, ...set.flatMap((value) => ['--set', value])]);
      const found = new Map(ledgerOf(folder).map(({ id, row, reason }) => [id, { row, reason }]));
      const expected = ids.filter((id) => id.startsWith('bad'));
      expect(expected).toHaveLength(8);
      expect([...found.keys()].sort()).toEqual(expected.sort());
      for (const [id, { row, reason }] of found) {
        expect(ids[row]).toBe(id);
        expect(reason).toMatch(/^.{5,120}$/);
      }
      expect(found.get('bad-empty')?.reason).toBe('no bytes');
      expect(found.get('bad-caption')?.reason).toBe('caption is empty');
      expect(found.get('bad-bomb')?.reason).toMatch(/pixel/);
      hashes.push(sha256(join(folder, 'checkpoints/step-00000012/projection.safetensors')));
    }
    expect(hashes[0]).toBe(hashes[1]);
  }, 120_000);

  it('the order of all others is that of a set in which none is bad', async () => {
    const [spoilt, clean] = [await drawn('shards'), await drawn('clean')];
    let replaced = 0;
    for (const [position, id] of clean.entries()) {
      if (!id.startsWith('bad')) expect([position, spoilt[position]]).toEqual([position, id]);
      else replaced += spoilt[position]?.startsWith('bad') ? 0 : 1;
    }
    expect(replaced).toBe(16); // 8 in each of two epochs, each by a good one
  });

  it('CMYK, palette, 16 bits and animations are read', async () => {
    const seen = new Set(await drawn('shards'));
    for (const id of ids.filter((name) => name.startsWith('odd'))) expect(seen).toContain(id);
  });
});

/** Ids of the samples of two epochs in their order, decoded as for training, without a model. */
async function drawn(set: string): Promise<string[]> {
  const config = parseConfig(
    tinyConfig('pretrain', folders, root).replace(join(root, 'shards'), join(root, set)),
    'tiny.yaml',
  );
  const sources = await openSources(config);
  const prompter = new Prompter(await loadTokenizer(folders.llm), config.prompt);
  const ledger = await BadSampleLedger.open(join(root, `${set}.jsonl`), { maxBadFraction: 1 });
  const decode = ({ image }: ImageTextPair) =>
    preprocess(image, { size: 8, mean: [0, 0, 0], std: [1, 1, 1] });
  const samples = new Samples(sources, decode, prompter, config, ledger);
  const order = [];
  for (let position = 0; position < 2 * ids.length; position++)
    order.push((await samples.at(position, 1)).pair.id);
  ledger.close();
  return order;
}
