/**
 * A lock file: one live process at a time. The file names its process, so that a lock whose process died is taken over;
 * it appears with its content at once, so that nobody reads half of it.
 */
import { constants, readFileSync } from 'node:fs';
import { copyFile, link, readFile, rm, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { setTimeout } from 'node:timers/promises';

import { UserError } from './errors.js';
import { fileError, hasCode, temporaryName } from './files.js';

/** What taking a dead lock away takes, and more. */
const TURN_MS = 10;

/** A held lock. */
export interface Lock {
  /** Gives it back; a second call does nothing. */
  release(): Promise<void>;
}

interface Owner {
  readonly pid: number;
  readonly host: string;
  /** Boot and start time of the process in ticks, so that a reused pid is not taken for it; empty where unknown. */
  readonly started: string;
  /** For people: when the lock was taken. */
  readonly since: string;
}

/** What a lock's errors say. */
export interface LockWords {
  /** What is locked: `the run`. */
  readonly subject: string;
  /** What to do when a live process has it: `wait for it, stop it, or choose another --run`. */
  readonly advice: string;
}

/**
 * Makes the lock `file` for this process; its folder must be there.
 *
 * @throws UserError if another live process holds it, or one on another host that cannot be looked at from here
 */
export async function takeLock(file: string, words: LockWords): Promise<Lock> {
  const owner = {
    pid: process.pid,
    host: hostname(),
    started: startOf(process.pid),
    since: new Date().toISOString(),
  };
  const text = `${JSON.stringify(owner)}\n`;
  for (let attempt = 0; attempt < 10; attempt++) {
    if (await create(file, text)) return { release: () => releaseLock(file, text) };
    await removeIfDead(file, words);
  }
  throw new UserError(`${file}: must be free, but other processes keep taking it (let them finish)`);
}

/** Makes the lock file with its content in one act; false if there is one. */
async function create(file: string, text: string): Promise<boolean> {
  const temporary = temporaryName(file);
  try {
    await writeFile(temporary, text, { flag: 'wx' });
    await linkOrCopy(temporary, file);
    return true;
  } catch (error) {
    if (hasCode(error, 'EEXIST')) return false;
    throw fileError(file, error);
  } finally {
    await rm(temporary, { force: true });
  }
}

/** File systems without hard links (exFAT, some network ones) get a copy, which another process may see half-written. */
async function linkOrCopy(from: string, to: string): Promise<void> {
  try {
    await link(from, to);
  } catch (error) {
    if (!hasCode(error, 'EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK')) throw error;
    await copyFile(from, to, constants.COPYFILE_EXCL);
  }
}

async function removeIfDead(file: string, { subject, advice }: LockWords): Promise<void> {
  const text = await read(file);
  if (text === undefined) return;
  const owner = parseOwner(text);
  if (owner && owner.host !== hostname()) {
    const what = `delete ${file} if that process is gone`;
    throw new UserError(
      `${file}: ${subject} is in use by process ${owner.pid} on ${owner.host} since ${owner.since} (${what})`,
    );
  }
  if (owner && isAlive(owner)) {
    throw new UserError(
      `${file}: ${subject} is in use by process ${owner.pid} since ${owner.since} (${advice})`,
    );
  }
  await takeAway(file, text);
}

/**
 * Removes the dead lock that was read. Under a lock of its own: whoever else has read it must not remove the one that comes
 * after it. Where another process is at it, waits a moment.
 */
async function takeAway(file: string, text: string): Promise<void> {
  const words = { subject: 'taking over a lock', advice: 'wait for it' };
  const turn = await takeLock(`${file}.takeover`, words).catch((error: unknown) => {
    if (error instanceof UserError) return undefined;
    throw error;
  });
  if (!turn) return setTimeout(TURN_MS);
  try {
    if ((await read(file)) === text) await rm(file, { force: true });
  } finally {
    await turn.release();
  }
}

async function releaseLock(file: string, text: string): Promise<void> {
  if ((await read(file)) === text) await rm(file, { force: true });
}

async function read(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw fileError(file, error);
  }
}

/** undefined for anything but a whole lock: no live process leaves one. */
function parseOwner(text: string): Owner | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return isOwner(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isOwner(value: unknown): value is Owner {
  if (typeof value !== 'object' || value === null) return false;
  const owner: Partial<Record<keyof Owner, unknown>> = value;
  return (
    typeof owner.pid === 'number' &&
    [owner.host, owner.started, owner.since].every((v) => typeof v === 'string')
  );
}

function isAlive({ pid, started }: Owner): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (!hasCode(error, 'EPERM')) return false; // EPERM: it is there, and somebody else's
  }
  const now = startOf(pid);
  return now !== DEAD && (started === '' || now === '' || now === started);
}

/** Of a process that has ended but is still listed, as its parent has not asked how it ended. */
const DEAD = 'dead';

/** Boot id and field 22 of /proc/PID/stat (start time in ticks since boot), or `DEAD`; empty where there is no /proc. */
function startOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' '); // the name before may hold blanks; field 3 is first
    if (['Z', 'X'].includes(fields[0] ?? '')) return DEAD;
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    return `${boot} ${fields[19] ?? ''}`;
  } catch {
    return '';
  }
}
