import { describe, expect, it } from 'vitest';
import { Guard } from '../../src/train/guard.js';
import { randomAt } from '../../src/data/order/keyed.js';

const OPTIONS = { deviations: 10, window: 16, stopAfter: 3 };

/** A guard that has seen the losses 1.00, 1.01, … around a median of 1.075; median deviation 0.04. */
function warm(options = OPTIONS): Guard {
  const guard = new Guard(options);
  for (let i = 0; i < 16; i++) expect(guard.judge(1 + i / 100, 0.5)).toBeUndefined();
  return guard;
}

describe('Guard', () => {
  it.each([
    [NaN, 1, 'loss NaN'],
    [Infinity, 1, 'loss Infinity'],
    [2, NaN, 'gradient norm NaN at loss 2.000'],
    [2, Infinity, 'gradient norm Infinity at loss 2.000'],
  ])('refuses loss %d with gradient norm %d from the first step on', (loss, norm, reason) => {
    expect(new Guard(OPTIONS).judge(loss, norm)).toBe(reason);
  });

  it('refuses a loss far above the last ones and says what it was compared with', () => {
    // 1.075 + 10 · 1.4826 · 0.04 = 1.668, but at least twice the median: 2.15
    expect(warm().judge(2.14, 1)).toBeUndefined();
    expect(warm().judge(2.16, 1)).toBe('loss 2.160, at most 2.150 by the last 16 with median 1.075');
  });

  it('goes by the deviation where losses vary more', () => {
    const judge = (loss: number) => {
      const guard = new Guard(OPTIONS);
      for (let i = 0; i < 16; i++) guard.judge(i % 2 === 0 ? 1 : 2, 1); // median 1.5, median deviation 0.5
      return guard.judge(loss, 1);
    };
    expect(judge(8.91)).toBeUndefined(); // 1.5 + 10 · 1.4826 · 0.5 = 8.913
    expect(judge(8.92)).toMatch(/at most 8\.913/);
  });

  it('says nothing of high losses while it knows too few, or is told not to', () => {
    const guard = new Guard(OPTIONS);
    for (let i = 0; i < 7; i++) guard.judge(1, 1);
    expect(guard.judge(1000, 1)).toBeUndefined();
    expect(warm({ ...OPTIONS, deviations: 0 }).judge(1e9, 1)).toBeUndefined();
  });

  it('does not learn from what it refused, and forgets what is older than the window', () => {
    const guard = warm();
    expect(guard.judge(100, 1)).toBeDefined();
    expect(guard.state.losses).toHaveLength(16);
    for (let i = 0; i < 16; i++) guard.judge(2, 1);
    expect(guard.state).toEqual({ losses: Array.from({ length: 16 }, () => 2), skipped: 0 });
  });

  it('must stop after three in a row, not after three in all', () => {
    const guard = warm();
    for (const loss of [NaN, NaN, 1, NaN, NaN]) guard.judge(loss, 1);
    expect(guard.mustStop).toBe(false);
    guard.judge(NaN, 1);
    expect(guard.mustStop).toBe(true);
  });

  it('judges after a resume at any step as it would have unbroken, through JSON', () => {
    const losses = Array.from({ length: 120 }, (_, i) =>
      randomAt(1, i, 'odd') < 0.1 ? 50 * randomAt(1, i, 'high') : 1 + randomAt(1, i, 'loss'),
    );
    const unbroken = new Guard(OPTIONS);
    const verdicts = losses.map((loss) => unbroken.judge(loss, 1));
    expect(verdicts.filter((verdict) => verdict !== undefined).length).toBeGreaterThan(3);
    for (const cut of [1, 17, 60, 119]) {
      const first = new Guard({ ...OPTIONS, stopAfter: 99 });
      for (const loss of losses.slice(0, cut)) first.judge(loss, 1);
      const saved = JSON.parse(JSON.stringify(first.state)) as Guard['state'];
      const resumed = new Guard({ ...OPTIONS, stopAfter: 99 }, saved);
      expect(losses.slice(cut).map((loss) => resumed.judge(loss, 1))).toEqual(verdicts.slice(cut));
    }
  });

  it('lets a run that it stopped go on when it is resumed', () => {
    expect(new Guard(OPTIONS, { losses: [], skipped: 3 }).state.skipped).toBe(0);
    expect(new Guard(OPTIONS, { losses: [], skipped: 2 }).state.skipped).toBe(2);
  });
});
