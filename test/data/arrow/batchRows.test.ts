import { createHash } from 'node:crypto';
import { mkdtemp, open, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Message, MetadataVersion } from 'apache-arrow';
import { FileBlock, Footer } from 'apache-arrow/ipc/metadata/file';
import { BufferRegion, RecordBatch as BatchHeader } from 'apache-arrow/ipc/metadata/message';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { readBatchHeader } from '../../../src/data/arrow/arrowBatch.js';
import { indexArrow, type ArrowIndex } from '../../../src/data/arrow/arrowFile.js';
import { frame } from '../../../src/data/arrow/arrowMessage.js';
import { readRange } from '../../../src/data/bytes/byteFile.js';
import type { ByteRange } from '../../../src/data/bytes/fileBytes.js';
import type { ImageTextPair } from '../../../src/data/pairs.js';
import { ShardSet } from '../../../src/data/shards/shards.js';
import { writeShards } from '../../../src/data/shards/shardWriter.js';
import { memoryFile } from '../../helpers/memoryFile.js';

const fixtures = fileURLToPath(new URL('../../fixtures/shards/', import.meta.url));
// Written by scripts/fixtures/shards.py in this very shape.
const expected = JSON.parse(await readFile(join(fixtures, 'expected.json'), 'utf8')) as {
  rows: { id: string; imageSha256: string; caption: string }[];
};
const sha = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const digest = ({ id, image, caption }: ImageTextPair) => ({ id, imageSha256: sha(image), caption });
const GB = 2 ** 30;

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rows-'));
});
afterEach(() => rm(folder, { recursive: true }));

describe('what a row costs', () => {
  const pairs = Array.from({ length: 64 }, (_, i) => ({
    id: `p${i}`,
    image: new Uint8Array(40_000).fill(i),
    caption: `caption ${i}`,
    extra: {},
  }));

  it('the first row of a batch reads its texts and one image, the others one image each, none anything twice', async () => {
    await writeShards(join(folder, 'set'), pairs);
    const log: ByteRange[] = [];
    const set = await ShardSet.ofFiles([
      memoryFile(new Uint8Array(await readFile(join(folder, 'set/part-00000.arrow'))), log),
    ]);
    const bytesOf = (ranges: readonly ByteRange[]) => ranges.reduce((sum, { length }) => sum + length, 0);
    log.length = 0;
    const read = await set.read(17);
    expect(Buffer.compare(read.image, pairs[17]?.image ?? new Uint8Array(0))).toBe(0);
    expect(read.caption).toBe('caption 17');
    expect(bytesOf(log)).toBeLessThan(40_000 + 4000);
    for (const row of [17, 63, 0]) {
      log.length = 0;
      expect((await set.read(row)).image[0]).toBe(row);
      expect(log).toHaveLength(1);
      expect(log[0]?.length).toBe(40_000);
    }
    log.length = 0;
    await Promise.all(pairs.map((_, row) => set.read(row)));
    expect(bytesOf(log)).toBe(64 * 40_000);
  });
});

describe('what a dictionary costs', () => {
  it.each(['dictionary', 'dictionary_lz4', 'dictionary_stream'])(
    'the captions of %s are read once, however many batches refer to them',
    async (name) => {
      const bytes = new Uint8Array(await readFile(join(fixtures, `${name}.arrow`)));
      const { dictionaries, batches } = await indexArrow(memoryFile(bytes));
      expect([dictionaries.length, batches.length > 1]).toEqual([1, true]);
      const [{ offset, metadataBytes, bodyBytes } = { offset: 0, metadataBytes: 0, bodyBytes: 0 }] =
        dictionaries;
      const log: ByteRange[] = [];
      const set = await ShardSet.ofFiles([memoryFile(bytes, log)]);
      log.length = 0;
      await Promise.all(expected.rows.map((_, row) => set.read(row)));
      await set.verify();
      const last = offset + metadataBytes + bodyBytes - 1;
      const covering = log.filter((range) => range.offset <= last && range.offset + range.length > last);
      expect(covering).toHaveLength(1);
    },
  );
});

/** A message of a file that the test makes, and where it goes. */
interface Placed {
  readonly offset: number;
  readonly metadata: Uint8Array;
  readonly bodyBytes: number;
  /** Parts of the body by their place in it; holes between. */
  readonly parts: readonly (readonly [at: number, bytes: Uint8Array])[];
}

