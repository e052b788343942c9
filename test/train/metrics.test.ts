import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { UserError } from '../../src/errors.js';
import { JsonLines } from '../../src/train/metrics.js';

let folder = '';
let file = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'metrics-'));
  file = join(folder, 'metrics.jsonl');
});
afterEach(() => rmSync(folder, { recursive: true }));

const content = () => readFileSync(file, 'utf8');

describe('metrics.jsonl', () => {
  it('holds one flat object a line, there as soon as it is logged', async () => {
    const lines = await JsonLines.open(file, -1);
    lines.append({ step: 1, 'train/loss': 4.25 });
    expect(content()).toBe('{"step":1,"train/loss":4.25}\n');
    lines.append({ step: 2, 'train/loss': 4, 'train/grad_norm': NaN, 'train/lr': -Infinity });
    lines.close();
    expect(content().split('\n')[1]).toBe(
      '{"step":2,"train/loss":4,"train/grad_norm":"NaN","train/lr":"-Infinity"}',
    );
  });

  it('loses the lines after the step that is resumed from, and the one a killed process left unfinished', async () => {
    writeFileSync(
      file,
      '{"step":10,"a":1}\n{"step":20,"a":2}\n{"step":20,"b":2}\n{"step":30,"a":3}\n{"step":4',
    );
    const lines = await JsonLines.open(file, 20);
    lines.append({ step: 30, a: 4 });
    lines.close();
    expect(content()).toBe('{"step":10,"a":1}\n{"step":20,"a":2}\n{"step":20,"b":2}\n{"step":30,"a":4}\n');
  });

  it('of a run without a checkpoint starts anew', async () => {
    writeFileSync(file, '{"step":0,"a":1}\nnot JSON\n');
    (await JsonLines.open(file, -1)).close();
    expect(content()).toBe('');
  });

  it('with a broken line in its middle is the user’s to mend', async () => {
    writeFileSync(file, '{"step":10}\nnot JSON\n{"step":20}\n');
    await expect(JsonLines.open(file, 20)).rejects.toThrow(UserError);
    await expect(JsonLines.open(file, 20)).rejects.toThrow(
      'metrics.jsonl:2: must be a JSON object with a "step", got not JSON',
    );
  });

  it('in a folder that is not there is the user’s to mend', async () => {
    await expect(JsonLines.open(join(folder, 'no', 'such'), -1)).rejects.toThrow(UserError);
  });
});
