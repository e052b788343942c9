import { chmod, mkdir, readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { UserError } from '../src/errors.js';
import { fileError, writeFileWhole, writeFolderWhole, writeWhole } from '../src/files.js';
import { temporaryFolder } from './model/weights/weightsFixture.js';

const systemError = (code: string) => Object.assign(new Error(code), { code });

describe('writeWhole', () => {
  it('replaces the file and leaves nothing beside it', async () => {
    const folder = await temporaryFolder();
    await writeFile(join(folder, 'a'), 'old');
    await writeFileWhole(join(folder, 'a'), 'new ❄');
    expect(await readFile(join(folder, 'a'), 'utf8')).toBe('new ❄');
    expect(await readdir(folder)).toEqual(['a']);
  });

  it('keeps the old file, and no temporary one, if writing fails half-way', async () => {
    const folder = await temporaryFolder();
    await writeFile(join(folder, 'a'), 'old');
    const failing = writeWhole(join(folder, 'a'), async (handle) => {
      await handle.write('half');
      throw new Error('a bug');
    });
    await expect(failing).rejects.toThrow('a bug');
    expect(await readFile(join(folder, 'a'), 'utf8')).toBe('old');
    expect(await readdir(folder)).toEqual(['a']);
  });

  it('says that there is no space, and where, when the disk is full', async () => {
    const folder = await temporaryFolder();
    const full = writeWhole(join(folder, 'a'), () => Promise.reject(systemError('ENOSPC')));
    await expect(full).rejects.toThrow(UserError);
    await expect(full).rejects.toThrow(`${join(folder, 'a')}: no space left on the device`);
    expect(await readdir(folder)).toEqual([]);
  });

  it('names the missing folder as the fault', async () => {
    const path = join(await temporaryFolder(), 'missing', 'a');
    await expect(writeFileWhole(path, '')).rejects.toThrow(`${path}: no such file or folder`);
  });

  it.skipIf(process.getuid?.() === 0)(
    'says that permission is denied (skipped as root, whom nothing is denied)',
    async () => {
      const folder = await temporaryFolder();
      await chmod(folder, 0o500);
      await expect(writeFileWhole(join(folder, 'a'), '')).rejects.toThrow('permission denied');
    },
  );
});

describe('writeFolderWhole', () => {
  it('makes the folder and its parents', async () => {
    const folder = await temporaryFolder();
    await writeFolderWhole(join(folder, 'b', 'c'), (temporary) => writeFile(join(temporary, 'a'), 'x'));
    expect(await readFile(join(folder, 'b', 'c', 'a'), 'utf8')).toBe('x');
    expect(await readdir(join(folder, 'b'))).toEqual(['c']);
  });

  it('leaves nothing if filling it fails', async () => {
    const folder = await temporaryFolder();
    const failing = writeFolderWhole(join(folder, 'c'), async (temporary) => {
      await writeFile(join(temporary, 'a'), 'x');
      throw new Error('a bug');
    });
    await expect(failing).rejects.toThrow('a bug');
    expect(await readdir(folder)).toEqual([]);
  });

  it('does not touch a folder that holds something', async () => {
    const folder = await temporaryFolder();
    await mkdir(join(folder, 'c'));
    await writeFile(join(folder, 'c', 'mine'), 'x');
    await expect(writeFolderWhole(join(folder, 'c'), () => Promise.resolve())).rejects.toThrow(
      'exists already',
    );
    expect(await readdir(join(folder, 'c'))).toEqual(['mine']);
    expect(await readdir(folder)).toEqual(['c']);
  });
});

describe('fileError', () => {
  it('turns what a user can fix into a UserError with its cause, and passes other errors on', () => {
    const cause = systemError('EROFS');
    expect(fileError('x', cause)).toEqual(
      new UserError('x: the file system is read-only (choose another place)'),
    );
    expect(fileError('x', cause)).toHaveProperty('cause', cause);
    const bug = new TypeError('a bug');
    expect(fileError('x', bug)).toBe(bug);
  });
});
