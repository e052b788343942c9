/** Every kind of source, recognised and packed; what a training reader then makes of MiniGPT-4's own data. */
import { cp, mkdir, mkdtemp, readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseConfig } from '../src/config/load.js';
import { cleanCaption } from '../src/data/captions.js';
import type { ImportProblem } from '../src/data/importers/folder.js';
import { preprocess } from '../src/data/images.js';
import { BadSampleLedger } from '../src/data/ledger.js';
import { readManifest } from '../src/data/manifest.js';
import type { ImageTextPair } from '../src/data/pairs.js';
import { ShardSet } from '../src/data/shards.js';
import { UserError } from '../src/errors.js';
import { Prompter } from '../src/model/conversation/prompt.js';
import { loadTokenizer } from '../src/model/tokenizer/tokenizer.js';
import { packSource, type PackOptions, type Packed } from '../src/pack.js';
import { openSources, Samples } from '../src/train/samples.js';
import { readFixture } from './helpers/fixtures.js';

const FIXTURES = join(import.meta.dirname, 'fixtures');
const STAGE1 = join(FIXTURES, 'minigpt4-tiny/data/stage1');
const STAGE2 = join(FIXTURES, 'minigpt4-tiny/data/stage2');
const DEFECTS = join(STAGE1, '00001_defects.tar');

let folder = '';
let out = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pack-'));
  out = join(folder, 'out');
});
afterEach(() => rm(folder, { recursive: true }));

/** Packs and reads back. */
async function packed(
  source: string,
  options: PackOptions = {},
): Promise<Packed & { pairs: ImageTextPair[]; columns: readonly string[]; told: ImportProblem[] }> {
  const told: ImportProblem[] = [];
  const done = await packSource(source, out, { ...options, onProblem: (problem) => told.push(problem) });
  const set = await ShardSet.open(out);
  const pairs: ImageTextPair[] = [];
  for (let row = 0; row < set.rows; row++) pairs.push(await set.read(row));
  set.close();
  const { columns = [] } = (await readManifest(out)) ?? {};
  return { ...done, pairs, columns, told };
}

describe('packSource', () => {
  it('takes a folder with tars as such, url in a column of its own', async () => {
    const { rows, problems, pairs, columns, told } = await packed(STAGE1);
    expect([rows, problems, told.length]).toEqual([{ '.': 15 }, 3, 3]);
    expect(columns).toEqual(['id', 'image', 'caption', 'url']);
    expect(pairs[11]).toMatchObject({
      id: '00000/000000011',
      extra: { url: 'http://example.com/000000011' },
    });
  });

  it('takes a single tar, and keeps what the manifest is told', async () => {
    const { rows } = await packed(join(STAGE1, '00000.tar'), { about: 'tiny', rowsPerShard: 5 });
    expect(rows).toEqual({ '.': 12 });
    expect((await readdir(out)).filter((name) => name.endsWith('.arrow'))).toHaveLength(3);
  });

  it('url may first come in a later tar', async () => {
    await cp(join(STAGE1, '00000.tar'), join(folder, 'b.tar'));
    await writeFile(join(folder, 'a.tar'), textTar());
    const { pairs } = await packed(folder, { rowsPerShard: 1 });
    expect(pairs.slice(0, 2).map(({ id, extra }) => [id, extra])).toEqual([
      ['a/1', {}],
      ['b/000000000', { url: 'http://example.com/000000000' }],
    ]);
  });

  it('takes a folder with filter_cap.json as cc_sbu_align, whatever else lies in it', async () => {
    await cp(STAGE2, join(folder, 'in'), { recursive: true });
    await cp(DEFECTS, join(folder, 'in/x.tar'));
    const { rows, pairs, columns } = await packed(join(folder, 'in'));
    expect(rows).toEqual({ '.': 12 });
    expect(columns).toEqual(['id', 'image', 'caption']);
    expect(pairs[0]).toMatchObject({ id: '2' });
  });

  it('takes other folders and lists as before', async () => {
    await mkdir(join(folder, 'in'));
    await writeFile(join(folder, 'in/a.jpg'), 'A');
    await writeFile(join(folder, 'in/a.txt'), 'from the folder');
    await writeFile(join(folder, 'in/list.jsonl'), '{"image": "a.jpg", "caption": "from the list"}');
    expect((await packed(join(folder, 'in'))).pairs[0]?.caption).toBe('from the folder');
    const list = await packed(join(folder, 'in/list.jsonl'), { overwrite: true });
    expect(list.pairs[0]?.caption).toBe('from the list');
  });

  it.each([
    [{ rowsPerShard: 3 }, /--rows-per-shard is for other sources than emoji/],
    [{ about: 'x' }, /--about is for other sources than emoji/],
  ])('refuses %j with the default set', async (options, message) => {
    await expect(packSource('emoji', out, options)).rejects.toThrow(message);
  });

  it('leaves nothing behind when a tar cannot be opened, the reader fails or no pair is found', async () => {
    await cp(join(STAGE1, '00000.tar'), join(folder, 'in/a.tar'), { recursive: true });
    await symlink(join(folder, 'gone'), join(folder, 'in/b.tar'));
    await expect(packSource(join(folder, 'in'), out, { rowsPerShard: 2 })).rejects.toThrow(UserError);
    const onProgress = () => {
      throw new Error('stop');
    };
    await expect(packSource(STAGE1, out, { rowsPerShard: 2, onProgress })).rejects.toThrow('stop');
    await writeFile(join(folder, 'none.tar'), 'not a tar');
    await expect(packSource(join(folder, 'none.tar'), out)).rejects.toThrow(/at least one pair, got none/);
    expect((await readdir(folder)).sort()).toEqual(['in', 'none.tar']);
  });
});

