/**
 * Arrow IPC by position: where each record batch of a file lies, and one batch at a time read from there.
 * Both formats are read: the file format (footer) and the stream format (what Hugging Face `datasets` caches).
 * Sizes and bounds are checked here, before apache-arrow sees a byte, because it reads damaged files silently or obscurely.
 */

import type { FileHandle } from 'node:fs/promises';
import { Message, MessageHeader, RecordBatchReader, type RecordBatch, type Schema } from 'apache-arrow';
import { Footer } from 'apache-arrow/ipc/metadata/file';
import { registerCodecs } from './codecs.js';
import { checkFooter, checkMessage } from './flatbuffer.js';
import { decodeOrFault, fault, fill, readBytes, withHandle, type ByteRange } from './fileBytes.js';

/** One IPC message in the file: its metadata and body. */
export interface Block {
  /** Byte position of the message's prefix. */
  readonly offset: number;
  /** Bytes of prefix, metadata and padding; the body begins `offset + metadataBytes`. */
  readonly metadataBytes: number;
  readonly bodyBytes: number;
  /** Rows of a record batch; 0 for dictionaries. */
  readonly rows: number;
}

/** Where everything is in one Arrow file, without any of its data. */
export interface ArrowIndex {
  readonly path: string;
  readonly format: 'file' | 'stream';
  readonly sizeBytes: number;
  readonly schema: Schema;
  /** The schema as a framed message, which a stream of batches must begin with. */
  readonly schemaMessage: Uint8Array;
  readonly dictionaries: readonly Block[];
  readonly batches: readonly Block[];
  readonly rows: number;
}

const MAGIC = 'ARROW1';
const HEAD_BYTES = 8; // magic and padding
const TAIL_BYTES = 10; // footer length and magic

/**
 * Finds the schema, dictionaries and record batches of an Arrow file.
 *
 * @throws UserError if the file is missing, empty, foreign, cut short, damaged or has no rows
 */
export async function indexArrow(path: string): Promise<ArrowIndex> {
  registerCodecs();
  return withHandle(path, async (handle) => {
    const { size } = await handle.stat();
    if (size === 0) throw fault(path, 'the file is empty', 'write or copy it again');
    const head = await readBytes(handle, path, 0, Math.min(HEAD_BYTES, size));
    if (ascii(head, 0, MAGIC.length) === MAGIC) return indexFile(handle, path, size);
    if (size >= HEAD_BYTES && int32(head, 0) === -1) return indexStream(handle, path, size);
    throw fault(
      path,
      `not an Arrow file, it begins with ${JSON.stringify(ascii(head, 0, 6))}`,
      'pack the data first',
    );
  });
}

/**
 * Reads one record batch, with the dictionaries that it needs.
 *
 * @returns a batch whose vectors share one buffer of the batch's size: copy what is kept for long
 * @throws UserError if the bytes there are not the batch that the index promised
 */
export async function readBatch(index: ArrowIndex, batch: number): Promise<RecordBatch> {
  const block = index.batches[batch];
  if (block === undefined)
    throw new Error(`readBatch: batch must be < ${index.batches.length}, got ${batch}`);
  const needed = index.dictionaries.filter((d) => index.format === 'file' || d.offset < block.offset);
  const bytes = await withHandle(index.path, (handle) =>
    readBlocks(handle, index.path, index.schemaMessage, [...needed, block]),
  );
  const decoded = decodeStream(index.path, bytes);
  if (decoded.numRows !== block.rows) {
    throw fault(
      index.path,
      `record batch ${batch} has ${decoded.numRows} rows, its index says ${block.rows}`,
      'write or copy it again',
    );
  }
  return decoded;
}

/** Byte ranges in the file of a record batch's buffers, in the order of the columns; for uncompressed batches. */
export async function bufferRanges(index: ArrowIndex, batch: number): Promise<ByteRange[]> {
  const block = index.batches[batch];
  if (block === undefined)
    throw new Error(`bufferRanges: batch must be < ${index.batches.length}, got ${batch}`);
  const found = await withHandle(index.path, (handle) =>
    readMessage(handle, index.path, block.offset, index.sizeBytes),
  );
  if (found?.message.isRecordBatch() !== true)
    throw fault(index.path, 'no record batch where one was', 'write it again');
  const body = block.offset + block.metadataBytes;
  return found.message.header().buffers.map(({ offset, length }) => ({ offset: body + offset, length }));
}

async function indexFile(handle: FileHandle, path: string, size: number): Promise<ArrowIndex> {
  const cut = () =>
    fault(path, 'the file is cut short, an Arrow file ends with ARROW1', 'write or copy it again');
  if (size < HEAD_BYTES + TAIL_BYTES) throw cut();
  const tail = await readBytes(handle, path, size - TAIL_BYTES, TAIL_BYTES);
  if (ascii(tail, 4, MAGIC.length) !== MAGIC) throw cut();
  const footerBytes = int32(tail, 0);
  const footerOffset = size - TAIL_BYTES - footerBytes;
  if (footerBytes <= 0 || footerOffset < HEAD_BYTES) {
    throw fault(
      path,
      `the footer length is out of bounds, got ${footerBytes} bytes of ${size}`,
      'write or copy it again',
    );
  }
  const footerData = await readBytes(handle, path, footerOffset, footerBytes);
  const footer = decodeOrFault(path, () => {
    checkFooter(footerData);
    return Footer.decode(footerData);
  });
  const { schema } = footer;
  // Not the message that should follow the magic: apache-arrow's own writer leaves it out.
  const schemaMessage = frame(Message.encode(Message.from(schema)));
  const dictionaries = await readFooterBlocks(handle, path, () => footer.dictionaryBatches(), footerOffset);
  const batches = await readFooterBlocks(handle, path, () => footer.recordBatches(), footerOffset);
  return withRows({ path, format: 'file', sizeBytes: size, schema, schemaMessage, dictionaries, batches });
}

