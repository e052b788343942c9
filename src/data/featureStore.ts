/**
 * The frozen encoder's features on disk, found by the hash of the image's bytes: each image is encoded once.
 * `features-<key>-000.arrow`, …: uncompressed Arrow files, written whole, one a flush; values are read back bit for bit.
 * Only the positions are held in memory. A damaged file or value is no error: it is named in `warnings` and encoded again.
 */

import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Field, FixedSizeList, Float32, Schema, Utf8, makeData, type Data } from 'apache-arrow';
import { fileError, writeWhole } from '../files.js';
import { UserError } from '../errors.js';
import { bufferRanges, indexArrow, type ArrowIndex } from './arrowFile.js';
import { ArrowFileWriter, textColumn } from './arrowWriter.js';
import { readBytes, reasonOf, withHandle, type ByteRange } from './fileBytes.js';

/** What a store's features are of. */
export interface FeatureStoreOptions {
  /** Hash of all that decides the features: encoder weights, image transform, layer and pooling, dtype. Names the files. */
  readonly key: string;
  /** Tokens and width of one image's features. */
  readonly shape: readonly [Q: number, C: number];
}

/** Where one image's features lie. */
interface Place {
  readonly path: string;
  readonly file: number;
  readonly position: number;
  /** Start of the SHA-256 of the value's bytes. */
  readonly check: string;
}

const CHECK_DIGITS = 16; // 64 bits: enough against decay, not meant against forgery
const BATCH_BYTES = 16 * 2 ** 20;

/** Features on disk by image hash. */
export class FeatureStore {
  /** What was found damaged, in words; such features are encoded again. */
  readonly warnings: string[] = [];
  private readonly places = new Map<string, Place>();
  private readonly pending = new Map<string, Float32Array>();
  private readonly files: number[] = [];
  private nextFile = 0;

  private constructor(
    private readonly folder: string,
    private readonly key: string,
    private readonly shape: readonly [Q: number, C: number],
  ) {}

  /**
   * Opens the store of one key; the folder is made if it is missing, files of other keys are left alone.
   *
   * @throws UserError if the folder cannot be made or read
   */
  static async open(folder: string, { key, shape }: FeatureStoreOptions): Promise<FeatureStore> {
    if (!/^[\w.-]+$/.test(key))
      throw new Error(`FeatureStore: key must be fit for a file name, got ${JSON.stringify(key)}`);
    const store = new FeatureStore(folder, key, shape);
    const names = await mkdir(folder, { recursive: true })
      .then(() => readdir(folder))
      .catch((cause: unknown) => {
        throw fileError(folder, cause);
      });
    for (const name of names.sort()) {
      const number = fileNumber(name, key);
      if (number === undefined) continue;
      store.nextFile = Math.max(store.nextFile, number + 1);
      await store.addFile(join(folder, name));
    }
    return store;
  }

  /** Images whose features are here, those not flushed yet included. */
  get size(): number {
    return this.places.size + this.pending.size;
  }

  /** True if `get` would find features. */
  has(imageSha256: string): boolean {
    return this.pending.has(imageSha256) || this.places.has(imageSha256);
  }

  /**
   * The features of an image by the SHA-256 of its bytes.
   *
   * @returns float32[Q, C], the caller's own; undefined if they are not here, or were found damaged just now
   */
  get(imageSha256: string): Float32Array | undefined {
    const pending = this.pending.get(imageSha256);
    if (pending !== undefined) return pending.slice();
    const place = this.places.get(imageSha256);
    if (place === undefined) return undefined;
    const features = new Float32Array(this.elements);
    const bytes = new Uint8Array(features.buffer);
    if (
      readSync(place.file, bytes, 0, bytes.length, place.position) === bytes.length &&
      checkOf(bytes) === place.check
    ) {
      return features;
    }
    this.places.delete(imageSha256);
    this.warnings.push(
      `features: a value is damaged and is computed again: image ${imageSha256} in ${place.path}`,
    );
    return undefined;
  }

  /** Keeps the features of an image, copied; they are on disk after `flush`. */
  put(imageSha256: string, features: Float32Array): void {
    if (features.length !== this.elements) {
      throw new Error(
        `FeatureStore.put: features must be [${this.shape.join(', ')}], got ${features.length} values`,
      );
    }
    this.pending.set(imageSha256, features.slice());
  }

  /**
   * Writes what was put since the last flush as one more file, whole.
   *
   * @throws UserError if there is no space or permission; the features stay in memory then
   */
  async flush(): Promise<void> {
    if (this.pending.size === 0) return;
    const path = join(this.folder, `features-${this.key}-${String(this.nextFile).padStart(3, '0')}.arrow`);
    const written = [...this.pending];
    await writeWhole(path, (handle) =>
      writeFeatures(new ArrowFileWriter(handle, schemaOf(this.key, this.shape)), written, this.elements),
    );
    this.nextFile += 1;
    for (const [sha] of written) this.pending.delete(sha);
    await this.addFile(path);
  }

