import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { UserError } from '../src/errors.js';
import { takeLock } from '../src/lock.js';

let folder = '';
let file = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lock-'));
  file = join(folder, 'run.lock');
});
afterEach(() => rmSync(folder, { recursive: true }));

const lockIt = () => takeLock(file, { subject: 'the run', advice: 'wait for it' });
const deadPid = () => spawnSync(process.execPath, ['-e', '']).pid;

function leave(owner: object): void {
  writeFileSync(
    file,
    JSON.stringify({ pid: process.pid, host: hostname(), started: '', since: 'long ago', ...owner }),
  );
}

async function taken(): Promise<boolean> {
  const lock = await lockIt();
  const owned = readFileSync(file, 'utf8').includes(`"pid":${process.pid},`);
  await lock.release();
  return owned;
}

describe('takeLock', () => {
  it('is held by one at a time and leaves nothing behind', async () => {
    const lock = await lockIt();
    await expect(lockIt()).rejects.toThrow(UserError);
    await expect(lockIt()).rejects.toThrow(
      new RegExp(`: the run is in use by process ${process.pid} since .* \\(wait for it\\)$`),
    );
    await lock.release();
    expect(readdirSync(folder)).toEqual([]);
    expect(await taken()).toBe(true);
  });

  it('goes to exactly one of many that ask at once', async () => {
    const results = await Promise.allSettled(Array.from({ length: 20 }, () => lockIt()));
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    expect(readdirSync(folder)).toEqual(['run.lock']);
  });

  it('of a process that died, though its parent has not taken note of it, is taken over', async () => {
    const parent = spawn('bash', ['-c', 'sleep 0.1 & echo $!; exec sleep 20']);
    const [line] = (await once(parent.stdout, 'data')) as [Buffer];
    const pid = Number(line);
    while (!/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))) await sleep(5);
    leave({ pid });
    expect(await taken()).toBe(true);
    parent.kill();
  });

  it('of a process that died is taken over, by one of many', async () => {
    const pid = deadPid();
    for (let round = 0; round < 60; round++) {
      leave({ pid }); // two of 300 rounds gave it to two, when the live lock could be taken for the dead one
      const results = await Promise.allSettled(Array.from({ length: 20 }, () => lockIt()));
      expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
      expect(readdirSync(folder)).toEqual(['run.lock']);
    }
  });

  it('of a process that died while it took over a dead one is taken over', async () => {
    leave({ pid: deadPid() });
    copyFileSync(file, `${file}.takeover`);
    expect(await taken()).toBe(true);
  });

  it.runIf(process.platform === 'linux')(
    'of a process whose pid another one has now is taken over',
    async () => {
      leave({ started: 'another boot 1234' });
      expect(await taken()).toBe(true);
    },
  );

  it('that is no whole lock is taken over', async () => {
    writeFileSync(file, '{"pid": 1');
    expect(await taken()).toBe(true);
  });

  it('of another host is left alone, with what to do', async () => {
    leave({ host: 'elsewhere', pid: 7 });
    await expect(lockIt()).rejects.toThrow(
      `in use by process 7 on elsewhere since long ago (delete ${file} if`,
    );
  });

  it('that somebody else has taken since is not released', async () => {
    const lock = await lockIt();
    leave({ host: 'elsewhere' });
    await lock.release();
    expect(readdirSync(folder)).toEqual(['run.lock']);
  });
});
