/** What counts as a bad sample, and what as a fault of the disk, after which the same command goes on. */
import { mkdir, mkdtemp, rm, symlink, writeFile, type FileHandle } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { readFolder } from '../../../src/data/importers/folder.js';
import { openSource } from '../../../src/data/importers/open.js';
import { isInside, readImage, readJson } from '../../../src/data/importers/source.js';
import { UserError } from '../../../src/errors.js';
import { collect } from '../../helpers/sources.js';

/** The fault that opening the file of this name, or reading it, is made to have. */
let broken: { readonly name: string; readonly code: string; readonly at: 'open' | 'read' } | undefined;
vi.mock('node:fs/promises', async (original) => {
  const real = await original<typeof import('node:fs/promises')>();
  const failure = (at: string) =>
    Promise.reject(
      Object.assign(new Error(`${broken?.code}: a fault, ${at}`), { code: broken?.code, syscall: at }),
    );
  const fails = (path: string, at: string) => broken?.at === at && path.endsWith(broken.name);
  const open = async (path: string, flags: string): Promise<FileHandle> => {
    if (fails(path, 'open')) return failure('open');
    const handle = await real.open(path, flags);
    const read = () => failure('read');
    return fails(path, 'read') ? Object.assign(handle, { read, readFile: read }) : handle;
  };
  const readFile = (path: string) => (fails(path, 'open') ? failure('open') : real.readFile(path));
  return { ...real, open, readFile };
});

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'source-'));
});
afterEach(async () => {
  broken = undefined;
  await rm(folder, { recursive: true });
});

describe('readImage', () => {
  it('that is not there by its path is a bad sample', async () => {
    await writeFile(join(folder, 'file'), 'x');
    await symlink('loop.jpg', join(folder, 'loop.jpg'));
    await mkdir(join(folder, 'folder.jpg'));
    const names = ['gone.jpg', 'file/a.jpg', 'folder.jpg', 'loop.jpg', `${'n'.repeat(300)}.jpg`, 'nul\0.jpg'];
    for (const name of names) {
      const path = join(folder, name);
      expect(await readImage(path, 'here')).toEqual({
        problems: [{ where: 'here', reason: 'cannot read the image', detail: path }],
      });
    }
  });

  it.each([
    ['open', 'EMFILE', /a\.jpg: too many files are open/],
    ['open', 'EACCES', /a\.jpg: permission denied/],
    ['read', 'EIO', /a\.jpg: the disk failed/],
    ['read', 'ESTALE', /a\.jpg: the network disk has lost it/],
  ] as const)('to %s which gives %s is the disk’s fault, and ends the packing', async (at, code, message) => {
    const path = join(folder, 'a.jpg');
    await writeFile(path, 'x');
    broken = { name: 'a.jpg', code, at };
    await expect(readImage(path, 'here')).rejects.toThrow(message);
    await expect(readImage(path, 'here')).rejects.toThrow(UserError);
  });
});

describe('the text beside an image', () => {
  it('must be UTF-8; one that the disk fails to read ends the packing', async () => {
    for (const name of ['a', 'b']) await writeFile(join(folder, `${name}.jpg`), 'x');
    await writeFile(join(folder, 'a.txt'), Buffer.from('f\xfcnf', 'latin1'));
    await writeFile(join(folder, 'b.txt'), '\ufeffgenuine \ufffd\n');
    const problems: unknown[] = [];
    const captions: string[] = [];
    for await (const { caption } of readFolder(folder, { onProblem: (problem) => problems.push(problem) }))
      captions.push(caption);
    expect(captions).toEqual(['genuine \ufffd']);
    expect(problems).toEqual([
      { where: join(folder, 'a.jpg'), reason: 'the text is not UTF-8', detail: 'a.txt' },
    ]);
    broken = { name: 'b.txt', code: 'EMFILE', at: 'open' };
    await expect(readFolder(folder).next()).rejects.toThrow(/b\.txt: too many files are open/);
  });
});

describe('tables on a disk that fails', () => {
  it.each([
    ['shards/plain.arrow', 'open', 'EACCES', /permission denied/],
    ['shards/plain.arrow', 'read', 'EIO', /the disk failed/],
    ['pack/img2dataset-zstd.parquet', 'open', 'ENOENT', /no such file/],
    ['pack/img2dataset-zstd.parquet', 'read', 'EIO', /the disk failed/],
  ] as const)(
    '%s, which fails to %s with %s, ends the packing: it is not damaged',
    async (name, at, code, message) => {
      const path = join(import.meta.dirname, '../../fixtures', name);
      const source = await openSource(path);
      broken = { name, code, at };
      await expect(collect(source)).rejects.toThrow(message);
    },
  );
});

describe('readJson', () => {
  it('refuses a file that is not UTF-8, by its name', async () => {
    const path = join(folder, 'a.json');
    await writeFile(path, Buffer.from('{"caption": "f\xfcnf"}', 'latin1'));
    await expect(readJson(path, 'a list')).rejects.toThrow(
      new UserError(`pack: a list must be UTF-8, got other bytes in ${path} (save it as UTF-8)`),
    );
    await writeFile(path, '\ufeff{"caption": "fünf"}');
    expect(await readJson(path, 'a list')).toEqual({ caption: 'fünf' });
  });
});

describe('isInside', () => {
  it.each([
    ['/a/b', true],
    ['/a/b/c', true],
    ['/a/b/..c', true],
    ['/a', false],
    ['/a/bc', false],
    ['/a/c/d', false],
  ])('/a/b and %s: %s', (path, expected) => expect(isInside('/a/b', path)).toBe(expected));
});
