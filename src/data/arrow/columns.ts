/** Which Arrow columns of a shard hold a pair's id, image, caption and the rest, and how one row of them is read. */

import { DataType, type RecordBatch, type Schema, type Vector } from 'apache-arrow';
import { fault } from '../bytes/fileBytes.js';
import type { ImageTextPair } from '../pairs.js';

/** The columns in use, by name. */
export interface PairColumns {
  /** Absent: rows are numbered. */
  readonly id: string | undefined;
  readonly image: string;
  /** `struct`: Hugging Face's `struct<bytes, path>`. */
  readonly imageKind: 'binary' | 'struct';
  readonly caption: string;
  readonly source: string | undefined;
  /** Every further text column. */
  readonly extra: readonly string[];
}

/** Reads row `row` of a batch; the image bytes are copied out of the batch's buffer. */
export type RowReader = (row: number, numberedId: string) => ImageTextPair;

const CAPTION_NAMES = ['caption', 'text'];

/**
 * Finds the pair's columns in a schema.
 *
 * @param path the file, for the error's text
 * @throws UserError if `image` or `caption` (or `text`) is missing or of another type
 */
export function findColumns(schema: Schema, path: string): PairColumns {
  const types = new Map<string, DataType>(schema.fields.map((field) => [field.name, field.type as DataType])); // Schema<any>
  const names = [...types.keys()].join(', ');
  const image = types.get('image');
  if (image === undefined)
    throw fault(path, `column "image" is missing, got ${names}`, 'pack the data again');
  const imageKind = imageKindOf(image);
  if (imageKind === undefined) {
    throw fault(
      path,
      `column "image" must be Binary or Struct<bytes: Binary>, got ${nameOf(image)}`,
      'store encoded image bytes',
    );
  }
  const caption = CAPTION_NAMES.find((name) => types.has(name));
  if (caption === undefined)
    throw fault(path, `column "caption" (or "text") is missing, got ${names}`, 'pack the data again');
  const captionType = types.get(caption);
  if (!isText(captionType))
    throw fault(
      path,
      `column "${caption}" must be Utf8, got ${nameOf(captionType)}`,
      'store captions as text',
    );
  const id = types.has('id') ? 'id' : undefined;
  const source = isText(types.get('source')) ? 'source' : undefined;
  const used = new Set<string | undefined>([id, 'image', caption, source]);
  const extra = [...types.keys()].filter((name) => !used.has(name) && isText(types.get(name)));
  return { id, image: 'image', imageKind, caption, source, extra };
}

/** Binds the columns of one batch; call the result once a row. */
export function rowReader(batch: RecordBatch, columns: PairColumns): RowReader {
  const id = child(batch, columns.id);
  const images = imageColumn(batch, columns);
  const captions = child(batch, columns.caption);
  const sources = child(batch, columns.source);
  const extras = columns.extra.map((name) => [name, child(batch, name)] as const);
  return (row, numberedId) => {
    const source = textAt(sources, row);
    return {
      id: textAt(id, row) ?? numberedId,
      image: images.isThere(row) ? bytesAt(images.bytes, row) : new Uint8Array(0),
      caption: textAt(captions, row) ?? '',
      ...(source === undefined ? {} : { source }),
      extra: Object.fromEntries(
        extras.flatMap(([name, vector]) => {
          const text = textAt(vector, row);
          return text === undefined ? [] : [[name, text]];
        }),
      ),
    };
  };
}

/** The encoded images of a batch. */
export interface ImageColumn {
  readonly bytes: Vector | null;
  /** False of a null: beneath a struct that is null bytes may lie, which are none of the row's. */
  isThere(row: number): boolean;
}

/** Binds the column of the images of one batch. */
export function imageColumn(batch: RecordBatch, { image, imageKind }: PairColumns): ImageColumn {
  const column = child(batch, image);
  const bytes = imageKind === 'struct' ? (column?.getChild('bytes') ?? null) : column;
  return { bytes, isThere: (row) => column?.isValid(row) === true && bytes?.isValid(row) === true };
}

/** How a column of a type may hold encoded images; undefined if it does not. */
export function imageKindOf(type: DataType): 'binary' | 'struct' | undefined {
  if (isBytes(type)) return 'binary';
  if (!DataType.isStruct(type)) return undefined;
  const bytes = type.children.find((field) => field.name === 'bytes');
  return bytes !== undefined && isBytes(bytes.type) ? 'struct' : undefined;
}

function isBytes(type: unknown): boolean {
  return DataType.isBinary(type) || DataType.isLargeBinary(type) || DataType.isBinaryView(type);
}

/** Whether a column of a type holds texts, by a dictionary or not. */
export function isText(type: unknown): boolean {
  if (DataType.isDictionary(type)) return isText(type.dictionary);
  return DataType.isUtf8(type) || DataType.isLargeUtf8(type) || DataType.isUtf8View(type);
}

function nameOf(type: DataType | undefined): string {
  return type?.[Symbol.toStringTag] ?? 'nothing';
}

function child(batch: RecordBatch, name: string | undefined): Vector | null {
  return name === undefined ? null : batch.getChild(name);
}

function textAt(vector: Vector | null, row: number): string | undefined {
  const value: unknown = vector?.get(row);
  if (typeof value === 'string') return value;
  return typeof value === 'number' || typeof value === 'bigint' ? String(value) : undefined; // an id may be a number
}

function bytesAt(vector: Vector | null, row: number): Uint8Array {
  const value: unknown = vector?.get(row);
  return value instanceof Uint8Array ? value.slice() : new Uint8Array(0);
}
