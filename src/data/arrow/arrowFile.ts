/**
 * Where each record batch of an Arrow file lies; arrowBatch.ts reads one from there.
 * Both formats are read: the file format (footer) and the stream format (what Hugging Face `datasets` caches).
 * Sizes and bounds are checked here, before apache-arrow sees a byte, because it reads damaged files silently or obscurely.
 */

import { DataType, Message, type Schema } from 'apache-arrow';
import { Footer } from 'apache-arrow/ipc/metadata/file';
import type { RecordBatch as BatchHeader } from 'apache-arrow/ipc/metadata/message';
import {
  damagedAt,
  decodeTypes,
  frame,
  int32,
  isRows,
  parseMessage,
  readMessage,
  type Block,
  type FoundMessage,
} from './arrowMessage.js';
import { localFile, readRange, type ByteFile } from '../bytes/byteFile.js';
import { registerCodecs } from './codecs.js';
import { decodeOrFault, fault, type ByteRange } from '../bytes/fileBytes.js';
import { checkFooter } from './flatbuffer.js';

/** A dictionary of a column, and which rows it is for. */
export interface DictionaryBlock extends Block {
  readonly id: number;
  /** Adds to the dictionary before it; otherwise it takes that one's place. */
  readonly isDelta: boolean;
}

/** A record batch in the file, and which of the file's rows it begins with. */
export interface BatchBlock extends Block {
  readonly firstRow: number;
}

/** Where everything is in one Arrow file, without any of its data. */
export interface ArrowIndex {
  /** What the file is called in messages; for a file on disk its path. */
  readonly path: string;
  readonly file: ByteFile;
  readonly format: 'file' | 'stream';
  readonly sizeBytes: number;
  readonly schema: Schema;
  /** The schema as a framed message, which a stream of batches must begin with. */
  readonly schemaMessage: Uint8Array;
  readonly dictionaries: readonly DictionaryBlock[];
  readonly batches: readonly BatchBlock[];
  readonly rows: number;
}

/** What of an index is known before its batches are. */
type IndexHead = Omit<ArrowIndex, 'path' | 'batches' | 'dictionaries' | 'rows'>;

const MAGIC = 'ARROW1';
const HEAD_BYTES = 8; // magic and padding
const TAIL_BYTES = 10; // footer length and magic
const USUAL_FOOTER_BYTES = 64 * 2 ** 10; // some thousand batches
const MESSAGES_AT_ONCE = 64;
const MAX_GUESS_BYTES = 2 ** 16; // of a footer that may be damaged

/**
 * Finds the schema, dictionaries and record batches of an Arrow file.
 *
 * @param place a path, or any other file of bytes
 * @throws UserError if the file is missing, empty, foreign, cut short, damaged or has no rows
 */
export async function indexArrow(place: string | ByteFile): Promise<ArrowIndex> {
  registerCodecs();
  const file = typeof place === 'string' ? localFile(place) : place;
  const size = await file.size();
  if (size === 0) throw fault(file.name, 'the file is empty', 'write or copy it again');
  const tailBytes = Math.min(size, USUAL_FOOTER_BYTES);
  const [head = new Uint8Array(0), tail = head] = await file.read([
    { offset: 0, length: Math.min(HEAD_BYTES, size) },
    { offset: size - tailBytes, length: tailBytes },
  ]);
  if (ascii(head, 0, MAGIC.length) === MAGIC) return indexFile(file, size, tail);
  if (size >= HEAD_BYTES && int32(head, 0) === -1) return indexStream(file, size);
  throw fault(
    file.name,
    `not an Arrow file, it begins with ${JSON.stringify(ascii(head, 0, 6))}`,
    'pack the data first',
  );
}

async function indexFile(file: ByteFile, size: number, tail: Uint8Array): Promise<ArrowIndex> {
  const cut = () =>
    fault(file.name, 'the file is cut short, an Arrow file ends with ARROW1', 'write or copy it again');
  if (size < HEAD_BYTES + TAIL_BYTES) throw cut();
  if (ascii(tail, tail.length - MAGIC.length, MAGIC.length) !== MAGIC) throw cut();
  const footerBytes = int32(tail, tail.length - TAIL_BYTES);
  const footerOffset = size - TAIL_BYTES - footerBytes;
  if (footerBytes <= 0 || footerOffset < HEAD_BYTES) {
    throw fault(
      file.name,
      `the footer length is out of bounds, got ${footerBytes} bytes of ${size}`,
      'write or copy it again',
    );
  }
  const start = tail.length - TAIL_BYTES - footerBytes;
  const footerData =
    start >= 0 ? tail.slice(start, start + footerBytes) : await readRange(file, footerOffset, footerBytes);
  const footer = decodeTypes(file, () => {
    checkFooter(footerData);
    return Footer.decode(footerData);
  });
  // Not the message that should follow the magic: apache-arrow's own writer leaves it out.
  const schemaMessage = decodeOrFault(file.name, () => frame(Message.encode(Message.from(footer.schema))));
  const dictionaries = await readFooterBlocks(file, () => footer.dictionaryBatches(), footerOffset);
  const batches = await readFooterBlocks(file, () => footer.recordBatches(), footerOffset);
  const foreign = [...dictionaries.filter(isRows), ...batches.filter((found) => !isRows(found))][0];
  if (foreign !== undefined) throw damagedAt(file, foreign.block.offset);
  return indexOf({ file, format: 'file', sizeBytes: size, schema: footer.schema, schemaMessage }, [
    ...dictionaries,
    ...batches,
  ]);
}

