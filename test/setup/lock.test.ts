import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { afterAll, beforeAll, expect, it } from 'vitest';

import { UserError } from '../../src/errors.js';
import { ownerIsGone, ownerName, withLock } from '../../src/setup/lock.js';

let scratch: string;
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'lock-'));
});
afterAll(() => rm(scratch, { recursive: true }));

const host = hostname().replace(/[^A-Za-z0-9.]/g, '_');
const DEAD = `${host}-4194399-abcd`; // above Linux's largest process id
const OTHER_HOST = 'another.host-77-abcd';

async function heldBy(name: string, owner: string): Promise<string> {
  const lock = join(scratch, name);
  await mkdir(lock);
  await writeFile(join(lock, owner), '');
  return lock;
}

it('twenty tasks never overlap, and nothing is left', async () => {
  const lock = join(scratch, 'many', 'lock');
  let inside = 0;
  let most = 0;
  const task = async () => {
    most = Math.max(most, ++inside);
    await sleep(2);
    inside--;
  };
  await Promise.all(Array.from({ length: 20 }, () => withLock(lock, task, { pollMs: 3 })));
  expect(most).toBe(1);
  expect(await readdir(join(scratch, 'many'))).toEqual([]);
});

it('a dead owner’s lock is taken over by exactly one at a time', async () => {
  const lock = await heldBy('stale', DEAD);
  let inside = 0;
  let most = 0;
  let runs = 0;
  const task = async () => {
    most = Math.max(most, ++inside);
    runs++;
    await sleep(5);
    inside--;
  };
  await Promise.all(Array.from({ length: 8 }, () => withLock(lock, task, { pollMs: 3 })));
  expect([most, runs]).toEqual([1, 8]);
});

it('a lock of another machine is waited for, then reported with the folder to delete', async () => {
  const lock = await heldBy('elsewhere', OTHER_HOST);
  const waits: number[] = [];
  const waiting = withLock(lock, () => Promise.resolve(), {
    waitMs: 60,
    pollMs: 10,
    onWait: (pid) => waits.push(pid),
  });
  await expect(waiting).rejects.toThrow(
    /still held by another\.host-77-abcd \(delete that folder if no setup is running\)/,
  );
  await expect(withLock(lock, () => Promise.resolve(), { waitMs: 1, pollMs: 1 })).rejects.toThrow(UserError);
  expect(waits).toEqual([77]);
});

it('a failing task gives the lock back', async () => {
  const lock = join(scratch, 'failing');
  await expect(withLock(lock, () => Promise.reject(new Error('inside')))).rejects.toThrow('inside');
  expect(await withLock(lock, () => Promise.resolve(7))).toBe(7);
});

it('owners are told apart: dead, alive, ours, ours of an earlier life, another machine’s', () => {
  expect(ownerIsGone(DEAD)).toBe(true);
  expect(ownerIsGone(`${host}-${process.ppid}-abcd`)).toBe(false);
  expect(ownerIsGone(ownerName())).toBe(false);
  expect(ownerIsGone(`${host}-${process.pid}-abcd`)).toBe(true);
  expect(ownerIsGone(OTHER_HOST)).toBe(false);
  expect(ownerIsGone('no owner at all')).toBe(false);
});
