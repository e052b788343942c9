import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { UserError } from '../../../src/errors.js';
import { openForMerge } from '../../../src/model/delta/folders.js';
import { temporaryFolder } from '../weights/weightsFixture.js';
import { copyFixture, writeLlama } from './deltaFixture.js';

const POINTER = 'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9877989586\n';

describe('openForMerge', () => {
  it('opens shards of either kind', async () => {
    const { base } = await copyFixture();
    const bin = await openForMerge(base);
    expect(bin.names()).toHaveLength(23);
    await bin.close();
    const safetensors = await openForMerge(await writeLlama(await temporaryFolder()));
    expect(safetensors.names()).toHaveLength(5);
    await safetensors.close();
  });

  it('names every git-lfs pointer, weights and tokenizer alike', async () => {
    const { delta } = await copyFixture();
    await writeFile(join(delta, 'pytorch_model-00002-of-00002.bin'), POINTER);
    await writeFile(join(delta, 'tokenizer.model'), POINTER);
    const opening = openForMerge(delta);
    await expect(opening).rejects.toThrow(UserError);
    await expect(opening).rejects.toThrow(
      `${delta}: files must be there themselves, got git-lfs pointers for pytorch_model-00002-of-00002.bin, tokenizer.model (git lfs pull`,
    );
  });

  it('names all shards that are missing', async () => {
    const { base } = await copyFixture();
    for (const shard of [1, 3]) await rm(join(base, `pytorch_model-0000${shard}-of-00003.bin`));
    await expect(openForMerge(base)).rejects.toThrow(
      `${base}: must hold all its shards, got none of the name pytorch_model-00001-of-00003.bin, pytorch_model-00003-of-00003.bin (fetch`,
    );
  });

  it('says that Meta’s own layout has to be converted', async () => {
    const folder = await temporaryFolder();
    for (const file of ['params.json', 'consolidated.01.pth', 'consolidated.00.pth'])
      await writeFile(join(folder, file), '{}');
    const opening = openForMerge(folder);
    await expect(opening).rejects.toThrow(UserError);
    await expect(opening).rejects.toThrow(
      `must be in the Hugging Face layout, got Meta's own with consolidated.00.pth, consolidated.01.pth, params.json (convert it first`,
    );
  });

  it('leaves other faults to those who find them', async () => {
    const { base } = await copyFixture();
    await writeFile(join(base, 'pytorch_model-00002-of-00003.bin'), 'PK\x03\x04 and no more');
    await expect(openForMerge(base)).rejects.toThrow('pytorch_model-00002-of-00003.bin: must be a whole zip');
    const nowhere = join(base, 'nowhere');
    await expect(openForMerge(nowhere)).rejects.toThrow(`${nowhere}: no such file or folder`);
    await rm(join(base, 'pytorch_model.bin.index.json'));
    await expect(openForMerge(base)).rejects.toThrow('must hold model.safetensors or');
  });
});
