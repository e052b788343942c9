import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { cleanCaption } from '../../src/data/captions.js';

interface Expected {
  cleaning: { raw: string; cleaned: string }[];
  stage1: { raw: string; cleaned: string }[];
}

// Recorded from the reference's own cleaner; copied by scripts/fixtures/images.py. The exotic entries pass too.
const path = new URL('../fixtures/images/captions.json', import.meta.url);
const { cleaning, stage1 } = JSON.parse(await readFile(path, 'utf8')) as Expected;

describe('cleanCaption', () => {
  it.each([...cleaning, ...stage1])('cleans $raw as the reference does', ({ raw, cleaned }) => {
    expect(cleanCaption(raw)).toBe(cleaned);
  });

  it('keeps the first maxWords words', () => {
    expect(cleanCaption('One two, three four', 3)).toBe('one two, three');
  });
});
