import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';

import { UserError } from '../../src/errors.js';
import { explainNpmFailure } from '../../src/setup/npm.js';
import { ensureRuntime, readRuntime, recipeFolder } from '../../src/setup/runtime.js';
import { RUNTIME_BUILDS } from '../../src/setup/tensorflowWheels.js';
import { RUNTIME_RECIPE, runtimeFolder } from '../../src/runtimeFolder.js';
import { fakePip } from './fakePip.js';
import { fakeCompiler, fakeNpm } from './fakeTools.js';
import { makeZip } from './zipFixture.js';

const wheel = vi.hoisted(() => ({
  name: 'tensorflow-cpu',
  version: '2.21.0',
  file: 'tensorflow_cpu-2.21.0-cp312-cp312-manylinux_2_27_x86_64.whl',
  sha256: '',
  sizeBytes: 0,
  platformTags: { pythonVersion: '3.12', platform: 'manylinux_2_27_x86_64' },
}));
vi.mock('../../src/setup/tensorflowWheels.js', async (original) => ({
  ...(await original<typeof import('../../src/setup/tensorflowWheels.js')>()),
  RUNTIME_BUILDS: { cpu: { tensorflow: wheel, nvidia: [], workBytes: 1000 } },
}));

const zip = makeZip([
  { name: 'tensorflow/libtensorflow_cc.so.2', data: Buffer.from('library') },
  { name: 'tensorflow/libtensorflow_framework.so.2', data: Buffer.from('framework') },
  { name: 'tensorflow/include/tensorflow/c/c_api.h', data: Buffer.from('header') },
  { name: 'tensorflow/python/code.py', data: Buffer.from('never extracted') },
]);
Object.assign(wheel, { sizeBytes: zip.length, sha256: createHash('sha256').update(zip).digest('hex') });

const TFJS = 'node_modules/@tensorflow/tfjs-node-gpu';
const INSTALL = `mkdir -p "$FOLDER/${TFJS}/binding"; echo '{}' > "$FOLDER/${TFJS}/package.json"`;

let scratch: string;
let tools: string;
let cache: string;
let count = 0;

beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'runtime-'));
  await writeFile(join(scratch, 'wheel'), zip);
});
beforeEach(() => {
  tools = join(scratch, `tools-${++count}`);
  cache = join(scratch, `cache-${count}`);
  vi.stubEnv('PATH', tools);
  vi.stubEnv('CXX', '');
  vi.stubEnv('MINIGPT4_CACHE', cache);
});
afterEach(() => vi.unstubAllEnvs());
afterAll(() => rm(scratch, { recursive: true }));

/** All tools, each doing its part. */
async function withTools({
  compile = 'echo object > "$OUTPUT"',
  ci = INSTALL,
  download = `cp "${scratch}/wheel" "$DEST/${wheel.file}"`,
} = {}): Promise<void> {
  await fakeCompiler(tools, compile);
  await fakeNpm(tools, ci);
  await fakePip(tools, download);
}

async function failure(): Promise<UserError> {
  const error: unknown = await ensureRuntime({ device: 'cpu' }).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(UserError);
  await expect(readRuntime(runtimeFolder('cpu'))).resolves.toBeUndefined();
  return error as UserError; // checked two lines above
}

