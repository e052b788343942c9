import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { UserError } from '../../../src/errors.js';
import { openGguf } from '../../../src/model/weights/gguf.js';
import { openSafetensors } from '../../../src/model/weights/safetensors.js';
import { damagedCopy, FORMATS, runCase } from '../../../scripts/fuzz.js';
import { temporaryFile, temporaryFolder } from './weightsFixture.js';

const CASES = 300; // of each format; `npx tsx scripts/fuzz.ts` takes 10,000
const FIRST_SEED = 1_000_000; // not those that the script begins with
const BUDGET_MS = 8000; // for one format, on a busy machine: the cases that fit are enough

describe('a damaged weights file', () => {
  it.each(FORMATS)('$name gives a value or a UserError, soon and in little memory', async (format) => {
    const path = join(await temporaryFolder(), 'case');
    const tally = { value: 0, refusal: 0 };
    const before = process.memoryUsage().rss;
    const start = performance.now();
    let slowestMs = 0;
    for (let i = 0; i < CASES && performance.now() - start < BUDGET_MS; i++) {
      const begin = performance.now();
      const outcome = await runCase(format, FIRST_SEED + i, path).catch((cause: unknown) => {
        throw new Error(`npx tsx scripts/fuzz.ts --only ${format.name} ${FIRST_SEED + i}`, { cause });
      });
      tally[outcome] += 1;
      slowestMs = Math.max(slowestMs, performance.now() - begin);
    }
    expect(slowestMs).toBeLessThan(5000);
    expect(process.memoryUsage().rss - before).toBeLessThan(2 ** 30);
    expect(tally.value).toBeGreaterThan(0); // some damage is harmless, some is not
    expect(tally.refusal).toBeGreaterThan(0);
  });

  it('is the same for the same seed', () => {
    for (const format of FORMATS) expect(damagedCopy(format, 7)).toEqual(damagedCopy(format, 7));
  });
});

/** A safetensors file of a header, as it stands. */
async function safetensors(header: string): Promise<string> {
  const file = Buffer.alloc(8 + header.length);
  file.writeBigUInt64LE(BigInt(header.length));
  file.write(header, 8);
  return temporaryFile('bad.safetensors', file);
}

/** A GGUF file of one key-value: its key, and its type and value in bytes. */
async function gguf(key: string, value: Uint8Array): Promise<string> {
  const head = Buffer.alloc(32);
  head.write('GGUF');
  head.writeUInt32LE(3, 4);
  head.writeBigUInt64LE(1n, 16); // key-values; there are no tensors
  head.writeBigUInt64LE(BigInt(key.length), 24);
  return temporaryFile('bad.gguf', Buffer.concat([head, Buffer.from(key), value]));
}

describe('what damaging files has found', () => {
  const deep = '['.repeat(100_000) + ']'.repeat(100_000);

  it.each<[string, string, string]>([
    ['header', deep, 'header must be a JSON object, got lists or objects nested too deep'],
    ['entry', `{"a":${deep}}`, 'tensor "a" must be described by an object, got lists'],
    [
      'shape',
      `{"a":{"dtype":"F32","data_offsets":[0,0],"shape":${deep}}}`,
      'must be a list of integers, got lists',
    ],
    ['dtype', '{"a":{"dtype":{"toString":1},"shape":[]}}', 'got {"toString":1}'],
  ])('a safetensors %s that cannot be written into a message is refused', async (_, header, message) => {
    const opening = openSafetensors(await safetensors(header));
    await expect(opening).rejects.toThrow(UserError);
    await expect(opening).rejects.toThrow(message);
  });

  it('a GGUF alignment beyond 2^53 is refused', async () => {
    const value = Buffer.alloc(12);
    value.writeUInt32LE(10); // uint64
    value.writeBigUInt64LE(2n ** 63n, 4);
    const opening = openGguf(await gguf('general.alignment', value));
    await expect(opening).rejects.toThrow('must be a positive integer, got 9223372036854775808');
  });

  it('a GGUF array of single bytes is refused before it takes eight times its size', async () => {
    const value = Buffer.alloc(16 + 4_000_001);
    value.writeUInt32LE(9); // array, of uint8
    value.writeBigUInt64LE(4_000_001n, 8);
    const opening = openGguf(await gguf('x', value));
    await expect(opening).rejects.toThrow('must have at most 4000000 elements in all, got 4000001');
  });
});
