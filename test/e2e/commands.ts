/** Runs the built command as a user would, and reads what comes of it. */
import { spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Root of the checkout. */
export const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** How a finished command ended. */
export interface Finished {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly seconds: number;
}

/** A command under way. */
export interface Running {
  readonly child: ChildProcess;
  readonly finished: Promise<Finished>;
  /** Resolves once the output so far contains the text. */
  said(text: string | RegExp): Promise<void>;
}

/** Starts a command. */
export function start(
  command: string,
  args: readonly string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
): Running {
  const begun = performance.now();
  const child = spawn(command, args, {
    cwd: options.cwd ?? ROOT,
    env: options.env ?? process.env,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [stdout, stderr] = ['', ''];
  const waiting: { text: string | RegExp; resolve: () => void }[] = [];
  const check = (): void => {
    for (const { text, resolve } of waiting)
      if (typeof text === 'string' ? (stdout + stderr).includes(text) : text.test(stdout + stderr)) resolve();
  };
  child.stdout.on('data', (data: Buffer) => {
    stdout += data.toString();
    check();
  });
  child.stderr.on('data', (data: Buffer) => {
    stderr += data.toString();
    check();
  });
  const finished = new Promise<Finished>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) =>
      resolve({ code, signal, stdout, stderr, seconds: (performance.now() - begun) / 1000 }),
    );
  });
  const said = (text: string | RegExp): Promise<void> =>
    Promise.race([
      new Promise<void>((resolve) => {
        waiting.push({ text, resolve });
        check();
      }),
      finished.then(({ code }) => {
        throw new Error(`the command ended (${code}) before it said ${String(text)}:\n${stdout}\n${stderr}`);
      }),
    ]);
  return { child, finished, said };
}

/** Runs a command to its end. @throws with its output unless it ends with `code` */
export async function run(
  command: string,
  args: readonly string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv; code?: number } = {},
): Promise<Finished> {
  const result = await start(command, args, options).finished;
  if (result.code !== (options.code ?? 0))
    throw new Error(
      `${command} ${args.join(' ')} ended with ${result.code} ${result.signal ?? ''}:\n${result.stdout}\n${result.stderr}`,
    );
  return result;
}

/** The built CLI's arguments before a verb. */
export const MINIGPT4 = join(ROOT, 'bin', 'minigpt4.js');

/** SHA-256 of a file, hex. */
export function sha256(file: string): string {
  return createHash('sha256').update(readFileSync(file)).digest('hex');
}