/** Writes an Arrow file with holes, so that a large one takes no room. */
async function writeHoley(path: string, { schema }: ArrowIndex, batches: readonly Placed[]): Promise<void> {
  const handle = await open(path, 'w');
  const put = (bytes: Uint8Array, at: number) => handle.write(bytes, 0, bytes.length, at);
  await put(Buffer.from('ARROW1\0\0'), 0);
  let end = 8;
  for (const { offset, metadata, bodyBytes, parts } of batches) {
    await put(metadata, offset);
    for (const [at, bytes] of parts) await put(bytes, offset + metadata.length + at);
    end = offset + metadata.length + bodyBytes;
  }
  const blocks = batches.map(
    ({ offset, metadata, bodyBytes }) => new FileBlock(metadata.length, bodyBytes, offset),
  );
  const footer = Footer.encode(new Footer(schema, MetadataVersion.V5, blocks, []));
  const tail = Buffer.alloc(10, 'ARROW1', 'latin1');
  tail.writeInt32LE(footer.length);
  tail.write('ARROW1', 4);
  await put(footer, end);
  await put(tail, end + footer.length);
  await handle.close();
}

async function readDigests(path: string): Promise<unknown[]> {
  const set = await ShardSet.open(path);
  return Promise.all(Array.from({ length: set.rows }, async (_, row) => digest(await set.read(row))));
}

describe('large files', () => {
  it('batches beyond 2 GB and 4 GB are found and read', async () => {
    const index = await indexArrow(join(fixtures, 'plain.arrow'));
    const offsets = [1.9, 2.5, 5].map((gigabytes) => Math.round((gigabytes * GB) / 8) * 8);
    const batches = index.batches.map(async ({ offset, metadataBytes, bodyBytes }, i) => ({
      offset: offsets[i] ?? 0,
      metadata: await readRange(index.file, offset, metadataBytes),
      bodyBytes,
      parts: [[0, await readRange(index.file, offset + metadataBytes, bodyBytes)]] as const,
    }));
    const path = join(folder, 'large.arrow');
    await writeHoley(path, index, await Promise.all(batches));
    expect((await stat(path)).size).toBeGreaterThan(5 * GB);
    expect(await readDigests(path)).toEqual(expected.rows);
  });

  it('one record batch of 6 GB gives its rows, whose offsets have 64 bits', async () => {
    const index = await indexArrow(join(fixtures, 'large.arrow'));
    const path = join(folder, 'large.arrow');
    const shifted = 6 * GB;
    const batches: Placed[] = [];
    let offset = 8;
    for (const batch of index.batches.keys()) {
      const placed = { offset, ...(await shiftImages(index, batch, batch === 1 ? shifted : 0)) };
      batches.push(placed);
      offset += placed.metadata.length + placed.bodyBytes;
    }
    await writeHoley(path, index, batches);
    expect((await stat(path)).size).toBeGreaterThan(shifted);
    expect(await readDigests(path)).toEqual(expected.rows);
  });
});

/** A batch of large.arrow (id, image, caption) whose images begin `by` bytes later in their buffer. */
async function shiftImages(index: ArrowIndex, batch: number, by: number): Promise<Omit<Placed, 'offset'>> {
  const { header, block } = await readBatchHeader(index, batch);
  const body = await readRange(index.file, block.offset + block.metadataBytes, block.bodyBytes);
  const [, , , , ends, images] = header.buffers; // id: validity, offsets, text; image: validity, offsets, bytes
  if (!ends || !images) throw new Error('large.arrow must have an image column');
  const offsets = new BigInt64Array(body.buffer, body.byteOffset + ends.offset, block.rows + 1);
  for (const [row, end] of offsets.entries()) offsets[row] = end + BigInt(by);
  const buffers = header.buffers.map(({ offset, length }, i) =>
    i < 5 ? { offset, length } : i === 5 ? { offset, length: length + by } : { offset: offset + by, length },
  );
  const metadata = frame(
    Message.encode(
      Message.from(
        new BatchHeader(
          header.length,
          header.nodes,
          buffers.map(({ offset, length }) => new BufferRegion(offset, length)),
          null,
        ),
        block.bodyBytes + by,
      ),
    ),
  );
  return {
    metadata,
    bodyBytes: block.bodyBytes + by,
    parts: [
      [0, body.slice(0, images.offset)],
      [images.offset + by, body.slice(images.offset)],
    ],
  };
}
