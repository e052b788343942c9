import { describe, expect, it } from 'vitest';

import { formatDuration, Progress, progressLine, timeLeft } from '../../src/train/progress.js';

describe('a duration', () => {
  it.each([
    [0, '0 s'],
    [499, '0 s'],
    [59_400, '59 s'],
    [59_600, '1 min 00 s'],
    [185_000, '3 min 05 s'],
    [3_599_000, '59 min 59 s'],
    [7_620_000, '2 h 07 min'],
    [277_200_000, '3 d 05 h'],
    [NaN, '?'],
    [Infinity, '?'],
    [-5, '0 s'],
  ])('of %d ms reads %s', (milliseconds, text) => {
    expect(formatDuration(milliseconds)).toBe(text);
  });
});

describe('the time left', () => {
  it('is the pace of this process times the steps left', () => {
    expect(timeLeft({ done: 120, total: 240, startedAt: 100, elapsedMs: 10_000 })).toBe(60_000);
  });
  it('is unknown before the first step and nothing after the last', () => {
    expect(timeLeft({ done: 100, total: 240, startedAt: 100, elapsedMs: 10_000 })).toBeNaN();
    expect(timeLeft({ done: 240, total: 240, startedAt: 240, elapsedMs: 0 })).toBe(0);
  });
});

describe('the progress line', () => {
  it('shows how far, how long and a note', () => {
    const state = { done: 120, total: 240, startedAt: 0, elapsedMs: 60_000 };
    expect(progressLine('train', state, 'loss 3.21')).toBe(
      'train [############------------] 120/240 50 % · 1 min 00 s left · loss 3.21',
    );
    expect(progressLine('train', { ...state, done: 240 })).toBe(
      'train [########################] 240/240 100 % · in 1 min 00 s',
    );
  });

  it('counts where the end is not known', () => {
    const state = { done: 120, total: 0, startedAt: 0, elapsedMs: 60_000 };
    expect(progressLine('packing', state)).toBe('packing 120 · in 1 min 00 s');
  });
});

function shown(
  isTTY: boolean,
  act: (progress: Progress, tick: (ms: number) => void) => void,
  total = 4,
): string {
  let now = 0;
  let text = '';
  const stream = { isTTY, columns: 60, write: (part: string) => (text += part) };
  const progress = new Progress({
    label: 't',
    total,
    done: 0,
    stream,
    plainEveryMs: 1000,
    now: () => now,
  });
  act(progress, (ms) => (now += ms));
  return text;
}

describe('progress', () => {
  it('of no known end is a plain line at the interval too, not one for each sample', () => {
    const text = shown(
      false,
      (progress, tick) => {
        for (let done = 1; done <= 100; done++) {
          tick(30);
          progress.update(done);
        }
      },
      0,
    );
    expect(text).toBe('t 1 · in 0 s\nt 35 · in 1 s\nt 69 · in 2 s\n');
  });

  it('off a terminal is a plain line at the interval and at the end', () => {
    const text = shown(false, (progress, tick) => {
      for (let done = 1; done <= 4; done++) {
        tick(600);
        progress.update(done);
      }
      progress.stop();
    });
    expect(text.split('\n').map((line) => line.slice(-22).trim())).toEqual(
      ['-] 1/4 25 % · 2 s left', '] 3/4 75 % · 1 s left', '] 4/4 100 % · in 2 s', ''].map(
        (end) => expect.stringContaining(end) as string,
      ),
    );
    expect(text).not.toContain('\r');
  });

  it('on a terminal rewrites one line within its width, and lets others pass above', () => {
    const text = shown(true, (progress, tick) => {
      tick(600);
      progress.update(1, 'a note that is far too long for the width of this terminal');
      progress.print('saved');
      progress.stop();
    });
    const [first, second, third] = text.split('\r').slice(1);
    expect(first?.length).toBe(59 + '\x1b[K'.length);
    expect(second).toBe('\x1b[Ksaved\n');
    expect(third).toBe(`${first}\n`);
  });
});
