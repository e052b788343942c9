/**
 * `npm run build`: compiles src into dist, then deletes what no source makes any more. A module that was moved would else
 * stay importable here, and be packed, while a fresh clone lacks it. Nothing is deleted before it is replaced: a run that
 * is under way in this checkout goes on finding its modules.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync, statSync } from 'node:fs';
import { resolve } from 'node:path';

const DIST = 'dist';
const EMITTED = 'TSFILE: '; // tsc's prefix for --listEmittedFiles

const { status, stdout, error } = spawnSync(
  process.execPath,
  ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json', '--listEmittedFiles'],
  { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], maxBuffer: 1 << 24 },
);
if (error) throw error;
const lines = stdout.split('\n').filter((line) => line !== '');
const emitted = lines.filter((line) => line.startsWith(EMITTED));
for (const line of lines) if (!line.startsWith(EMITTED)) console.error(line); // diagnostics
if (status === 0 && existsSync(DIST))
  prune(new Set(emitted.map((line) => resolve(line.slice(EMITTED.length)))));
process.exitCode = status ?? 1;

function prune(made: ReadonlySet<string>): void {
  for (const name of readdirSync(DIST, { recursive: true, encoding: 'utf8' })) {
    const path = resolve(DIST, name);
    if (statSync(path).isFile() && !made.has(path)) rmSync(path);
  }
}
