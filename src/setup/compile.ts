/** Compiling the addons with the user's own C++ compiler: no node-gyp, no Node headers but those of `node-api-headers`. */
import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';

import { UserError } from '../errors.js';
import { fileError, writeFileWhole } from '../files.js';
import { runCommand } from './process.js';

/** A compiler that answers: `command` with `args` before ours. */
export interface Compiler {
  readonly command: string;
  readonly args: readonly string[];
  /** First line of `--version`. */
  readonly version: string;
}

/** What becomes one addon. */
export interface AddonSource {
  readonly sources: readonly string[];
  /** The `.node` file. */
  readonly output: string;
  readonly includeFolders: readonly string[];
  /** Shared libraries to link, and where the addon finds them at run time, relative to itself (`$ORIGIN/…`). */
  readonly libraries?: { readonly files: readonly string[]; readonly runPath: string };
}

const CANDIDATES = ['g++', 'c++', 'clang++'];
const FLAGS = [
  '-std=c++17',
  '-O2',
  '-ffp-contract=off', // the weights of resizing are JavaScript's to the last bit, also where the CPU could fuse
  '-fPIC',
  '-shared',
  // Node unloads an addon with the last thread that took it, and TensorFlow with it, whose exit handlers stay: the process
  // would end in a segmentation fault where nothing was computed that keeps TensorFlow loaded
  '-Wl,-z,nodelete',
  '-DNAPI_VERSION=8', // the ABI that Node 12.22 and later keep: one build serves Node 20, 22 and 24
  '-DBUILDING_NODE_EXTENSION',
];
const STALL_MS = 600_000; // a compiler prints nothing while it works
const LAST_LINES = 8;

/**
 * Finds a C++ compiler: `$CXX` (which may carry arguments), else g++, c++ or clang++ on the PATH.
 *
 * @throws UserError saying what to install if there is none, or that `$CXX` does not work
 */
export async function findCompiler(): Promise<Compiler> {
  const chosen = process.env['CXX']?.trim();
  if (chosen) {
    const [command = '', ...args] = chosen.split(/\s+/);
    const compiler = await askVersion(command, args);
    if (compiler) return compiler;
    throw new UserError(`setup: CXX must name a C++ compiler, got "${chosen}" (unset it, or correct it)`);
  }
  for (const command of CANDIDATES) {
    const compiler = await askVersion(command, []);
    if (compiler) return compiler;
  }
  throw new UserError(
    'setup: needs a C++17 compiler for the TensorFlow addon, got none on the PATH (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; or set CXX)',
  );
}

/**
 * Compiles one addon.
 *
 * @param logFile where the compiler's words go if it fails
 * @throws UserError with the compiler's last lines and the log file's path
 */
export async function compileAddon(compiler: Compiler, addon: AddonSource, logFile: string): Promise<void> {
  await mkdir(dirname(addon.output), { recursive: true });
  const args = [...compiler.args, ...compileArguments(addon)];
  const { exitCode, output } = await runCommand(compiler.command, args, { stallMs: STALL_MS });
  if (exitCode === 0) return;
  await mkdir(dirname(logFile), { recursive: true }).catch((error: unknown) => {
    throw fileError(dirname(logFile), error);
  });
  await writeFileWhole(logFile, `${[compiler.command, ...args].join(' ')}\n\n${output}`);
  if (/No space left on device/.test(output)) {
    throw new UserError(
      'setup: no space left while compiling the addon (free some space there and in the temporary folder)',
    );
  }
  const lines = output.split('\n').filter((line) => line.trim() !== '');
  throw new UserError(
    `setup: ${compiler.command} must compile the addon, got exit code ${exitCode} from ${compiler.version} (GCC 9 or newer is known to do; the whole output is in ${logFile})\n  ${lines.slice(-LAST_LINES).join('\n  ')}`,
  );
}

function compileArguments({ sources, output, includeFolders, libraries }: AddonSource): string[] {
  const link = libraries ? [...libraries.files, `-Wl,-rpath,${libraries.runPath}`] : [];
  return [...FLAGS, ...includeFolders.map((folder) => `-I${folder}`), ...sources, '-o', output, ...link];
}

async function askVersion(command: string, args: readonly string[]): Promise<Compiler | undefined> {
  const { exitCode, output } = await runCommand(command, [...args, '--version'], { stallMs: 30_000 });
  return exitCode === 0 ? { command, args, version: output.split('\n')[0]?.trim() ?? '' } : undefined;
}
