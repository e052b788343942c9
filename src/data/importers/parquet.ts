/** Pairs of Parquet files with the images in them, as the Hugging Face hub has them; read by row groups or less. */

import { parquetMetadataAsync, parquetReadObjects, parquetSchema } from 'hyparquet';
import type { AsyncBuffer, FileMetaData, RowGroup, SchemaTree } from 'hyparquet';
import { compressors } from 'hyparquet-compressors';
import { stat } from 'node:fs/promises';
import { UserError } from '../../errors.js';
import { fileError } from '../../files.js';
import { fault, isOfDisk, readBytes, reasonOf, withHandle } from '../bytes/fileBytes.js';
import type { ColumnOptions } from './list.js';
import { hasImages, rowItems, tableSource, type ColumnKind, type TableColumns } from './table.js';
import { problemAt, ready, type Source, type SourceItem } from './source.js';

/** A Parquet file whose footer is read. */
interface Table {
  readonly path: string;
  readonly file: AsyncBuffer;
  readonly metadata: FileMetaData;
}

/** Rows of a file that are read at once. */
interface RowRange {
  readonly rowStart: number;
  readonly rowEnd: number;
}

const RANGE_BYTES = 64 * 2 ** 20; // what is read at once, where the file allows it
const MAX_GROUP_BYTES = 2 ** 31 - 1; // of a column in a row group without an index of its pages: it is read whole
const INTEGERS = new Set(['INT32', 'INT64']);

/**
 * The pairs of Parquet files, in the order given. Rows that are damaged are told of and left out; a file whose footer is
 * damaged is an error before anything is read.
 *
 * @param rangeBytes images that are read at once, where a file's index lets a part of a row group be read
 * @throws UserError if a file cannot be read, is not whole, lacks the columns of a pair or has too large row groups
 */
export async function parquetSource(
  paths: readonly string[],
  options: ColumnOptions = {},
  rangeBytes = RANGE_BYTES,
): Promise<Source> {
  return tableSource('Parquet files', paths, options, async (path) => {
    const table = await openTable(path);
    return {
      kinds: kindsOf(table.metadata),
      partsOf: (columns) =>
        rowRanges(table, columns, rangeBytes).map((range) => ({
          size: range.rowEnd - range.rowStart,
          items: () => itemsOf(table, range, columns),
        })),
    };
  });
}

/** Whether a Parquet file has a column of images; img2dataset leaves some beside its images that have none. */
export async function parquetHasImages(path: string, options: ColumnOptions = {}): Promise<boolean> {
  const { metadata } = await openTable(path);
  return hasImages(kindsOf(metadata), options);
}

async function openTable(path: string): Promise<Table> {
  const { size } = await stat(path).catch((cause: unknown) => {
    throw fileError(path, cause);
  });
  if (size < 12) throw fault(path, `not a Parquet file, it has ${size} bytes`, 'write or copy it again');
  const file = {
    byteLength: size,
    slice: (start: number, end = size) => sliceOf(path, start, end),
  };
  try {
    return { path, file, metadata: await parquetMetadataAsync(file) };
  } catch (cause) {
    if (isOfDisk(cause)) throw fileError(path, cause);
    throw fault(path, `not a whole Parquet file, ${reasonOf(cause)}`, 'write or copy it again', cause);
  }
}

async function sliceOf(path: string, start: number, end: number): Promise<ArrayBuffer> {
  const bytes = await withHandle(path, (handle) => readBytes(handle, path, start, end - start));
  return bytes.buffer as ArrayBuffer; // all of it: readBytes makes one for these bytes alone
}

