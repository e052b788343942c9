/** One message of an Arrow file: its metadata read and checked, and messages put together for apache-arrow to decode. */

import { Message, MessageHeader, RecordBatchReader, type RecordBatch, type Vector } from 'apache-arrow';
import { readRange, type ByteFile } from '../bytes/byteFile.js';
import { decodeOrFault, fault, reasonOf } from '../bytes/fileBytes.js';
import { checkMessage } from './flatbuffer.js';

/** One IPC message in the file: its metadata and body. */
export interface Block {
  /** Byte position of the message's prefix. */
  readonly offset: number;
  /** Bytes of prefix, metadata and padding; the body begins `offset + metadataBytes`. */
  readonly metadataBytes: number;
  readonly bodyBytes: number;
  /** Rows of a record batch; 0 for dictionaries. */
  readonly rows: number;
  readonly compressed: boolean;
}

/** A message and where it lies. */
export interface FoundMessage {
  readonly message: Message;
  readonly block: Block;
}

const PREFIX_BYTES = 8; // mark of continuation, metadata length
const MAX_METADATA_BYTES = 2 ** 26; // a batch of a thousand columns has some 100 kB
const USUAL_METADATA_BYTES = 4096;

/**
 * Reads the metadata of the message at `offset`, in one read if `guessBytes` is enough; null at the mark that ends a stream.
 *
 * @param end where the messages end
 * @throws UserError if there is no message, or it or its body leaves the file
 */
export async function readMessage(
  file: ByteFile,
  offset: number,
  end: number,
  guessBytes = USUAL_METADATA_BYTES,
): Promise<FoundMessage | null> {
  if (offset + PREFIX_BYTES > end) throw damagedAt(file, offset);
  const head = await readRange(file, offset, Math.min(Math.max(guessBytes, PREFIX_BYTES), end - offset));
  return parseMessage(file, head, offset, end);
}

/** As `readMessage`, of bytes that were read from `offset` already; reads on if they are too few. */
export async function parseMessage(
  file: ByteFile,
  head: Uint8Array,
  offset: number,
  end: number,
): Promise<FoundMessage | null> {
  if (head.length < PREFIX_BYTES) throw damagedAt(file, offset);
  const metadataBytes = int32(head, 4);
  if (int32(head, 0) !== -1 || metadataBytes < 0) throw damagedAt(file, offset);
  if (metadataBytes === 0) return null;
  const length = PREFIX_BYTES + metadataBytes;
  if (metadataBytes > MAX_METADATA_BYTES || metadataBytes % 8 !== 0 || offset + length > end)
    throw damagedAt(file, offset);
  const whole = length <= head.length ? head : await readRange(file, offset, length);
  return checkedMessage(file, whole.subarray(PREFIX_BYTES, length), offset, end);
}

function checkedMessage(file: ByteFile, metadata: Uint8Array, offset: number, end: number): FoundMessage {
  const message = decodeTypes(file, () => {
    checkMessage(metadata);
    return Message.decode(metadata);
  });
  const metadataBytes = PREFIX_BYTES + metadata.length;
  const bodyBytes = message.bodyLength;
  if (bodyBytes < 0 || bodyBytes % 8 !== 0 || offset + metadataBytes + bodyBytes > end)
    throw damagedAt(file, offset);
  const { length: rows, compression } = decodeOrFault(file.name, () =>
    message.isRecordBatch() ? message.header() : { length: 0, compression: null },
  );
  const compressed = compression !== null;
  const maxRows = compressed ? bodyBytes * 256 : bodyBytes / 4; // a text or byte column has 4-byte offsets
  if (rows < 0 || rows > maxRows) throw damagedAt(file, offset);
  return { message, block: { offset, metadataBytes, bodyBytes, rows, compressed } };
}

/** As `decodeOrFault`, of what may name column types: one that apache-arrow knows by name alone is no damage. */
export function decodeTypes<T>({ name }: ByteFile, decode: () => T): T {
  try {
    return decode();
  } catch (cause) {
    const [, type] =
      /^Unrecognized type: "(RunEndEncoded|ListView|LargeListView)"/.exec(reasonOf(cause)) ?? [];
    if (type !== undefined) {
      const problem = `a column is of a type that is not read here, ${type}`;
      throw fault(name, problem, 'leave it out, or write it as a plain column', cause);
    }
    return decodeOrFault(name, () => {
      throw cause;
    });
  }
}

/** True of a message that holds rows. */
export function isRows({ message }: FoundMessage): boolean {
  return message.headerType === MessageHeader.RecordBatch;
}

/** A message's metadata with the prefix and padding that it has in a file. */
export function frame(metadata: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(PREFIX_BYTES + Math.ceil(metadata.length / 8) * 8);
  new DataView(bytes.buffer).setInt32(0, -1, true);
  new DataView(bytes.buffer).setInt32(4, bytes.length - PREFIX_BYTES, true);
  bytes.set(metadata, PREFIX_BYTES);
  return bytes;
}

/**
 * Decodes the one record batch of a stream that is made of `parts`: schema, batch. Each has a multiple of 8 bytes, so
 * alignment holds.
 *
 * @param dictionaries by their ids, those that the batch refers to
 *
 * @returns a batch whose vectors are views of the parts: copy what is kept for long
 */
export function decodeBatch(
  file: ByteFile,
  parts: readonly Uint8Array[],
  dictionaries: ReadonlyMap<number, Vector>,
): RecordBatch {
  return decodeOrFault(file.name, () => {
    const reader = RecordBatchReader.from(parts).open();
    for (const [id, dictionary] of dictionaries) reader.dictionaries.set(id, dictionary);
    const next = reader.next();
    if (next.done === true) throw new Error('no record batch');
    return next.value;
  });
}

/** What is said of a file that breaks off, or is not Arrow, at a position. */
export function damagedAt(file: ByteFile, offset: number): Error {
  return fault(file.name, `the file is cut short or damaged at byte ${offset}`, 'write or copy it again');
}

/** The little-endian 32-bit number at a position. */
export function int32(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getInt32(at, true);
}
