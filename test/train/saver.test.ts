import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { UserError } from '../../src/errors.js';
import { Saver } from '../../src/train/saver.js';

/** Saves that take as long as the test wants. */
function slowSaver() {
  const events: string[] = [];
  const ends: (() => void)[] = [];
  const failures: string[] = [];
  const saver = new Saver<string>(
    async (contents) => {
      events.push(`begin ${contents}`);
      await new Promise<void>((resolve) => ends.push(resolve));
      if (contents === 'full') throw new UserError('no space');
      if (contents === 'bug') throw new TypeError('a bug');
      events.push(`end ${contents}`);
      return contents;
    },
    (error) => failures.push(error.message),
  );
  const endNext = async () => {
    await sleep(1); // until the next has begun
    ends.shift()?.();
    await sleep(1);
  };
  return { saver, events, failures, endNext };
}

describe('Saver', () => {
  it('lets the steps go on while a checkpoint is written, and holds two at most', async () => {
    const { saver, events, endNext } = slowSaver();
    await saver.saveBeside('1'); // returns though nothing is written yet
    expect(events).toEqual(['begin 1']);
    let second = false;
    const waiting = saver.saveBeside('2').then(() => (second = true));
    await sleep(5);
    expect(second).toBe(false); // one under way, one waiting: the third step would wait
    await endNext();
    await waiting;
    expect(events).toEqual(['begin 1', 'end 1', 'begin 2']);
    await endNext();
    await saver.idle();
    expect(events.at(-1)).toBe('end 2');
  });

  it('saves the last one after those before, and gives its folder', async () => {
    const { saver, events, endNext } = slowSaver();
    await saver.saveBeside('1');
    const last = saver.save('2');
    await endNext();
    await endNext();
    expect(await last).toBe('2');
    expect(events).toEqual(['begin 1', 'end 1', 'begin 2', 'end 2']);
  });

  it('tells of a full disk and goes on; the next save is tried', async () => {
    const { saver, failures, endNext } = slowSaver();
    await saver.saveBeside('full');
    await endNext();
    await saver.idle();
    expect(failures).toEqual(['no space']);
    const refused = expect(saver.save('full')).rejects.toThrow(UserError);
    await endNext();
    await refused;
    const again = saver.save('ok');
    await endNext();
    expect(await again).toBe('ok');
  });

  it('does not swallow a bug', async () => {
    const { saver, failures, endNext } = slowSaver();
    await saver.saveBeside('bug');
    await endNext();
    await expect(saver.saveBeside('2')).rejects.toThrow('a bug');
    expect(failures).toEqual([]);
  });

  it('writes the last one first, though a bug spoilt one before, and then tells of the bug', async () => {
    const { saver, events, endNext } = slowSaver();
    await saver.saveBeside('bug');
    await endNext();
    const refused = expect(saver.save('2')).rejects.toThrow('a bug');
    await endNext();
    await refused;
    expect(events.at(-1)).toBe('end 2');
    await saver.idle();
  });

  it('tells of a save that fails before it awaits anything, and goes on', async () => {
    const failures: string[] = [];
    const full = (): Promise<string> => {
      throw new UserError('no space for the ledger');
    };
    const saver = new Saver<string>(full, ({ message }) => failures.push(message));
    await saver.saveBeside('1');
    await saver.idle();
    expect(failures).toEqual(['no space for the ledger']);
  });

  it('never writes two at a time, though one waits in the background when the last is asked for', async () => {
    const { saver, events, endNext } = slowSaver();
    await saver.saveBeside('1');
    const waiting = saver.saveBeside('2');
    const last = saver.save('3');
    for (let i = 0; i < 3; i++) await endNext();
    await Promise.all([waiting, last, saver.idle()]);
    const begun = events.filter((event) => event.startsWith('begin'));
    expect(begun).toHaveLength(3);
    for (let i = 0; i < events.length; i += 2) expect(events[i + 1]).toBe(events[i]?.replace('begin', 'end'));
  });
});
