/** Runs the built command line as a user does. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';

/** How a command ended. */
export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** `npm test` builds before it runs; a bare vitest may find nothing to test. */
export const isBuilt = existsSync('dist/cli/main.js');

/** Runs `minigpt4 …args` to its end, with `environment` added to this process's own. */
export function minigpt4(
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Outcome {
  const { status, stdout, stderr } = spawnSync(process.execPath, ['bin/minigpt4.js', ...args], {
    encoding: 'utf8',
    env: { ...process.env, NODE_OPTIONS: '', ...environment },
    timeout: 60_000,
  });
  return { code: status, stdout, stderr };
}
