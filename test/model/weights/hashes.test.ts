import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { UserError } from '../../../src/errors.js';
import { hashWeights } from '../../../src/model/weights/hashes.js';

const LARGE = 2 ** 26;
let scratch = '';
let before: string | undefined;
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'hashes-'));
  before = process.env['MINIGPT4_CACHE'];
  process.env['MINIGPT4_CACHE'] = join(scratch, 'cache');
});
afterEach(() => {
  if (before === undefined) delete process.env['MINIGPT4_CACHE'];
  else process.env['MINIGPT4_CACHE'] = before;
  rmSync(scratch, { recursive: true });
});

const sha256 = (...parts: (string | Buffer)[]): string =>
  parts.reduce((hash, part) => hash.update(part), createHash('sha256')).digest('hex');
const cached = (): string => join(scratch, 'cache', 'hashes.json');

describe('hashWeights', () => {
  it('of a folder is that of config.json and its weight files, by name; other files do not count', async () => {
    const folder = join(scratch, 'llm');
    mkdirSync(folder);
    for (const [name, text] of [
      ['model-2.safetensors', 'two'],
      ['model-1.safetensors', 'one'],
      ['config.json', '{}'],
      ['README.md', 'read me'],
    ] as const)
      writeFileSync(join(folder, name), text);
    expect(await hashWeights(folder)).toBe(sha256('{}', 'one', 'two'));
    expect(existsSync(cached())).toBe(false); // too small to remember
  });

  it('of a large file is remembered, and taken anew when the file changes in place', async () => {
    const [file, bytes] = [join(scratch, 'eva_vit_g.pth'), Buffer.alloc(LARGE, 1)];
    writeFileSync(file, bytes);
    expect(await hashWeights(file)).toBe(sha256(bytes));
    const forged = readFileSync(cached(), 'utf8').replace(sha256(bytes), 'f'.repeat(64));
    writeFileSync(cached(), forged);
    expect(await hashWeights(file)).toBe('f'.repeat(64)); // it did not read the file again
    const time = new Date(1e12);
    utimesSync(file, time, time);
    bytes.fill(2);
    writeFileSync(file, bytes);
    utimesSync(file, time, time); // as if nothing had happened: the inode's own time tells
    expect(await hashWeights(file)).toBe(sha256(bytes));
  });

  it('does without a memory that is damaged or cannot be written', async () => {
    const [file, bytes] = [join(scratch, 'large.pth'), Buffer.alloc(LARGE, 3)];
    writeFileSync(file, bytes);
    mkdirSync(join(scratch, 'cache'));
    writeFileSync(cached(), '{"cut sh');
    expect(await hashWeights(file)).toBe(sha256(bytes));
    process.env['MINIGPT4_CACHE'] = file; // no folder
    expect(await hashWeights(file)).toBe(sha256(bytes));
  });

  it('says which file is missing', async () => {
    await expect(hashWeights(join(scratch, 'none.pth'))).rejects.toThrow(UserError);
  });
});
