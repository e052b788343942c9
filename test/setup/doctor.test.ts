import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';

import { examine, reportLines } from '../../src/setup/doctor.js';

let scratch: string;
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'doctor-'));
});
afterEach(() => vi.unstubAllEnvs());
afterAll(() => rm(scratch, { recursive: true }));

describe('examine', () => {
  it('on a bare machine names everything that is missing and how to mend it', async () => {
    vi.stubEnv('MINIGPT4_CACHE', join(scratch, 'none'));
    vi.stubEnv('PATH', scratch);
    vi.stubEnv('CXX', '');
    const { facts, ready } = await examine();
    expect(ready).toBe(false);
    const missing = facts.filter(({ state }) => state === 'missing');
    expect(missing.map(({ name }) => name)).toEqual([
      'npm',
      'pip',
      'C++ compiler',
      'TensorFlow',
      'model smollm2-135m-instruct',
      'model vit-s14-focus',
    ]);
    for (const { mend } of missing) expect(mend).toMatch(/install|setup/);
  });
});

describe('reportLines', () => {
  it('aligns the facts and ends with what to do', () => {
    const facts = [
      { name: 'node', value: '20.1.0', state: 'good' },
      { name: 'TensorFlow', value: 'not set up', state: 'missing', mend: 'run minigpt4 setup' },
    ] as const;
    expect(reportLines({ facts, ready: false })).toEqual([
      'node        20.1.0',
      'TensorFlow  not set up',
      '',
      'not ready to train:',
      '  TensorFlow: run minigpt4 setup',
    ]);
  });
});
