/** Which buffers of an uncompressed record batch a pair needs: all of its texts, and where the images lie, not their bytes. */

import { DataType, type Schema } from 'apache-arrow';
import type { PairColumns } from './columns.js';

/** Which of a batch's buffers hold what, by their numbers in the order of the columns. */
export interface BufferPlan {
  /** Those that are read with the batch. */
  readonly kept: ReadonlySet<number>;
  /** The one with the images' bytes. */
  readonly images: number;
}

/**
 * Numbers the buffers of a schema.
 *
 * @returns undefined if a column is laid out in a way that is not known here; such batches are read whole
 */
export function planBuffers(schema: Schema, columns: PairColumns): BufferPlan | undefined {
  const used = new Set([columns.id, columns.caption, columns.source, ...columns.extra]);
  const kept = new Set<number>();
  let next = 0;
  let images: number | undefined;
  for (const { name, type } of schema.fields) {
    const parts = buffersOf(type as DataType); // Schema<any>
    if (parts === undefined) return undefined;
    const own = name === columns.image ? imageBuffers(type as DataType) : undefined;
    if (name === columns.image && own === undefined) return undefined;
    for (let i = 0; i < parts; i++) {
      if (used.has(name) || own?.kept.includes(i) === true) kept.add(next + i);
    }
    if (own !== undefined) images ??= next + own.images; // of two columns of one name, the first
    next += parts;
  }
  return images === undefined ? undefined : { kept, images };
}

/** Of the buffers of an image column: validity and offsets, and the one with the bytes. */
function imageBuffers(type: DataType): { kept: readonly number[]; images: number } | undefined {
  if (DataType.isBinary(type) || DataType.isLargeBinary(type)) return { kept: [0, 1], images: 2 };
  if (!DataType.isStruct(type)) return undefined;
  let next = 1; // after the struct's validity
  for (const child of type.children as readonly { name: string; type: DataType }[]) {
    const parts = buffersOf(child.type);
    if (parts === undefined) return undefined;
    if (child.name === 'bytes') {
      const own = imageBuffers(child.type);
      return own && { kept: [0, ...own.kept.map((i) => next + i)], images: next + own.images };
    }
    next += parts;
  }
  return undefined;
}

/**
 * How many buffers a column of a type has in a record batch; undefined for unions, views and what is newer.
 * Source: apache/arrow, docs/source/format/Columnar.rst, "Buffer Listing for Each Layout".
 */
function buffersOf(type: DataType): number | undefined {
  if (DataType.isDictionary(type)) return 2; // validity, indices
  if (DataType.isNull(type)) return 0;
  if (isTextOrBytes(type)) return 3;
  if (DataType.isStruct(type) || DataType.isFixedSizeList(type)) return sumOf(1, type.children);
  if (DataType.isList(type) || DataType.isLargeList(type) || DataType.isMap(type))
    return sumOf(2, type.children);
  return isFixedWidth(type) ? 2 : undefined;
}

function sumOf(own: number, children: readonly { type: DataType }[]): number | undefined {
  let total = own;
  for (const { type } of children) {
    const parts = buffersOf(type);
    if (parts === undefined) return undefined;
    total += parts;
  }
  return total;
}

function isTextOrBytes(type: DataType): boolean {
  return (
    DataType.isUtf8(type) ||
    DataType.isLargeUtf8(type) ||
    DataType.isBinary(type) ||
    DataType.isLargeBinary(type)
  );
}

function isFixedWidth(type: DataType): boolean {
  return [
    DataType.isBool(type),
    DataType.isInt(type),
    DataType.isFloat(type),
    DataType.isDecimal(type),
    DataType.isDate(type),
    DataType.isTime(type),
    DataType.isTimestamp(type),
    DataType.isInterval(type),
    DataType.isDuration(type),
    DataType.isFixedSizeBinary(type),
  ].some(Boolean);
}
