/**
 * One process at a time: a lock folder that holds one file named after its owner. Taking a dead owner's lock over is
 * renaming that file, which only one process can do; so two never hold it, whatever is killed when.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { UserError } from '../errors.js';
import { fileError } from '../files.js';
import { isMissing } from './disk.js';

/** Names given out by this process. */
const mine = new Set<string>();

/** Options of `withLock`. */
export interface LockOptions {
  /** Called once when another process has the lock, with its process id. */
  readonly onWait?: (pid: number) => void;
  /** How long to wait for another process. */
  readonly waitMs?: number;
  /** What holds the lock, for messages; `setup` if left out. */
  readonly verb?: string;
  /** Between two looks. */
  readonly pollMs?: number;
}

/**
 * Runs `task` while no other process that uses the same lock runs its own; waits for it where one does.
 *
 * @param lock path of the lock folder, made and removed by this
 * @throws UserError if another process holds it for longer than `waitMs` (default one hour)
 */
export async function withLock<T>(
  lock: string,
  task: () => Promise<T>,
  options: LockOptions = {},
): Promise<T> {
  const owner = ownerName();
  await acquire(lock, owner, options);
  try {
    return await task();
  } finally {
    await release(lock, owner);
  }
}

/** A name for files of this process: `HOST-PID-RANDOM`. */
export function ownerName(): string {
  const name = `${thisHost()}-${process.pid}-${randomUUID().slice(0, 8)}`;
  mine.add(name);
  return name;
}

/** Whether the process that `name` (by `ownerName`) stands for is certainly gone; another machine's may be alive. */
export function ownerIsGone(name: string): boolean {
  const pid = pidOf(name);
  if (pid === undefined || !name.startsWith(`${thisHost()}-`)) return false;
  if (pid === process.pid) return !mine.has(name); // an earlier process had our number: usual in containers
  try {
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'ESRCH';
  }
}

async function acquire(lock: string, owner: string, options: LockOptions): Promise<void> {
  const { onWait, waitMs = 3_600_000, pollMs = 300, verb = 'setup' } = options;
  await mkdir(dirname(lock), { recursive: true }).catch((error: unknown) => {
    throw fileError(dirname(lock), error);
  });
  const deadline = Date.now() + waitMs;
  for (let waited = false; !(await tryToTake(lock, owner)); waited = true) {
    const holder = await holderOf(lock);
    if (holder !== undefined && ownerIsGone(holder) && (await takeOver(lock, holder, owner))) return;
    if (Date.now() > deadline) {
      throw new UserError(
        `${verb}: another process must be done, got ${lock} still held by ${holder ?? 'nobody'} (delete that folder if no ${verb} is running)`,
      );
    }
    if (!waited && holder !== undefined) onWait?.(pidOf(holder) ?? 0);
    await sleep(pollMs);
  }
}

/** Puts a folder that already holds the owner's file in place; that fails where the lock is held. */
async function tryToTake(lock: string, owner: string): Promise<boolean> {
  const prepared = `${lock}.${owner}`;
  try {
    await mkdir(prepared);
    await writeFile(join(prepared, owner), '');
    await rename(prepared, lock);
    return true;
  } catch (error) {
    await rm(prepared, { recursive: true, force: true });
    if (hasCode(error, 'ENOTEMPTY', 'EEXIST', 'EPERM')) return false; // EPERM: what Windows says
    throw fileError(lock, error);
  }
}

async function holderOf(lock: string): Promise<string | undefined> {
  try {
    return (await readdir(lock))[0];
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw fileError(lock, error);
  }
}

async function takeOver(lock: string, holder: string, owner: string): Promise<boolean> {
  try {
    await rename(join(lock, holder), join(lock, owner));
    return true;
  } catch (error) {
    if (isMissing(error)) return false; // somebody else was faster
    throw fileError(lock, error);
  }
}

async function release(lock: string, owner: string): Promise<void> {
  await rm(join(lock, owner), { force: true });
  try {
    await rmdir(lock);
  } catch (error) {
    // Gone, or taken by the next process between the two lines: either way it is no longer ours
    if (!isMissing(error) && !hasCode(error, 'ENOTEMPTY', 'EEXIST')) throw fileError(lock, error);
  }
}

function thisHost(): string {
  return hostname().replace(/[^A-Za-z0-9.]/g, '_');
}

function pidOf(name: string): number | undefined {
  const pid = Number(name.split('-').at(-2));
  return Number.isSafeInteger(pid) && pid > 0 ? pid : undefined;
}

function hasCode(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && 'code' in error && codes.includes(String(error.code));
}