async function readFooterBlocks(
  file: ByteFile,
  list: () => Iterable<{ offset: number; metaDataLength: number; bodyLength: number }>,
  end: number,
): Promise<FoundMessage[]> {
  const blocks = decodeOrFault(file.name, () => [...list()]);
  for (const { offset, metaDataLength, bodyLength } of blocks) {
    const inside = offset >= HEAD_BYTES && metaDataLength > 0 && bodyLength >= 0;
    if (inside && offset + metaDataLength + bodyLength <= end) continue;
    throw fault(
      file.name,
      `a batch lies outside of the file, at byte ${offset} of ${end}`,
      'write or copy it again',
    );
  }
  const messages: FoundMessage[] = [];
  for (let i = 0; i < blocks.length; i += MESSAGES_AT_ONCE) {
    const some = blocks.slice(i, i + MESSAGES_AT_ONCE);
    const heads = await file.read(some.map((block) => headRange(block, end)));
    for (const [j, { offset }] of some.entries()) {
      const found = await parseMessage(file, heads[j] ?? new Uint8Array(0), offset, end);
      if (found === null) throw damagedAt(file, offset);
      messages.push(found);
    }
  }
  return messages;
}

/** What a footer says of a message's metadata; a few bytes more or less do no harm. */
function headRange(block: { offset: number; metaDataLength: number }, end: number): ByteRange {
  const length = Math.min(Math.max(block.metaDataLength, HEAD_BYTES), MAX_GUESS_BYTES);
  return { offset: block.offset, length: Math.min(length, end - block.offset) };
}

async function indexStream(file: ByteFile, size: number): Promise<ArrowIndex> {
  const first = await readMessage(file, 0, size);
  if (first?.message.isSchema() !== true)
    throw fault(file.name, 'the file has no Arrow schema', 'write or copy it again');
  const schema = decodeTypes(file, () => first.message.header() as Schema); // isSchema() says so
  const schemaMessage = await readRange(file, 0, first.block.metadataBytes);
  const messages: FoundMessage[] = [];
  for (let at = schemaMessage.length; at < size;) {
    const found = await readMessage(file, at, size);
    if (found === null) break;
    messages.push(found);
    at += found.block.metadataBytes + found.block.bodyBytes;
  }
  return indexOf({ file, format: 'stream', sizeBytes: size, schema, schemaMessage }, messages);
}

function indexOf(head: IndexHead, messages: readonly FoundMessage[]): ArrowIndex {
  const { file } = head;
  const batches: BatchBlock[] = [];
  const dictionaries: DictionaryBlock[] = [];
  let rows = 0;
  for (const { message, block } of messages) {
    if (message.isRecordBatch()) {
      decodeOrFault(file.name, () => checkLengths(head.schema, message, block.rows));
      batches.push({ ...block, firstRow: rows });
      rows += block.rows;
    } else if (message.isDictionaryBatch()) {
      const { id, isDelta } = decodeOrFault(file.name, () => message.header());
      dictionaries.push({ ...block, id, isDelta });
    }
  }
  if (rows === 0) throw fault(file.name, 'the file has no rows', 'leave it out, or pack its data again');
  return { ...head, path: file.name, dictionaries, batches, rows };
}

/** Every column of a batch must have its rows, or apache-arrow makes up what is missing. */
function checkLengths(schema: Schema, message: Message, rows: number): void {
  const { nodes } = message.header() as BatchHeader;
  let next = 0;
  for (const { name, type } of schema.fields) {
    const node = nodes[next];
    const whole = node?.length === rows && node.nullCount >= 0 && node.nullCount <= rows;
    if (!whole) throw new RangeError(`column "${name}" has not the ${rows} rows of its batch`);
    next += nodesOf(type as DataType); // Schema<any>
  }
}

/** A column has a node of its own, and those of the columns within it. */
function nodesOf(type: DataType): number {
  if (DataType.isDictionary(type)) return 1; // its values are elsewhere
  const { children } = type as { children: readonly { type: DataType }[] | null }; // null of a leaf, whatever its type says
  return (children ?? []).reduce((sum, child) => sum + nodesOf(child.type), 1);
}

function ascii(bytes: Uint8Array, start: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(start, start + length));
}
