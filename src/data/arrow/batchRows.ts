/**
 * The rows of one record batch. Of an uncompressed batch everything but the images is read at once (captions, ids, where
 * each image lies: some 50 kB) and each image when its row is wanted, so a row costs its own bytes and no more. A
 * compressed batch, or one whose images lie in another way, is read whole.
 */

import { Message, type RecordBatch } from 'apache-arrow';
import { BufferRegion, RecordBatch as BatchHeader } from 'apache-arrow/ipc/metadata/message';
import pLimit from 'p-limit';
import { checkedRows, readBatch, readBatchHeader } from './arrowBatch.js';
import type { ArrowIndex } from './arrowFile.js';
import { decodeBatch, frame } from './arrowMessage.js';
import { planBuffers, type BufferPlan } from './bufferPlan.js';
import { dictionariesOf, readDictionaries, type DictionarySource } from './dictionaries.js';
import { RangeReader, readRange } from '../bytes/byteFile.js';
import { findColumns, imageColumn, rowReader, type PairColumns } from './columns.js';
import { decodeOrFault, fault, type ByteRange } from '../bytes/fileBytes.js';
import type { ImageTextPair } from '../pairs.js';

/** One record batch, open for reading its rows. */
export interface BatchRows {
  /** Memory that it holds, without its dictionaries, which it shares with other batches. */
  readonly heldBytes: number;
  /**
   * Reads one pair; its bytes are the caller's.
   *
   * @param numberedId the id of a row in a file without ids
   */
  read(row: number, numberedId: string): Promise<ImageTextPair>;
}

const OBJECT_BYTES = 24 * 2 ** 10; // what apache-arrow's objects of one batch take, roughly

/** Whole batches may be large, and twice so while they are decompressed: how many are read at the same time. */
const readingWhole = pLimit(2);

/**
 * Opens a record batch.
 *
 * @param dictionariesIn may keep dictionaries for other batches
 * @throws UserError if the file is damaged there
 */
export async function openBatch(
  index: ArrowIndex,
  batch: number,
  dictionariesIn: DictionarySource = readDictionaries,
): Promise<BatchRows> {
  const columns = findColumns(index.schema, index.path);
  const compressed = index.batches[batch]?.compressed === true;
  const plan = compressed ? undefined : decodeOrFault(index.path, () => planBuffers(index.schema, columns));
  return plan === undefined
    ? readingWhole(() => openWhole(index, batch, columns, dictionariesIn))
    : openSparse(index, batch, columns, plan, dictionariesIn);
}

async function openWhole(
  index: ArrowIndex,
  batch: number,
  columns: PairColumns,
  dictionariesIn: DictionarySource,
): Promise<BatchRows> {
  const read = await readBatch(index, batch, dictionariesIn);
  const readRow = rowReader(read, columns);
  return {
    heldBytes: read.data.byteLength + OBJECT_BYTES,
    read: (row, numberedId) => Promise.resolve(decodeOrFault(index.path, () => readRow(row, numberedId))),
  };
}

async function openSparse(
  index: ArrowIndex,
  batch: number,
  columns: PairColumns,
  plan: BufferPlan,
  dictionariesIn: DictionarySource,
): Promise<BatchRows> {
  const { batch: read, images, heldBytes } = await readSparse(index, batch, plan, dictionariesIn);
  const readRow = rowReader(read, columns);
  const imageAt = imageRanges(read, columns, images);
  return {
    heldBytes,
    async read(row, numberedId) {
      const pair = decodeOrFault(index.path, () => readRow(row, numberedId));
      const { offset, length } = decodeOrFault(index.path, () => imageAt(row));
      return length === 0 ? pair : { ...pair, image: await readRange(index.file, offset, length) };
    },
  };
}

/** Reads a batch's kept buffers; the buffers left out are empty in it. */
async function readSparse(
  index: ArrowIndex,
  batch: number,
  { kept, images }: BufferPlan,
  dictionariesIn: DictionarySource,
): Promise<{ batch: RecordBatch; images: ByteRange; heldBytes: number }> {
  const { header, block } = await readBatchHeader(index, batch);
  const body = block.offset + block.metadataBytes;
  checkBuffers(index, batch, header, block.bodyBytes);
  const wanted = header.buffers
    .filter((_, i) => kept.has(i))
    .map(({ offset, length }) => ({ offset: body + offset, length }));
  const [reader, { byId }] = await Promise.all([
    RangeReader.read(index.file, wanted),
    dictionariesIn(index, dictionariesOf(index, block)),
  ]);
  const sparse = sparseMessage(header, kept, (at, length) => reader.bytes({ offset: body + at, length }));
  const parts = [index.schemaMessage, ...sparse];
  const decoded = checkedRows(index, batch, decodeBatch(index.file, parts, byId));
  const region = header.buffers[images];
  if (region === undefined) throw new Error('batchRows: the images have no buffer');
  return {
    batch: decoded,
    images: { offset: body + region.offset, length: region.length },
    heldBytes: parts.reduce((sum, part) => sum + part.length, OBJECT_BYTES),
  };
}

/** The batch's message and body as they would be if the buffers that are not kept were empty. */
function sparseMessage(
  header: BatchHeader,
  kept: ReadonlySet<number>,
  bytesOf: (offset: number, length: number) => Uint8Array,
): [Uint8Array, Uint8Array] {
  const regions: BufferRegion[] = [];
  let size = 0;
  for (const [i, { length }] of header.buffers.entries()) {
    const region = new BufferRegion(size, kept.has(i) ? length : 0);
    regions.push(region);
    size += Math.ceil(region.length / 8) * 8;
  }
  const body = new Uint8Array(size);
  for (const [i, { offset, length }] of regions.entries()) {
    if (length > 0) body.set(bytesOf(header.buffers[i]?.offset ?? 0, length), offset); // as many as regions
  }
  const { length: rows, nodes, variadicBufferCounts } = header;
  const sparse = new BatchHeader(rows, nodes, regions, null, variadicBufferCounts);
  return [frame(Message.encode(Message.from(sparse, size))), body];
}

function checkBuffers(index: ArrowIndex, batch: number, { buffers }: BatchHeader, bodyBytes: number): void {
  const inside = buffers.every(
    ({ offset, length }) => offset >= 0 && length >= 0 && offset + length <= bodyBytes,
  );
  const total = buffers.reduce((sum, { length }) => sum + length, 0);
  if (inside && total <= bodyBytes) return;
  throw fault(
    index.path,
    `the file is damaged, buffers leave record batch ${batch}`,
    'write or copy it again',
  );
}

/** Where in the file the image of a row lies. */
function imageRanges(
  batch: RecordBatch,
  columns: PairColumns,
  { offset, length }: ByteRange,
): (row: number) => ByteRange {
  const images = imageColumn(batch, columns);
  const ends = images.bytes?.data[0]?.valueOffsets as ArrayLike<number | bigint> | undefined; // Vector<any>
  return (row) => {
    if (!images.isThere(row)) return { offset, length: 0 };
    const start = Number(ends?.[row]);
    const end = Number(ends?.[row + 1]);
    if (start >= 0 && start <= end && end <= length) return { offset: offset + start, length: end - start };
    throw new RangeError(`the image of row ${row} of a record batch lies outside of it`);
  };
}
