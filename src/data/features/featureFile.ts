/**
 * Files of encoder features: uncompressed Arrow in the stream format, columns `image` (SHA-256 of its bytes), `check`
 * and `features`. A stream grows at its end, one record batch at a time: what a crash cuts off is the last batch, and a
 * process that reads the file meanwhile finds the batches that are whole.
 */
import { readSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import {
  AsyncByteQueue,
  Field,
  FixedSizeBinary,
  Message,
  RecordBatchStreamWriter,
  Schema,
  type MessageHeader,
} from 'apache-arrow';
import { listType, SHA_BYTES, type FeatureBatch } from './featureBatch.js';
import { CHECK_BYTES } from './featureIndex.js';
import type { ByteRange } from '../bytes/fileBytes.js';
import { checkMessage } from '../arrow/flatbuffer.js';

/** What the features of a file are of. */
export interface FeatureKind {
  /** Hash of all that decides the features besides the image's bytes. */
  readonly key: string;
  /** Tokens and width of one image's features. */
  readonly shape: readonly [Q: number, C: number];
}

/** Columns' buffers in a record batch, in their order: validity and data of `image` and `check`, validity of the list, … */
const BUFFERS = { images: 1, checks: 3, values: 6, count: 7 } as const;
const PREFIX_BYTES = 8; // continuation mark and length of the metadata
const MOST_METADATA_BYTES = 2 ** 16;

/** Appends batches to a file that is open for writing and empty at first. */
export class FeatureFileWriter {
  private readonly sink = new ChunkSink();
  private readonly writer = new RecordBatchStreamWriter();
  private readonly schema: Schema;

  constructor(
    private readonly handle: FileHandle,
    kind: FeatureKind,
  ) {
    this.schema = schemaOf(kind);
    this.writer.reset(this.sink);
  }

  /** Appends a batch. Not synced: what a power cut takes is encoded again, and `check` tells what it spoilt. */
  async append(batch: FeatureBatch): Promise<void> {
    this.writer.write(batch.toArrow(this.schema));
    const chunks = this.sink.chunks.splice(0);
    const { bytesWritten } = await this.handle.writev(chunks); // continues at the end
    const total = chunks.reduce((sum, { length }) => sum + length, 0);
    // A write may be short, as on a disk that is nearly full: the rest then says why
    if (bytesWritten < total) await this.handle.writeFile(Buffer.concat(chunks).subarray(bytesWritten));
  }
}

/** What one batch of a file holds, without the values. */
export interface StoredBatch {
  readonly rows: number;
  /** SHA-256 of the images, `SHA_BYTES` a row. */
  readonly images: Uint8Array;
  /** `CHECK_BYTES` a row. */
  readonly checks: Uint8Array;
  /** Byte position in the file of the first row's values; the others follow. */
  readonly position: number;
  /** Byte at which the batch ends. */
  readonly end: number;
}

/**
 * Reads where the features lie in a part of a file, as far as whole messages go.
 *
 * @param range.from byte 0, or `end` of the last batch of an earlier reading
 * @param range.to bytes that the file has by now
 * @param use called with each record batch
 * @throws Error if the file is damaged or of another kind; `use` was given the batches before that
 */
export function readFeatureFile(
  file: number,
  { from, to }: { readonly from: number; readonly to: number },
  kind: FeatureKind,
  use: (batch: StoredBatch) => void,
): void {
  let at = from;
  for (let found = readMessage(file, at, to); found; found = readMessage(file, at, to)) {
    const { message, body, end } = found;
    if (message.isSchema() && at === 0) checkSchema(message.header(), kind);
    else if (message.isRecordBatch() && at > 0)
      use(readStored(file, message.header(), { offset: body, length: end - body }, kind));
    else throw new Error(`a message of another kind at byte ${at}`);
    at = end;
  }
}

/** The message at `at`; undefined if the file ends within it, as it does while it is written or after a crash. */
function readMessage(
  file: number,
  at: number,
  sizeBytes: number,
): { readonly message: Message; readonly body: number; readonly end: number } | undefined {
  if (at + PREFIX_BYTES > sizeBytes) return undefined;
  const prefix = readAt(file, at, PREFIX_BYTES);
  const length = prefix.readInt32LE(4);
  if (prefix.readInt32LE(0) !== -1 || length <= 0 || length > MOST_METADATA_BYTES)
    throw new Error(`no Arrow message at byte ${at}`);
  const body = at + PREFIX_BYTES + length;
  if (body > sizeBytes) return undefined;
  const metadata = readAt(file, at + PREFIX_BYTES, length);
  checkMessage(metadata);
  const message: Message = Message.decode(metadata);
  if (!(message.bodyLength >= 0)) throw new Error(`a message of ${message.bodyLength} bytes at byte ${at}`);
  const end = body + message.bodyLength;
  return end > sizeBytes ? undefined : { message, body, end };
}

function readStored(
  file: number,
  { length: rows, buffers }: ReturnType<Message<MessageHeader.RecordBatch>['header']>,
  body: ByteRange,
  { shape: [Q, C] }: FeatureKind,
): StoredBatch {
  const position = (buffer: number, bytesPerRow: number): number => {
    const { offset = NaN, length = NaN } = buffers[buffer] ?? {};
    const fits = offset >= 0 && length >= rows * bytesPerRow && offset + length <= body.length;
    if (buffers.length !== BUFFERS.count || !fits)
      throw new Error(`a record batch at byte ${body.offset} does not fit`);
    return body.offset + offset;
  };
  return {
    rows,
    images: readAt(file, position(BUFFERS.images, SHA_BYTES), rows * SHA_BYTES),
    checks: readAt(file, position(BUFFERS.checks, CHECK_BYTES), rows * CHECK_BYTES),
    position: position(BUFFERS.values, Q * C * Float32Array.BYTES_PER_ELEMENT),
    end: body.offset + body.length,
  };
}

function readAt(file: number, position: number, length: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  let done = 0;
  while (done < length) {
    const read = readSync(file, bytes, done, length - done, position + done);
    if (read === 0) throw new Error(`the file was cut at byte ${position + done}`);
    done += read;
  }
  return bytes;
}

function schemaOf({ key, shape }: FeatureKind): Schema {
  const fields = [
    new Field('image', new FixedSizeBinary(SHA_BYTES), false),
    new Field('check', new FixedSizeBinary(CHECK_BYTES), false),
    new Field('features', listType(shape[0] * shape[1]), false),
  ];
  return new Schema(fields, new Map(Object.entries({ key, shape: shape.join(',') })));
}

function checkSchema(schema: Schema, kind: FeatureKind): void {
  const expected = schemaOf(kind);
  const same =
    schema.fields.map(String).join() === expected.fields.map(String).join() &&
    [...expected.metadata].every(([name, value]) => schema.metadata.get(name) === value);
  if (!same) throw new Error(`must hold [${kind.shape.join(', ')}] of ${kind.key}, got ${String(schema)}`);
}

/** Collects what apache-arrow writes: views of the batch's own memory, nothing is copied. */
class ChunkSink extends AsyncByteQueue {
  readonly chunks: Uint8Array[] = [];

  override write(chunk: Uint8Array): void {
    this.chunks.push(chunk);
  }
}