/** Row groups, or smaller ranges where the file has an index by which they can be read alone. */
function rowRanges({ path, metadata }: Table, columns: TableColumns, rangeBytes: number): RowRange[] {
  const ranges: RowRange[] = [];
  let start = 0;
  for (const group of metadata.row_groups) {
    const rows = Number(group.num_rows);
    const { bytes, isIndexed } = imageChunks(group, columns.image);
    if (!isIndexed && bytes > MAX_GROUP_BYTES)
      throw new UserError(
        `pack: a row group must have at most ${MAX_GROUP_BYTES} bytes of images, got ${bytes} in ${path} (write it again with fewer rows a group, or with a page index)`,
      );
    const step = isIndexed ? Math.max(1, Math.floor((rows * rangeBytes) / Math.max(bytes, rangeBytes))) : rows; // prettier-ignore
    for (let at = 0; at < rows; at += step)
      ranges.push({ rowStart: start + at, rowEnd: start + Math.min(at + step, rows) });
    start += rows;
  }
  return ranges;
}

/** Size of the images in a row group, and whether its pages can be found. */
function imageChunks(group: RowGroup, image: string): { bytes: number; isIndexed: boolean } {
  const chunks = group.columns.filter(({ meta_data: meta }) => meta?.path_in_schema[0] === image);
  const bytes = chunks.reduce((sum, { meta_data: meta }) => sum + Number(meta?.total_uncompressed_size ?? 0), 0); // prettier-ignore
  return { bytes, isIndexed: group.columns.every((chunk) => Boolean(chunk.offset_index_length)) };
}

async function* itemsOf(table: Table, range: RowRange, columns: TableColumns): AsyncGenerator<SourceItem> {
  const { path } = table;
  const { rowStart, rowEnd } = range;
  const rows = await readRows(table, range, columns);
  if (typeof rows === 'string') {
    const detail = `${rowEnd - rowStart} rows from row ${rowStart}, ${rows}`;
    yield ready(rowEnd - rowStart, problemAt(path, 'a row group is damaged', detail));
    return;
  }
  for (const [i, row] of rows.entries())
    yield* rowItems(path, rowStart + i, i + 1, (name) => row[name], columns);
}

/** The rows, or what is wrong with them. @throws what is the disk's fault */
async function readRows(
  { path, file, metadata }: Table,
  { rowStart, rowEnd }: RowRange,
  { id, image, caption, source, extra }: TableColumns,
): Promise<Record<string, unknown>[] | string> {
  const columns = [id, image, caption, source, ...extra].filter((name) => name !== undefined);
  try {
    const rows = await parquetReadObjects({
      file,
      metadata,
      columns,
      rowStart,
      rowEnd,
      compressors,
      utf8: false, // or images become texts, and lose bytes
      useOffsetIndex: true,
    });
    return rows.length === rowEnd - rowStart ? rows : `${rows.length} rows there`;
  } catch (cause) {
    if (isOfDisk(cause)) throw fileError(path, cause);
    return reasonOf(cause);
  }
}

function kindsOf(metadata: FileMetaData): Map<string, ColumnKind> {
  return new Map(parquetSchema(metadata).children.map((child) => [child.element.name, kindOf(child)]));
}

function kindOf({ element, children }: SchemaTree): ColumnKind {
  const { type, converted_type: converted, logical_type: logical } = element;
  if (element.repetition_type === 'REPEATED') return 'other';
  if (children.length > 0 && (converted === 'LIST' || logical?.type === 'LIST')) {
    const leaf = children[0]?.children[0];
    return leaf && kindOf(leaf) === 'text' ? 'texts' : 'other';
  }
  if (children.length > 0)
    return children.some((child) => child.element.name === 'bytes' && kindOf(child) === 'bytes') ? 'struct' : 'other'; // prettier-ignore
  if (type === 'BYTE_ARRAY') return converted === 'UTF8' || logical?.type === 'STRING' ? 'text' : converted === undefined && logical === undefined ? 'bytes' : 'other'; // prettier-ignore
  return type !== undefined && INTEGERS.has(type) && (logical === undefined || logical.type === 'INTEGER') ? 'number' : 'other'; // prettier-ignore
}
