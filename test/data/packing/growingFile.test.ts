import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GrowingFile } from '../../../src/data/packing/growingFile.js';
import { UserError } from '../../../src/errors.js';

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'growing-'));
});
afterEach(() => rm(folder, { recursive: true }));

describe('GrowingFile', () => {
  it('goes on from the length on record, whatever came after it, and writes large and small pieces in order', async () => {
    const path = join(folder, 'a');
    const first = await GrowingFile.open(path, 0);
    expect(await first.sync()).toBe(0);
    expect(existsSync(path)).toBe(false); // made with its first bytes
    await first.add(Buffer.from('one '));
    const recorded = await first.sync();
    await first.add(Buffer.alloc(3 * 2 ** 20, 'x')); // reaches the file without a sync
    await first.close();
    expect((await readFile(path)).length).toBeGreaterThan(2 ** 20);
    const second = await GrowingFile.open(path, recorded);
    for (const word of ['two ', 'three']) await second.add(Buffer.from(word));
    expect(await second.sync()).toBe(13);
    await second.close();
    expect(await readFile(path, 'utf8')).toBe('one two three');
    await (await GrowingFile.open(path, 0)).close();
    expect(existsSync(path)).toBe(false);
  });

  it('that is shorter than on record is refused and left as it is', async () => {
    const path = join(folder, 'a');
    await writeFile(path, 'four');
    await expect(GrowingFile.open(path, 5)).rejects.toThrow(
      new UserError(`${path}: must have at least the 5 bytes on record, got 4 (pack anew with --force)`),
    );
    expect(await readFile(path, 'utf8')).toBe('four');
  });

  it('that cannot be written is the user’s to mend', async () => {
    await expect(GrowingFile.open(join(folder, 'gone/a'), 5)).rejects.toThrow(UserError);
    const file = await GrowingFile.open(join(folder, 'gone/a'), 0);
    await file.add(Buffer.from('x'));
    await expect(file.sync()).rejects.toThrow(/no such file or folder/);
  });
});
