import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';

import * as library from '../src/index.js';

let scratch: string;
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'library-'));
});
afterAll(() => rm(scratch, { recursive: true }));

describe('the library', () => {
  const source = readFileSync('src/index.ts', 'utf8');
  const example = /```ts\n([^]*?)```/.exec(source)?.[1]?.replaceAll(/^ \* ?/gm, '') ?? '';

  it('exports every name that its example imports', () => {
    const names = /import \{ ([^}]*) \} from 'minigpt4-align'/.exec(example)?.[1]?.split(', ') ?? [];
    expect(names.length).toBeGreaterThan(4);
    for (const name of names) expect(library).toHaveProperty(name, expect.any(Function));
  });

  it('runs its example up to where the models are needed', async () => {
    const config = await library.loadConfig('configs/quickstart/stage1.yaml', { set: ['train.steps=50'] });
    expect(config.train).toMatchObject({ stage: 'pretrain', steps: 50 });
    vi.stubEnv('MINIGPT4_CACHE', scratch);
    await expect(library.modelFolders(config)).rejects.toThrow(library.UserError);
    vi.unstubAllEnvs();
  });

  it('packs pairs, reads them back and inspects them', async () => {
    const folder = join(scratch, 'shards');
    const pairs = ['one', 'two'].map((caption, i) => ({
      id: String(i),
      image: Uint8Array.of(0xff, 0xd8, i),
      caption,
      extra: {},
    }));
    await library.writeShards(folder, pairs);
    const set = await library.ShardSet.open(folder);
    expect(set.rows).toBe(2);
    await expect(set.read(1)).resolves.toEqual(pairs[1]);
    set.close();
    const lines = await library.inspectPath(folder);
    expect(lines[0]).toBe(`${folder}: 2 pairs in 1 Arrow file shard`);
    expect(lines).toContain('  1: 3 bytes of JPEG, "two"');
    expect(lines.at(-1)).toBe('checksums agree with manifest.json');
  });
});