async function readFooterBlocks(
  handle: FileHandle,
  path: string,
  list: () => Iterable<{ offset: number; metaDataLength: number; bodyLength: number }>,
  end: number,
): Promise<Block[]> {
  const blocks: Block[] = [];
  for (const { offset, metaDataLength, bodyLength } of decodeOrFault(path, () => [...list()])) {
    const inside = offset >= HEAD_BYTES && metaDataLength > 0 && bodyLength >= 0;
    if (!inside || offset + metaDataLength + bodyLength > end) {
      throw fault(
        path,
        `a batch lies outside of the file, at byte ${offset} of ${end}`,
        'write or copy it again',
      );
    }
    const found = await readMessage(handle, path, offset, end);
    if (found === null)
      throw fault(path, `no message where the footer says, at byte ${offset}`, 'write or copy it again');
    blocks.push(found.block);
  }
  return blocks;
}

async function indexStream(handle: FileHandle, path: string, size: number): Promise<ArrowIndex> {
  const first = await readMessage(handle, path, 0, size);
  if (first?.message.isSchema() !== true)
    throw fault(path, 'the file has no Arrow schema', 'write or copy it again');
  const schema = decodeOrFault(path, () => first.message.header() as Schema); // isSchema() says so
  const schemaMessage = await readBytes(handle, path, 0, first.block.metadataBytes);
  const dictionaries: Block[] = [];
  const batches: Block[] = [];
  let at = schemaMessage.length;
  while (at < size) {
    const found = await readMessage(handle, path, at, size);
    if (found === null) break;
    if (found.message.headerType === MessageHeader.RecordBatch) batches.push(found.block);
    if (found.message.headerType === MessageHeader.DictionaryBatch) dictionaries.push(found.block);
    at += found.block.metadataBytes + found.block.bodyBytes;
  }
  return withRows({ path, format: 'stream', sizeBytes: size, schema, schemaMessage, dictionaries, batches });
}

function withRows(index: Omit<ArrowIndex, 'rows'>): ArrowIndex {
  const rows = index.batches.reduce((sum, batch) => sum + batch.rows, 0);
  if (rows === 0) throw fault(index.path, 'the file has no rows', 'leave it out, or pack its data again');
  return { ...index, rows };
}

/** Reads the message at `offset`; null at the mark that ends a stream. */
async function readMessage(
  handle: FileHandle,
  path: string,
  offset: number,
  end: number,
): Promise<{ message: Message; block: Block } | null> {
  const damaged = () =>
    fault(path, `the file is cut short or damaged at byte ${offset}`, 'write or copy it again');
  if (offset + 8 > end) throw damaged();
  const prefix = await readBytes(handle, path, offset, 8);
  const metadataBytes = int32(prefix, 4);
  if (int32(prefix, 0) !== -1 || metadataBytes < 0) throw damaged();
  if (metadataBytes === 0) return null;
  if (offset + 8 + metadataBytes > end || metadataBytes % 8 !== 0) throw damaged();
  const metadata = await readBytes(handle, path, offset + 8, metadataBytes);
  const message = decodeOrFault(path, () => {
    checkMessage(metadata);
    return Message.decode(metadata);
  });
  const bodyBytes = message.bodyLength;
  if (bodyBytes < 0 || bodyBytes % 8 !== 0 || offset + 8 + metadataBytes + bodyBytes > end) throw damaged();
  const { length: rows, compression } = decodeOrFault(path, () =>
    message.isRecordBatch() ? message.header() : { length: 0, compression: null },
  );
  const maxRows = compression === null ? bodyBytes / 4 : bodyBytes * 256; // a text or byte column has 4-byte offsets
  if (rows < 0 || rows > maxRows) throw damaged();
  return { message, block: { offset, metadataBytes: 8 + metadataBytes, bodyBytes, rows } };
}

/** The schema and the blocks after it make an Arrow stream; each has a multiple of 8 bytes, so alignment holds. */
async function readBlocks(
  handle: FileHandle,
  path: string,
  schemaMessage: Uint8Array,
  blocks: readonly Block[],
): Promise<Uint8Array> {
  const sizes = blocks.map(({ metadataBytes, bodyBytes }) => metadataBytes + bodyBytes);
  const bytes = new Uint8Array(sizes.reduce((sum, size) => sum + size, schemaMessage.length));
  bytes.set(schemaMessage);
  let at = schemaMessage.length;
  for (const { offset, metadataBytes, bodyBytes } of blocks) {
    await fill(handle, path, bytes.subarray(at, at + metadataBytes + bodyBytes), offset);
    at += metadataBytes + bodyBytes;
  }
  return bytes;
}

/** A message's metadata with the prefix and padding that it has in a file. */
function frame(metadata: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(8 + Math.ceil(metadata.length / 8) * 8);
  new DataView(bytes.buffer).setInt32(0, -1, true);
  new DataView(bytes.buffer).setInt32(4, bytes.length - 8, true);
  bytes.set(metadata, 8);
  return bytes;
}

function decodeStream(path: string, bytes: Uint8Array): RecordBatch {
  return decodeOrFault(path, () => {
    const next = RecordBatchReader.from(bytes).next();
    if (next.done === true) throw new Error('no record batch');
    return next.value;
  });
}

function int32(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getInt32(at, true);
}

function ascii(bytes: Uint8Array, start: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(start, start + length));
}
