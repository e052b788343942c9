/** Pairs of Arrow files: what Hugging Face `datasets` caches and saves, and shards that were packed before. */

import { DataType, type RecordBatch, type Schema, type Vector } from 'apache-arrow';
import { UserError } from '../../errors.js';
import { fileError } from '../../files.js';
import { isOfDisk } from '../bytes/fileBytes.js';
import { readBatch } from '../arrow/arrowBatch.js';
import { imageKindOf, isText } from '../arrow/columns.js';
import { indexArrow, type ArrowIndex } from '../arrow/arrowFile.js';
import type { DictionarySource } from '../arrow/dictionaries.js';
import { BatchCache } from '../shards/batchCache.js';
import type { ColumnOptions } from './list.js';
import { rowItems, tableSource, type ColumnKind, type TableColumns } from './table.js';
import { problemAt, ready, type Source, type SourceItem } from './source.js';

/**
 * The pairs of Arrow files, in the order given. A batch that is damaged costs its rows, not the packing; a file whose
 * index is damaged is an error before anything is read.
 *
 * @throws UserError if a file cannot be read, is not whole, or lacks the columns of the first
 */
export async function arrowSource(paths: readonly string[], options: ColumnOptions = {}): Promise<Source> {
  const { dictionaries } = new BatchCache(); // read once for all batches of a file
  return tableSource('Arrow files', paths, options, async (path) => {
    const index = await indexArrow(path);
    const batches = [...index.batches.entries()].filter(([, { rows }]) => rows > 0);
    return {
      kinds: kindsOf(index.schema),
      partsOf: (columns) =>
        batches.map(([batch, { rows }]) => ({
          size: rows,
          items: () => itemsOf(index, batch, columns, dictionaries),
        })),
    };
  });
}

async function* itemsOf(
  index: ArrowIndex,
  batch: number,
  columns: TableColumns,
  dictionaries: DictionarySource,
): AsyncGenerator<SourceItem> {
  const { firstRow = 0, rows = 0 } = index.batches[batch] ?? {};
  const read = await orDamage(index.path, () => readBatch(index, batch, dictionaries));
  if (typeof read === 'string') {
    yield ready(rows, problemAt(index.path, 'a record batch is damaged', `${rows} rows from row ${firstRow}, ${read}`)); // prettier-ignore
    return;
  }
  const valueOf = valuesOf(read);
  for (let row = 0; row < rows; row++)
    yield* rowItems(index.path, firstRow + row, row + 1, (name) => valueOf(name, row), columns);
}

/** What was read, or what is wrong with the file. @throws what is the disk's fault */
async function orDamage<T>(path: string, read: () => Promise<T>): Promise<T | string> {
  try {
    return await read();
  } catch (error) {
    if (error instanceof UserError && !isOfDisk(error)) return error.message;
    throw fileError(path, error);
  }
}

function valuesOf(batch: RecordBatch): (name: string, row: number) => unknown {
  const columns = new Map(batch.schema.fields.map(({ name }) => [name, columnOf(batch, name)] as const));
  return (name, row) => columns.get(name)?.(row);
}

function columnOf(batch: RecordBatch, name: string): (row: number) => unknown {
  const vector: Vector | null = batch.getChild(name);
  const type = vector?.type as DataType | undefined; // Vector<any>
  if (vector === null) return () => null;
  if (DataType.isStruct(type)) {
    const [bytes, path] = [vector.getChild('bytes'), vector.getChild('path')] as (Vector | null)[];
    const valueAt = (row: number): unknown => ({
      bytes: bytes?.get(row) as unknown,
      path: path?.get(row) as unknown,
    });
    return (row) => (vector.isValid(row) ? valueAt(row) : null); // beneath a null bytes may lie, which are none of the row's
  }
  if (DataType.isList(type)) {
    return (row) => {
      const list = vector.get(row) as Vector | null;
      return list === null ? null : Array.from(list as Iterable<unknown>);
    };
  }
  return (row) => vector.get(row) as unknown;
}

function kindsOf(schema: Schema): Map<string, ColumnKind> {
  return new Map(schema.fields.map(({ name, type }) => [name, kindOf(type as DataType)])); // Schema<any>
}

function kindOf(type: DataType): ColumnKind {
  if (DataType.isDictionary(type)) return kindOf(type.dictionary as DataType); // DataType<any>
  const image = imageKindOf(type);
  if (image !== undefined) return image === 'binary' ? 'bytes' : 'struct';
  if (isText(type)) return 'text';
  if (DataType.isInt(type)) return 'number';
  if (DataType.isList(type)) return kindOf(type.valueType as DataType) === 'text' ? 'texts' : 'other';
  return 'other';
}