describe('MiniGPT-4’s defective tar, packed and drawn by a run', () => {
  it('the captions that survive are those that survive in MiniGPT-4', async () => {
    const { defect_shard: expected } = await readFixture<{ defect_shard: { surviving_captions: string[] } }>(
      'minigpt4-tiny/expected.json',
    );
    const { told } = await packed(DEFECTS);
    expect(told).toHaveLength(3);
    const config = parseConfig(
      JSON.stringify({
        data: { train: [{ shards: out }], captions: 'verbatim' },
        prompt: { template: '{} Answer: ', questions: ['a <ImageHere>'] },
        train: {
          stage: 'finetune',
          initFrom: 'other',
          steps: 1,
          batchSize: 3,
          microBatchSize: 3,
          schedule: { peak: 1, warmupSteps: 0 },
        },
        run: { folder: join(folder, 'run'), seed: 1 },
      }),
      'test',
    );
    const ledger = await BadSampleLedger.open(join(folder, 'ledger.jsonl'), { maxBadFraction: 1 });
    const sources = await openSources(config);
    const prompter = new Prompter(
      await loadTokenizer(join(FIXTURES, 'tokenizers/tiny-llama')),
      config.prompt,
    );
    const decode = ({ image }: ImageTextPair) =>
      preprocess(image, { size: 8, mean: [0, 0, 0], std: [1, 1, 1] }); // in the encoder's place
    const samples = new Samples(sources, decode, prompter, config, ledger);
    const captions = new Set<string>();
    for (let position = 0; position < 3; position++)
      captions.add(cleanCaption((await samples.at(position, 0)).pair.caption)); // as MiniGPT-4 recorded them
    for (const { shards } of sources) shards.close();
    expect([...captions].sort()).toEqual(expected.surviving_captions);
    expect((await readFile(join(folder, 'ledger.jsonl'), 'utf8')).match(/"id":"[^"]*"/g)).toEqual([
      '"id":"00001_defects/000010001"', // the broken image
    ]);
  });
});

/** A tar of one sample whose caption is a text file. */
function textTar(): Buffer {
  const member = (name: string, data: string) => {
    const header = Buffer.alloc(512);
    header.write(name);
    header.write(`0000000000${data.length}`, 124);
    header.write('        0', 148);
    header.write('ustar\x0000', 257);
    header.write(header.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, '0'), 148); // prettier-ignore
    return Buffer.concat([header, Buffer.from(data.padEnd(512, '\0'))]);
  };
  return Buffer.concat([member('1.jpg', 'A'), member('1.txt', 'text'), Buffer.alloc(1024)]);
}
