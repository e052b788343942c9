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
  const imports = [...source.matchAll(/import \{ ([^}]*) \} from 'minigpt4-align'/g)];

  it('exports every name that its examples import', () => {
    const names = imports.flatMap(([, list = '']) => list.split(', '));
    expect(imports).toHaveLength(2);
    expect(names.length).toBeGreaterThan(7);
    for (const name of names) expect(library).toHaveProperty(name, expect.any(Function));
  });

  it('runs its first example up to where the models are needed', async () => {
    const config = await library.loadConfig('configs/quickstart/stage1.yaml', { set: ['train.steps=50'] });
    expect(config.train).toMatchObject({ stage: 'pretrain', steps: 50 });
    vi.stubEnv('MINIGPT4_CACHE', scratch);
    await expect(library.modelFolders(config)).rejects.toThrow(library.UserError);
    vi.unstubAllEnvs();
  });

  it('has the conversations of the reference and of a configuration', async () => {
    const config = await library.loadConfig('configs/quickstart/stage2.yaml');
    const { TEMPLATES, ask, conversationTemplate, showImage, startConversation } = library;
    const conversation = startConversation(conversationTemplate('config', config));
    expect(ask(showImage(conversation), 'What?').messages).toEqual([
      { role: 'human', image: true, text: 'What?' },
    ]);
    expect(Object.keys(TEMPLATES)).toEqual(['vicuna-v0', 'vicuna-v0-first', 'llama2']);
    expect(() => ask(conversation, '')).toThrow(library.UserError);
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
