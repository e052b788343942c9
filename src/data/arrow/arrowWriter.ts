/** Writing one uncompressed Arrow file batch by batch, and columns from plain values. */

import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import {
  AsyncByteQueue,
  Binary,
  RecordBatch,
  RecordBatchFileWriter,
  Struct,
  Utf8,
  makeData,
  type Data,
  type Schema,
} from 'apache-arrow';

/** An Arrow file being written to a handle: each batch goes out, and into the hash, as it comes. */
export class ArrowFileWriter {
  private readonly sink = new ChunkSink();
  private readonly writer = new RecordBatchFileWriter();
  private readonly hash = createHash('sha256');
  private rows = 0;
  private bytes = 0;

  constructor(
    private readonly handle: FileHandle,
    private readonly schema: Schema,
  ) {
    this.writer.reset(this.sink);
  }

  /** Writes one record batch, a column of `rows` values for each field of the schema. */
  async write(rows: number, columns: Data[]): Promise<void> {
    const struct = makeData({ type: new Struct(this.schema.fields), length: rows, children: columns });
    this.writer.write(new RecordBatch(this.schema, struct));
    this.rows += rows;
    await this.drain();
  }

  /** Writes the footer; what was written in all. */
  async finish(): Promise<{ rows: number; bytes: number; sha256: string }> {
    this.writer.finish();
    await this.drain();
    return { rows: this.rows, bytes: this.bytes, sha256: this.hash.digest('hex') };
  }

  private async drain(): Promise<void> {
    const bytes = Buffer.concat(this.sink.chunks.splice(0));
    this.hash.update(bytes);
    this.bytes += bytes.length;
    await this.handle.writeFile(bytes); // continues at the handle's position
  }
}

/** A text column; undefined becomes null. */
export function textColumn(texts: readonly (string | undefined)[]): Data<Utf8> {
  const { valueOffsets, data } = joinValues(texts.map((text) => Buffer.from(text ?? '', 'utf8')));
  const nullCount = texts.filter((text) => text === undefined).length;
  const validity = nullCount === 0 ? {} : { nullBitmap: presenceBits(texts) };
  return makeData({ type: new Utf8(), length: texts.length, nullCount, valueOffsets, data, ...validity });
}

/** A column of byte strings. */
export function binaryColumn(values: readonly Uint8Array[]): Data<Binary> {
  return makeData({ type: new Binary(), length: values.length, nullCount: 0, ...joinValues(values) });
}

/** Collects what apache-arrow writes, so that it can be put on disk batch by batch. */
class ChunkSink extends AsyncByteQueue {
  readonly chunks: Uint8Array[] = [];

  override write(chunk: Uint8Array): void {
    this.chunks.push(chunk);
  }
}

function joinValues(values: readonly Uint8Array[]): { valueOffsets: Int32Array; data: Uint8Array } {
  const valueOffsets = new Int32Array(values.length + 1);
  for (const [i, value] of values.entries()) valueOffsets[i + 1] = (valueOffsets[i] ?? 0) + value.length;
  return { valueOffsets, data: Buffer.concat(values) };
}

/** Bit i, from the lowest, is 1 where value i is there. */
function presenceBits(values: readonly unknown[]): Uint8Array {
  const bits = new Uint8Array(Math.ceil(values.length / 8));
  for (const [i, value] of values.entries())
    if (value !== undefined) bits[i >> 3] = (bits[i >> 3] ?? 0) | (1 << (i & 7));
  return bits;
}
