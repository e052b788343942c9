import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { EventFile } from '../../src/train/tensorboard.js';
import { crc32c, eventRecord } from '../../src/train/tensorboardEvents.js';

interface Fixture {
  scalars: [number, Record<string, number>][];
  histograms: Record<string, number[]>;
  png: string;
  text: string;
  resumeStep: number;
  resumeLoss: number;
}

const fixtures = join(import.meta.dirname, '../fixtures/tensorboard');
// made by scripts/fixtures/tensorboard.py, in this shape
const fixture = JSON.parse(readFileSync(join(fixtures, 'events.json'), 'utf8')) as Fixture;

let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tensorboard-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

/** A clock that gives each event a second more than the one before; the first look is for the file's name. */
function clock(start: number): () => number {
  let looks = -1;
  return () => start + Math.max(0, looks++);
}

describe('an event file', () => {
  it("has the bytes of TensorBoard's own writer", () => {
    const file = new EventFile(folder, { firstStep: 0, now: clock(1_700_000_000) });
    for (const [step, values] of fixture.scalars) file.scalars(step, values);
    for (const [tag, values] of Object.entries(fixture.histograms)) {
      file.histogram(300, tag, Float32Array.from(values));
    }
    file.image(300, 'sample', { png: Buffer.from(fixture.png, 'hex'), width: 2, height: 3 });
    file.text(300, 'caption', fixture.text);
    file.close();
    const expected = readFileSync(join(fixtures, 'events.out.tfevents.1700000000.host'));
    expect(readFileSync(file.path).toString('hex')).toBe(expected.toString('hex'));
  });

  it('of a resumed run says from which step on the earlier one is void', () => {
    const file = new EventFile(folder, { firstStep: fixture.resumeStep, now: clock(1_700_000_100) });
    file.scalars(fixture.resumeStep, { 'train/loss': fixture.resumeLoss });
    file.close();
    const expected = readFileSync(join(fixtures, 'events.out.tfevents.1700000100.host'));
    expect(readFileSync(file.path).toString('hex')).toBe(expected.toString('hex'));
  });

  it('is named by time and host, and never shared', () => {
    const now = () => 1_700_000_000.9;
    for (let i = 0; i < 3; i++) new EventFile(join(folder, 'deep'), { firstStep: 0, now }).close();
    const name = `events.out.tfevents.1700000000.${hostname()}`;
    expect(readdirSync(join(folder, 'deep')).sort()).toEqual([name, `${name}.1`, `${name}.2`]);
  });

  it('leaves values out of a histogram that are not finite', () => {
    const clean = eventRecord(1, 2, { kind: 'histogram', tag: 'a', values: Float32Array.of(1, 2) });
    const dirty = eventRecord(1, 2, {
      kind: 'histogram',
      tag: 'a',
      values: Float32Array.of(1, NaN, 2, Infinity),
    });
    expect(Buffer.from(dirty).toString('hex')).toBe(Buffer.from(clean).toString('hex'));
  });
});

describe('crc32c', () => {
  // check values of RFC 3720, B.4
  it.each([
    ['32 zeros', new Uint8Array(32), 0x8a9136aa],
    ['32 ones', new Uint8Array(32).fill(0xff), 0x62a8ab43],
    ['0 to 31', Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
    ['the digits', Buffer.from('123456789'), 0xe3069283],
  ])('of %s is the standard one', (_name, bytes, crc) => {
    expect(crc32c(bytes)).toBe(crc);
  });
});
