/** Encoder features that wait to be written: one record batch of a feature file, filled row by row. */
import { createHash } from 'node:crypto';
import {
  Field,
  FixedSizeBinary,
  FixedSizeList,
  Float32,
  RecordBatch,
  Struct,
  makeData,
  type Schema,
} from 'apache-arrow';
import { CHECK_BYTES } from './featureIndex.js';

/** Bytes of an image's SHA-256. */
export const SHA_BYTES = 32;
/** A batch is written when it is as large as this: little is lost by a crash, and little memory waits for the disk. */
const BATCH_BYTES = 16 * 2 ** 20;
/** Or when it holds as many images as this: encoding that a crash may cost. */
const BATCH_ROWS = 256;

/** Features that wait to be written. Filled row by row, then left as it is. */
export class FeatureBatch {
  rows = 0;
  readonly capacity: number;
  private readonly images: Uint8Array;
  private readonly checks: Uint8Array;
  private readonly values: Float32Array;
  private readonly rowOf = new Map<string, number>();

  /** @param elements values of one image */
  constructor(private readonly elements: number) {
    this.capacity = rowsPerBatch(elements);
    this.images = new Uint8Array(this.capacity * SHA_BYTES);
    this.checks = new Uint8Array(this.capacity * CHECK_BYTES);
    this.values = new Float32Array(this.capacity * elements);
  }

  /** Takes no more rows. */
  get isFull(): boolean {
    return this.rows === this.capacity;
  }

  /** Bytes that the batch takes in a file, about. */
  get sizeBytes(): number {
    return this.rows * (SHA_BYTES + CHECK_BYTES + this.elements * Float32Array.BYTES_PER_ELEMENT) + 1024;
  }

  /** Adds one image's features, copied. */
  add(sha: Uint8Array, features: Float32Array): void {
    this.images.set(sha, this.rows * SHA_BYTES);
    this.checks.set(checkOf(sha, features), this.rows * CHECK_BYTES);
    this.values.set(features, this.rows * this.elements);
    this.rowOf.set(nameOf(sha), this.rows++);
  }

  /** @returns the caller's own copy; undefined if the image is not here */
  get(sha: Uint8Array): Float32Array | undefined {
    const row = this.rowOf.get(nameOf(sha));
    return row === undefined ? undefined : this.values.slice(row * this.elements, (row + 1) * this.elements);
  }

  /** True if the image is here. */
  has(sha: Uint8Array): boolean {
    return this.rowOf.has(nameOf(sha));
  }

  /** The images' hashes: views. */
  hashes(): Uint8Array[] {
    return Array.from({ length: this.rows }, (_, row) =>
      this.images.subarray(row * SHA_BYTES, (row + 1) * SHA_BYTES),
    );
  }

  /** The rows as Arrow's record batch, over the batch's own memory. */
  toArrow(schema: Schema): RecordBatch {
    const { rows, elements } = this;
    const values = this.values.subarray(0, rows * elements);
    const child = makeData({ type: new Float32(), length: values.length, nullCount: 0, data: values });
    const bytes = (all: Uint8Array, size: number) =>
      makeData({
        type: new FixedSizeBinary(size),
        length: rows,
        nullCount: 0,
        data: all.subarray(0, rows * size),
      });
    const columns = [
      bytes(this.images, SHA_BYTES),
      bytes(this.checks, CHECK_BYTES),
      makeData({ type: listType(elements), length: rows, nullCount: 0, child }),
    ];
    return new RecordBatch(
      schema,
      makeData({ type: new Struct(schema.fields), length: rows, children: columns }),
    );
  }
}

/** Start of the SHA-256 over the image's hash and the values: they belong together, and no bit has changed. */
export function checkOf(sha: Uint8Array, features: Float32Array): Uint8Array {
  const bytes = new Uint8Array(features.buffer, features.byteOffset, features.byteLength);
  return createHash('sha256').update(sha).update(bytes).digest().subarray(0, CHECK_BYTES);
}

/** Arrow's type of one image's features. */
export function listType(elements: number): FixedSizeList<Float32> {
  return new FixedSizeList(elements, new Field('value', new Float32(), false));
}

/** Images of one batch. */
function rowsPerBatch(elements: number): number {
  const fitting = Math.floor(BATCH_BYTES / (elements * Float32Array.BYTES_PER_ELEMENT));
  return Math.max(1, Math.min(BATCH_ROWS, fitting));
}

/** A hash as the key of a Map: one character a byte. */
function nameOf(sha: Uint8Array): string {
  return Buffer.from(sha.buffer, sha.byteOffset, sha.byteLength).toString('latin1');
}
