/** Folders without a manifest, as Hugging Face `datasets` leaves them: which of their files a set is made of. */
import { copyFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { splitOf } from '../../../src/data/shards/datasetsFolder.js';
import { ShardSet } from '../../../src/data/shards/shards.js';
import { failure } from '../../helpers/failure.js';

const ONE = join(import.meta.dirname, '../../fixtures/shards/huggingface_stream.arrow');

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'datasets-'));
});
afterEach(() => rm(folder, { recursive: true }));

async function hold(...names: string[]): Promise<void> {
  for (const name of names) await copyFile(ONE, join(folder, name));
}

const listed = (...names: string[]) => JSON.stringify({ _data_files: names.map((filename) => ({ filename })), _split: 'train' }); // prettier-ignore

describe('a folder without a manifest', () => {
  it('of several splits is refused: a run must not train on its test set', async () => {
    await hold('pets-train-00000-of-00002.arrow', 'pets-train-00001-of-00002.arrow', 'pets-test.arrow');
    expect(await failure(ShardSet.open(folder))).toBe(
      `shards: a set must be of one split, got test, train: ${folder} (name one file, or pack one split with minigpt4 pack --split)`,
    );
    await hold('pets.arrow');
    await rm(join(folder, 'pets-test.arrow'));
    expect(await failure(ShardSet.open(folder))).toMatch(/got train, files without a split: /);
  });

  it('leaves out what `datasets` caches of map and filter', async () => {
    await hold('pets-train.arrow', 'cache-1f0c3a9be4d2.arrow', 'cache-00aa_00000_of_00002.arrow');
    const { paths } = await ShardSet.open(folder);
    expect(paths).toEqual([join(folder, 'pets-train.arrow')]);
    await rm(join(folder, 'pets-train.arrow'));
    expect(await failure(ShardSet.open(folder))).toMatch(/no \.arrow file in the folder but cached ones/);
  });

  it('is of the files that save_to_disk lists, in its order', async () => {
    await hold('data-b.arrow', 'data-a.arrow', 'left-over.arrow');
    await writeFile(join(folder, 'state.json'), listed('data-b.arrow', 'data-a.arrow'));
    expect((await ShardSet.open(folder)).paths).toEqual(
      ['data-b.arrow', 'data-a.arrow'].map((name) => join(folder, name)),
    );
    await rm(join(folder, 'data-a.arrow'));
    expect(await failure(ShardSet.open(folder))).toMatch(/data-a\.arrow: no such file/);
  });

  it.each(['not JSON', '{}', listed(), listed('../elsewhere.arrow')])(
    'with a state.json of something else, %s, is of its .arrow files',
    async (state) => {
      await hold('b.arrow', 'a.arrow');
      await writeFile(join(folder, 'state.json'), state);
      expect((await ShardSet.open(folder)).paths.map((path) => path.slice(-7))).toEqual(['a.arrow', 'b.arrow']);
    },
  );
});

describe('splitOf', () => {
  it.each([
    ['data/train-00000-of-00003.parquet', 'train'],
    ['validation/data-00000.arrow', 'validation'],
    ['pets-VAL.arrow', 'validation'],
    ['training_2.arrow', 'train'],
    ['trainer.arrow', ''],
    ['part-00000.arrow', ''],
  ])('of %s is "%s"', (path, split) => expect(splitOf(path)).toBe(split));
});
