import { describe, expect, it } from 'vitest';
import { prefetch } from '../../src/train/prefetch.js';

const later = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe('prefetch', () => {
  it('keeps the order although later work ends first, and never more than `ahead` under way', async () => {
    let underWay = 0;
    let most = 0;
    const results: number[] = [];
    const make = async (index: number) => {
      most = Math.max(most, ++underWay);
      await later(index % 2 ? 1 : 8);
      underWay -= 1;
      return index;
    };
    for await (const result of prefetch(3, 13, 4, make)) results.push(result);
    expect(results).toEqual([3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    expect(most).toBeLessThanOrEqual(4);
    expect(most).toBeGreaterThan(1);
  });

  it('shows an error when its turn comes, after the results before it', async () => {
    const results: number[] = [];
    const make = (index: number) => (index === 2 ? Promise.reject(new Error('bad')) : Promise.resolve(index));
    await expect(async () => {
      for await (const result of prefetch(0, 5, 5, make)) results.push(result);
    }).rejects.toThrow('bad');
    expect(results).toEqual([0, 1]);
  });
});