  /** Closes the files; features that were not flushed are lost. */
  close(): void {
    for (const file of this.files.splice(0)) closeSync(file);
    this.places.clear();
    this.pending.clear();
  }

  private get elements(): number {
    return this.shape[0] * this.shape[1];
  }

  private async addFile(path: string): Promise<void> {
    try {
      const index = await indexArrow(path);
      checkSchema(index, this.key, this.shape);
      const file = openSync(path, 'r');
      this.files.push(file);
      for (const [sha, position, check] of await placesOf(index, this.elements))
        this.places.set(sha, { path, file, position, check });
    } catch (cause) {
      this.warnings.push(
        `features: a file is damaged and its features are computed again: ${path}: ${reasonOf(cause)}`,
      );
    }
  }
}

function fileNumber(name: string, key: string): number | undefined {
  const prefix = `features-${key}-`;
  const digits = name.startsWith(prefix) ? /^(\d+)\.arrow$/.exec(name.slice(prefix.length))?.[1] : undefined;
  return digits === undefined ? undefined : Number(digits);
}

function schemaOf(key: string, shape: readonly [Q: number, C: number]): Schema {
  const features = featureType(shape[0] * shape[1]);
  const fields = [
    new Field('image', new Utf8(), false),
    new Field('check', new Utf8(), false),
    new Field('features', features, false),
  ];
  return new Schema(fields, new Map(Object.entries({ key, shape: shape.join(',') })));
}

function checkSchema(
  { schema, path }: ArrowIndex,
  key: string,
  shape: readonly [Q: number, C: number],
): void {
  const expected = schemaOf(key, shape);
  const same =
    schema.fields.map(String).join() === expected.fields.map(String).join() &&
    [...expected.metadata].every(([name, value]) => schema.metadata.get(name) === value);
  if (!same)
    throw new UserError(
      `features: the file must hold [${shape.join(', ')}] of ${key}, got ${String(schema)} in ${path}`,
    );
}

/**
 * Finds [image hash, byte position of the values, check] of every row, without reading the values.
 * The columns' buffers in order: image validity, offsets, text; check validity, offsets, text; …, values.
 */
async function placesOf(index: ArrowIndex, elements: number): Promise<[string, number, string][]> {
  const places: [string, number, string][] = [];
  const bytesPerRow = elements * Float32Array.BYTES_PER_ELEMENT;
  for (const [i, { rows }] of index.batches.entries()) {
    const buffers = await bufferRanges(index, i);
    const [, imageOffsets, imageText, , checkOffsets, checkText] = buffers;
    const values = buffers.at(-1);
    if (values === undefined || values.length < rows * bytesPerRow)
      throw new Error('a record batch is cut short');
    const images = await readTexts(index.path, imageOffsets, imageText, rows);
    const checks = await readTexts(index.path, checkOffsets, checkText, rows);
    for (const [row, image] of images.entries())
      places.push([image, values.offset + row * bytesPerRow, checks[row] ?? '']);
  }
  return places;
}

async function readTexts(path: string, offsets?: ByteRange, text?: ByteRange, rows = 0): Promise<string[]> {
  if (offsets === undefined || text === undefined) throw new Error('a record batch has too few columns');
  return withHandle(path, async (handle) => {
    const ends = new Int32Array((await readBytes(handle, path, offsets.offset, (rows + 1) * 4)).buffer);
    const bytes = Buffer.from(await readBytes(handle, path, text.offset, text.length));
    return Array.from({ length: rows }, (_, row) => bytes.toString('utf8', ends[row], ends[row + 1]));
  });
}

/** Writes the entries in batches of a few MB, so that memory holds no second copy of them all. */
async function writeFeatures(
  writer: ArrowFileWriter,
  entries: readonly [string, Float32Array][],
  elements: number,
): Promise<void> {
  const rowsPerBatch = Math.max(
    1,
    Math.min(256, Math.floor(BATCH_BYTES / (elements * Float32Array.BYTES_PER_ELEMENT))),
  );
  for (let start = 0; start < entries.length; start += rowsPerBatch) {
    const batch = entries.slice(start, start + rowsPerBatch);
    const images = textColumn(batch.map(([sha]) => sha));
    const checks = textColumn(batch.map(([, features]) => checkOf(bytesOf(features))));
    await writer.write(batch.length, [
      images,
      checks,
      featureColumn(
        batch.map(([, features]) => features),
        elements,
      ),
    ]);
  }
  await writer.finish();
}

function featureColumn(features: readonly Float32Array[], elements: number): Data {
  const values = new Float32Array(features.length * elements);
  for (const [row, value] of features.entries()) values.set(value, row * elements);
  const child = makeData({ type: new Float32(), length: values.length, nullCount: 0, data: values });
  return makeData({ type: featureType(elements), length: features.length, nullCount: 0, child });
}

function featureType(elements: number): FixedSizeList<Float32> {
  return new FixedSizeList(elements, new Field('value', new Float32(), false));
}

function bytesOf(features: Float32Array): Uint8Array {
  return new Uint8Array(features.buffer, features.byteOffset, features.byteLength);
}

function checkOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex').slice(0, CHECK_DIGITS);
}
