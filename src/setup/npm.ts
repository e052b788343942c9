/** `npm ci` with every setting that matters stated, so that nothing rests on the user's npm configuration but its registry and proxy. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';

import { UserError } from '../errors.js';
import { isMissing } from './disk.js';
import { runCommand } from './process.js';

/** npm has no sign of life of its own but the packages it unpacks; its own patience ends well before. */
const STALL_MS = 300_000;
const LAST_LINES = 6;

/** Flags win over the user's, the project's and the environment's settings (npm help config). */
const SETTINGS = [
  '--ignore-scripts=true', // no code of a package runs at install time
  '--prefer-offline=true', // from npm's cache without asking the registry again
  '--audit=false',
  '--fund=false',
  '--update-notifier=false',
  '--progress=false',
  '--loglevel=error',
  '--fetch-retry-mintimeout=2000', // npm's own 10 s and 60 s make a missing network look like a hang
  '--fetch-retry-maxtimeout=10000',
  '--global=false',
  '--location=project',
  '--dry-run=false',
  '--package-lock=true',
  '--package-lock-only=false',
  '--install-strategy=hoisted',
  '--install-links=false',
  '--engine-strict=false',
  '--workspaces=false',
  '--include-workspace-root=false',
  '--force=false',
];

interface Cause {
  readonly sign: RegExp;
  readonly message: string;
}

const CAUSES: readonly Cause[] = [
  {
    sign: /ENOSPC|EDQUOT/,
    message: 'got no space left (free some space, or set MINIGPT4_CACHE to a folder on a larger disk)',
  },
  {
    sign: /EINTEGRITY/,
    message:
      'got a package with another SHA-512 than package-lock.json states (npm cache clean --force; if it stays, the registry serves another file: npm config get registry)',
  },
  {
    sign: /E401|E403|ENEEDAUTH|EOTP/,
    message: 'got refused by the registry (npm login, or check its token: npm config list)',
  },
  {
    sign: /ENOTCACHED|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ERR_SOCKET_TIMEOUT|ENETUNREACH|EHOSTUNREACH|network/i,
    message:
      'got no connection to the registry (check the network and npm config get registry, proxy; then run set-up again)',
  },
  {
    sign: /E404|ETARGET/,
    message: 'got a registry that lacks a package (check npm config get registry: a mirror may lack it)',
  },
];

/**
 * The version of the npm on the PATH.
 *
 * @throws UserError saying what to install if there is none
 */
export async function findNpm(): Promise<string> {
  const { exitCode, output } = await runCommand('npm', ['--version', '--loglevel=silent'], {
    stallMs: 30_000,
    environment: { npm_config_update_notifier: 'false' },
  });
  const version = /^\d+\.\d+\.\d+\S*$/m.exec(output)?.[0];
  if (exitCode === 0 && version !== undefined) return version;
  throw new UserError(
    'setup: needs npm to install tfjs-node-gpu, got none on the PATH (it comes with Node.js; Debian, Ubuntu: apt install npm)',
  );
}

/**
 * Installs what `folder/package-lock.json` says into `folder/node_modules`; no scripts run.
 *
 * @throws UserError, each its own message: no space, no network, a wrong hash, a registry that refuses or lacks a package
 */
export async function npmCi(folder: string): Promise<void> {
  const result = await runCommand('npm', ['ci', `--prefix=${folder}`, ...SETTINGS], {
    stallMs: STALL_MS,
    measure: () => countPackages(folder),
  });
  if (result.exitCode === 0) return;
  if (result.outcome === 'stalled') {
    throw new UserError(
      `setup: npm must go on installing tfjs-node-gpu, got nothing new for ${STALL_MS / 1000} s (check the network and npm's proxy: npm config list; then run set-up again)`,
    );
  }
  throw explainNpmFailure(result.output);
}

/** The error for an npm that failed, by what it printed. */
export function explainNpmFailure(output: string): UserError {
  const cause = CAUSES.find(({ sign }) => sign.test(output));
  const lines = output.split(/\r?\n/).filter((line) => line.trim() !== '');
  const said = lines.slice(-LAST_LINES).join('\n  ');
  return new UserError(
    `setup: npm must install tfjs-node-gpu, ${cause?.message ?? 'got a failure (see its words below)'}\n  ${said}`,
  );
}

async function countPackages(folder: string): Promise<number> {
  try {
    return (await readdir(join(folder, 'node_modules'))).length;
  } catch (error) {
    if (isMissing(error)) return 0;
    throw error;
  }
}
