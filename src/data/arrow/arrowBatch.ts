/** Record batches of an indexed Arrow file, one at a time: which one holds a row, its metadata, its bytes. */

import type { RecordBatch } from 'apache-arrow';
import type { RecordBatch as BatchHeader } from 'apache-arrow/ipc/metadata/message';
import type { ArrowIndex, BatchBlock } from './arrowFile.js';
import { damagedAt, decodeBatch, readMessage, type Block } from './arrowMessage.js';
import { dictionariesOf, readDictionaries, type DictionarySource } from './dictionaries.js';
import { readRange } from '../bytes/byteFile.js';
import { partOfRow } from '../partOfRow.js';
import { decodeOrFault, fault } from '../bytes/fileBytes.js';

/**
 * Reads one record batch, with the dictionaries that it needs.
 *
 * @returns a batch whose vectors share one buffer of the batch's size: copy what is kept for long
 * @throws UserError if the bytes there are not the batch that the index promised
 */
export async function readBatch(
  index: ArrowIndex,
  batch: number,
  dictionariesIn: DictionarySource = readDictionaries,
): Promise<RecordBatch> {
  const block = blockOf(index, batch);
  const [bytes, { byId }] = await Promise.all([
    readRange(index.file, block.offset, block.metadataBytes + block.bodyBytes),
    dictionariesIn(index, dictionariesOf(index, block)),
  ]);
  return checkedRows(index, batch, decodeBatch(index.file, [index.schemaMessage, bytes], byId));
}

/** The batch, if it has the rows that the index promised. */
export function checkedRows(index: ArrowIndex, batch: number, decoded: RecordBatch): RecordBatch {
  const { rows } = blockOf(index, batch);
  if (decoded.numRows === rows) return decoded;
  throw fault(
    index.path,
    `record batch ${batch} has ${decoded.numRows} rows, its index says ${rows}`,
    'write or copy it again',
  );
}

/**
 * Reads the metadata of a record batch, not its body.
 *
 * @throws UserError if there is none where there was one
 */
export async function readBatchHeader(
  index: ArrowIndex,
  batch: number,
): Promise<{ header: BatchHeader; block: Block }> {
  const { offset, metadataBytes } = blockOf(index, batch);
  const found = await readMessage(index.file, offset, index.sizeBytes, metadataBytes);
  if (found?.message.isRecordBatch() !== true) throw damagedAt(index.file, offset);
  const { message, block } = found;
  return { header: decodeOrFault(index.path, () => message.header()), block };
}

/**
 * The record batch of a row.
 *
 * @param row 0 ≤ row < rows of the file
 */
export function batchOf(index: ArrowIndex, row: number): { batch: number; rowInBatch: number } {
  const batch = partOfRow((at) => blockOf(index, at).firstRow, index.batches.length, row);
  const { firstRow, rows } = blockOf(index, batch);
  if (row < firstRow || row >= firstRow + rows)
    throw new RangeError(`shards: row must be < ${index.rows}, got ${row}`);
  return { batch, rowInBatch: row - firstRow };
}

function blockOf(index: ArrowIndex, batch: number): BatchBlock {
  const block = index.batches[batch];
  if (block === undefined)
    throw new Error(`arrowFile: batch must be < ${index.batches.length}, got ${batch}`);
  return block;
}
