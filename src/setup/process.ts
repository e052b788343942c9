/** Running other programs with bounded patience and bounded output. */
import { spawn } from 'node:child_process';
import { hasCode } from '../files.js';

/** How a command ended. */
export interface CommandResult {
  readonly outcome: 'exited' | 'stalled' | 'missing';
  /** -1 if it was killed, or there is no such program. */
  readonly exitCode: number;
  /** The end of stdout and stderr together. */
  readonly output: string;
}

/** Options of `runCommand`. */
export interface CommandOptions {
  /** The command is stopped when it neither prints nor makes progress for so long. */
  readonly stallMs: number;
  /** A number that grows while the command makes progress; asked twice a second. */
  readonly measure?: () => Promise<number>;
  /** Added to this process's own environment. */
  readonly environment?: Readonly<Record<string, string>>;
}

const KEPT_OUTPUT = 20_000; // characters; a pip error and its retries fit many times
const LOOK_MS = 500;
const GRACE_MS = 5000; // from the polite signal to SIGKILL

/** Runs a program without a shell and waits for its end; its failures are results, not exceptions. */
export async function runCommand(
  command: string,
  args: readonly string[],
  { stallMs, measure, environment = {} }: CommandOptions,
): Promise<CommandResult> {
  const child = spawn(command, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...environment },
  });
  let output = '';
  let lastSign = Date.now();
  let stalled = false;
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output = (output + text).slice(-KEPT_OUTPUT);
      lastSign = Date.now();
    });
  }
  const ended = new Promise<CommandResult>((resolve, reject) => {
    child.on('error', (error) => {
      if (hasCode(error, 'ENOENT', 'EACCES')) resolve({ outcome: 'missing', exitCode: -1, output: '' });
      else reject(error);
    });
    child.on('close', (code) =>
      resolve({ outcome: stalled ? 'stalled' : 'exited', exitCode: code ?? -1, output }),
    );
  });
  const stopWatching = watch({ measure, onSign: () => (lastSign = Date.now()) }, () => {
    if (stalled || Date.now() - lastSign < stallMs) return;
    stalled = true;
    child.kill();
    setTimeout(() => child.kill('SIGKILL'), GRACE_MS).unref();
  });
  try {
    return await ended;
  } finally {
    await stopWatching();
  }
}

interface Watched {
  readonly measure: (() => Promise<number>) | undefined;
  readonly onSign: () => void;
}

/** Looks at the measure, then calls `look`, again and again; returns what ends it. */
function watch({ measure, onSign }: Watched, look: () => void): () => Promise<void> {
  let last = 0;
  let stopped = false;
  let timer: NodeJS.Timeout | undefined;
  let looking = Promise.resolve();
  let failure: unknown;
  const round = async (): Promise<void> => {
    const now = (await measure?.()) ?? 0;
    if (now > last) onSign();
    last = now;
    look();
    if (!stopped) schedule();
  };
  const schedule = (): void => {
    timer = setTimeout(() => {
      looking = round().catch((error: unknown) => {
        failure = error;
      });
    }, LOOK_MS);
  };
  schedule();
  return async () => {
    stopped = true;
    clearTimeout(timer);
    await looking;
    if (failure instanceof Error) throw failure;
  };
}
