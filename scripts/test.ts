/**
 * `npm test`: sets everything up, runs the unit tests, those of parity and the end-to-end tests on tiny models two files at a
 * time, then those that use all cores or measure times one by one (test/e2e/alone), and ends with the line
 * `N passed, N failed, N skipped`. `--unit` runs the unit tests alone; other arguments go to vitest. Unit tests share their
 * processes, which saves a quarter of the time; those that replace modules are named `….isolated.test.ts` and do not.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';

/** What is read of vitest's JSON report. */
interface Report {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
  readonly numTodoTests: number;
  readonly testResults: readonly {
    readonly status: string;
    readonly assertionResults: readonly { readonly status: string }[];
  }[];
}

const ISOLATED = 'test/**/*.isolated.test.ts';
const UNIT = ['unit', 'isolated'];
const SUITES = {
  unit: [...excluding('test/e2e/**', 'test/parity/**', ISOLATED), '--maxWorkers', '2', '--no-isolate'],
  isolated: ['.isolated.test.ts', '--maxWorkers', '2', '--passWithNoTests'],
  parity: ['test/parity/', '--maxWorkers', '2', '--passWithNoTests'],
  e2e: ['test/e2e/', ...excluding('test/e2e/alone/**'), '--maxWorkers', '2', '--passWithNoTests'],
  alone: ['test/e2e/alone/', '--maxWorkers', '1', '--passWithNoTests'],
};
const given = process.argv.slice(2);
const unitOnly = given.includes('--unit');
const extra = given.filter((argument) => argument !== '--unit');
const total = { passed: 0, failed: 0, skipped: 0 };
let exitCode = prepare();
if (exitCode === 0) {
  for (const [name, options] of Object.entries(SUITES)) {
    if (UNIT.includes(name) || !unitOnly) exitCode = runSuite(name, options) || exitCode; // each runs whatever those before did
  }
} else {
  total.failed += 1; // set-up itself
}
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = exitCode || (total.failed > 0 ? 1 : 0);

function excluding(...patterns: readonly string[]): string[] {
  return patterns.flatMap((pattern) => ['--exclude', pattern]);
}

/** Builds `dist` and sets up runtime and models. */
function prepare(): number {
  const build = run('npm', ['run', '-s', 'build']);
  return build || run(process.execPath, ['bin/minigpt4.js', 'setup']);
}

function runSuite(name: string, options: readonly string[]): number {
  const file = `.vitest/${name}.json`;
  mkdirSync('.vitest', { recursive: true });
  rmSync(file, { force: true });
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${file}`];
  const code = run(process.execPath, [
    'node_modules/vitest/vitest.mjs',
    'run',
    ...options,
    ...reporters,
    ...extra,
  ]);
  count(file, code);
  return code;
}

/** Adds a suite's numbers; a file that could not even be loaded counts as one failure, as does a crash. */
function count(file: string, code: number): void {
  if (!existsSync(file)) {
    total.failed += code === 0 ? 0 : 1;
    return;
  }
  const report = JSON.parse(readFileSync(file, 'utf8')) as Report; // the border: vitest writes it so
  const broken = report.testResults.filter(
    ({ status, assertionResults }) =>
      status === 'failed' && !assertionResults.some((test) => test.status === 'failed'),
  );
  total.passed += report.numPassedTests;
  total.failed += report.numFailedTests + broken.length;
  total.skipped += report.numPendingTests + report.numTodoTests;
  if (code !== 0 && report.numFailedTests + broken.length === 0) total.failed += 1; // an unhandled error
}

function run(command: string, args: readonly string[]): number {
  const { status, error } = spawnSync(command, args, { stdio: 'inherit' });
  if (error) console.error(error.message);
  return status ?? 1;
}
