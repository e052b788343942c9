import { describe, expect, it } from 'vitest';
import { Recent } from '../../../src/data/shards/recent.js';

describe('Recent', () => {
  it('drops what was used longest ago when costs exceed the budget, and tells of it', () => {
    const dropped: string[] = [];
    const recent = new Recent<string>(10, (value) => dropped.push(value));
    recent.set('a', 'A', 4);
    recent.set('b', 'B', 4);
    expect(recent.get('a')).toBe('A'); // b is the oldest now
    recent.set('c', 'C', 4);
    expect(dropped).toEqual(['B']);
    recent.setCost('c', 8);
    expect(dropped).toEqual(['B', 'A']);
    recent.setCost('c', 80);
    expect(recent.get('c')).toBe('C'); // the newest stays, whatever it costs
    recent.delete('c');
    expect([recent.get('a'), recent.get('b'), recent.get('c'), dropped.length]).toEqual([undefined, undefined, undefined, 2]); // prettier-ignore
  });
});