describe('ensureRuntime', () => {
  it('says which compiler to install before it downloads anything', async () => {
    await fakeNpm(tools, 'exit 1');
    expect((await failure()).message).toMatch(/needs a C\+\+17 compiler .*apt install g\+\+/);
    await expect(readdir(tools)).resolves.toEqual(['npm']); // not called
  });

  it('says that CXX does not work rather than taking another compiler', async () => {
    await withTools();
    vi.stubEnv('CXX', 'nosuch++ -m64');
    expect((await failure()).message).toMatch(/CXX must name a C\+\+ compiler, got "nosuch\+\+ -m64"/);
  });

  it('says to install npm', async () => {
    await fakeCompiler(tools, 'exit 1');
    expect((await failure()).message).toMatch(/needs npm .* got none on the PATH/);
  });

  it('says to install pip', async () => {
    await fakeCompiler(tools, 'exit 1');
    await fakeNpm(tools, 'exit 1');
    expect((await failure()).message).toMatch(/needs pip of Python 3 .*apt install python3-pip/);
  });

  it('tells a missing network from npm’s words', async () => {
    await withTools({ ci: 'echo "npm error code ENOTFOUND" >&2; exit 1' });
    expect((await failure()).message).toMatch(
      /got no connection to the registry .*\n {2}npm error code ENOTFOUND$/,
    );
  });

  it('installs without scripts, whatever npm is configured to', async () => {
    await withTools({ compile: 'exit 1' });
    await failure();
    const calls = await readFile(join(tools, 'npm.calls'), 'utf8');
    expect(calls).toMatch(
      /^ci --prefix=\S+\.work .*--ignore-scripts=true .*--prefer-offline=true .*--global=false/m,
    );
  });

  it('refuses a wheel with another hash', async () => {
    await withTools({ download: `echo something else > "$DEST/${wheel.file}"` });
    expect((await failure()).message).toMatch(
      new RegExp(`must have SHA-256 ${wheel.sha256}, got [0-9a-f]{64}`),
    );
  });

  it('shows the compiler’s last lines and keeps all of them in a log', async () => {
    await withTools({
      compile:
        'for i in 1 2 3 4 5 6 7 8 9 10; do echo "line $i"; done; echo "error: no such type" >&2; exit 1',
    });
    const { message } = await failure();
    const log = join(cache, 'runtime', 'compile.log');
    expect(message).toMatch(/g\+\+ must compile the addon, got exit code 1 from g\+\+ \(Fake\) 12\.2\.0/);
    expect(message).toContain(log);
    expect(message).toContain('error: no such type');
    expect(message).not.toContain('line 1\n');
    await expect(readFile(log, 'utf8')).resolves.toMatch(/-std=c\+\+17[^]*line 1\n[^]*no such type/);
  });

  it('says that TensorFlow does not run, leaves nothing half-made and keeps the wheel for the next attempt', async () => {
    await withTools();
    expect((await failure()).message).toMatch(/TensorFlow 2\.21\.0 must load and multiply, got exit code 1/);
    await expect(readdir(join(cache, 'runtime'))).resolves.toEqual([]);
    await expect(readdir(join(cache, 'wheels'))).resolves.toEqual([wheel.file]);
  });

  it('compiles against the wheel’s headers and links with a path relative to the addon', async () => {
    await withTools();
    await failure();
    const calls = (await readFile(join(tools, 'g++.calls'), 'utf8'))
      .split('\n')
      .filter((call) => call.includes(' -o '));
    expect(calls).toHaveLength(2);
    expect(calls[0]).toMatch(/-ffp-contract=off .*\/native\.cc .*\/taps_avx2\.cc -o \S+\/native\.node$/);
    expect(calls[1]).toMatch(
      /-I\S+\/tensorflow\/include\/ .*tfjs_binding\.cc -o \S+\/lib\/napi-v8\/tfjs_binding\.node/,
    );
    expect(calls[1]).toMatch(/ -Wl,-rpath,\$ORIGIN\/\.\.\/\.\.\/\.\.\/\.\.\/\.\.\/tensorflow$/);
  });

  it('removes what an interrupted attempt left', async () => {
    const place = runtimeFolder('cpu');
    const left = join(dirname(place.folder), `.${RUNTIME_RECIPE}-cpu-linux-x64.work`, 'half');
    await mkdir(left, { recursive: true });
    await withTools({ compile: 'exit 1' });
    await failure();
    await expect(readdir(join(cache, 'runtime'))).resolves.toEqual(['compile.log']);
  });
});

describe('a finished runtime', () => {
  const files = [
    'tensorflow/libtensorflow_cc.so.2',
    'tensorflow/libtensorflow_framework.so.2',
    `${TFJS}/lib/napi-v8/tfjs_binding.node`,
    'native.node',
    `${TFJS}/package.json`,
  ];
  beforeEach(async () => {
    const { folder, marker } = runtimeFolder('cpu');
    for (const name of files) {
      await mkdir(dirname(join(folder, name)), { recursive: true });
      await writeFile(join(folder, name), name);
    }
    const sizes = Object.fromEntries(files.map((name) => [name, name.length]));
    await writeFile(marker, JSON.stringify({ recipe: RUNTIME_RECIPE, sizes }));
  });

  it('is returned at once, with no tool on the PATH', async () => {
    await expect(ensureRuntime({ device: 'cpu' })).resolves.toEqual(runtimeFolder('cpu'));
  });

  it.each(files)('is made again where %s is cut', async (name) => {
    await writeFile(join(runtimeFolder('cpu').folder, name), 'x');
    await expect(ensureRuntime({ device: 'cpu' })).rejects.toThrow('needs a C++17 compiler');
  });

  it('is made again where the marker is another recipe’s or damaged', async () => {
    const { marker } = runtimeFolder('cpu');
    await writeFile(marker, '{"recipe":"old","sizes":{}}');
    await expect(readRuntime(runtimeFolder('cpu'))).resolves.toBeUndefined();
    await writeFile(marker, '{"recipe":');
    await expect(readRuntime(runtimeFolder('cpu'))).resolves.toBeUndefined();
  });
});

describe('the recipe', () => {
  it('locks every npm package by hash and names no host', async () => {
    const text = await readFile(join(recipeFolder(), 'package-lock.json'), 'utf8');
    // The border: npm's lock file, version 3
    const { packages } = JSON.parse(text) as { packages: Record<string, { integrity?: string }> };
    expect(text).not.toContain('"resolved"');
    for (const [name, { integrity }] of Object.entries(packages))
      if (name !== '') expect(integrity).toMatch(/^sha512-/);
  });

  it('pins wheels by SHA-256', () => {
    expect(RUNTIME_BUILDS.cpu.tensorflow.sha256).toMatch(/^[0-9a-f]{64}$/);
  });
});

describe('explainNpmFailure', () => {
  it.each([
    ['npm error code ENOSPC', /no space left/],
    ['npm error code EINTEGRITY sha512-x wanted', /another SHA-512/],
    ['npm error code E403', /refused by the registry/],
    ['npm error network request failed, reason: ECONNREFUSED', /no connection/],
    ['npm error code ENOTCACHED', /no connection/],
    ['npm error code ETARGET No matching version', /lacks a package/],
    ['npm error something new', /got a failure \(see its words below\)/],
  ])('%s', (output, expected) => {
    expect(explainNpmFailure(output).message).toMatch(expected);
  });
});
