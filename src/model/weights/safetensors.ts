/**
 * safetensors files: a length, a JSON table of contents, then the tensors' bytes. Read by range, written as a stream.
 * Format: huggingface/safetensors, README "Format" and safetensors/src/tensor.rs (limits and order of the tensors).
 */
import type { FileHandle } from 'node:fs/promises';

import { UserError } from '../../errors.js';
import { writeWhole } from '../../files.js';
import type { DType } from '../../tensorflow/dtypes.js';
import { weightSource, type TensorInfo, type WeightSource } from './weights.js';
import { RangeFile, requireDisjoint, tensorBytes, type StoredTensor } from './weightsFile.js';

/** A tensor to write; `read` is called once, when its turn comes, so that one tensor at a time is in memory. */
export interface SafetensorsEntry extends TensorInfo {
  /** Little-endian bytes, as many as dtype and shape say. */
  read(): Promise<Uint8Array> | Uint8Array;
}

/** Options of `writeSafetensors`. */
export interface SafetensorsOptions {
  /** Each piece of the file once it is written, in the file's order: for a hash of the whole. */
  readonly onBytes?: (bytes: Uint8Array) => void;
}

/** Longest table of contents, as the official reader has it. */
const MAX_HEADER_BYTES = 100_000_000;

/** Our dtypes by their names in the file, in the official writer's order: by descending alignment. */
const FILE_DTYPES: Readonly<Record<string, DType>> = {
  I64: 'int64',
  F32: 'float32',
  I32: 'int32',
  BF16: 'bfloat16',
  F16: 'float16',
  I8: 'int8',
  U8: 'uint8',
  BOOL: 'bool',
};
const FILE_DTYPE_ORDER = Object.keys(FILE_DTYPES);

/**
 * Opens a safetensors file; only its table of contents is read.
 *
 * @throws UserError naming the file and its fault: truncated, no JSON, unknown dtype, offsets that lie outside the
 * file, overlap, leave holes or disagree with the shape
 */
export async function openSafetensors(path: string): Promise<WeightSource> {
  return RangeFile.openWith(path, async (file) => {
    const length = Number(new DataView((await file.read(0, 8)).buffer).getBigUint64(0, true));
    if (length > MAX_HEADER_BYTES)
      throw fault(path, `header must have at most ${MAX_HEADER_BYTES} bytes`, length);
    const { __metadata__: metadata, ...table } = parseHeader(path, await file.read(8, length));
    const tensors = Object.entries(table).map(([name, entry]) => storedTensor(path, name, entry, 8 + length));
    checkLayout(file, tensors, 8 + length);
    return weightSource({
      path,
      metadata: parseMetadata(path, metadata),
      tensors,
      readBytes: ({ position, sizeBytes }) => file.read(position, sizeBytes),
      close: () => file.close(),
    });
  });
}

/**
 * Writes a safetensors file, whole or not at all. The same entries and metadata give the same bytes.
 *
 * @param entries in any order; written in the official writer's: by alignment, then by name
 * @throws UserError if there is no space or no permission
 * @throws if a name occurs twice or an entry's bytes are not as many as its shape says
 */
export async function writeSafetensors(
  path: string,
  entries: readonly SafetensorsEntry[],
  metadata: Readonly<Record<string, string>> = {},
  { onBytes }: SafetensorsOptions = {},
): Promise<void> {
  const sorted = [...entries].sort(byAlignmentThenName);
  const header = encodeHeader(path, sorted, metadata);
  await writeWhole(path, async (handle) => {
    await writeAll(handle, header);
    onBytes?.(header);
    for (const entry of sorted) {
      const bytes = await entry.read();
      requireBytes(path, entry, bytes.byteLength);
      await writeAll(handle, bytes);
      onBytes?.(bytes);
    }
  });
}

function parseHeader(path: string, bytes: Uint8Array): Record<string, unknown> {
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new UserError(`${path}: header must be JSON (is it a safetensors file?)`, { cause });
  }
  if (!isRecord(header)) throw fault(path, 'header must be a JSON object', shown(header));
  return header;
}

function parseMetadata(path: string, metadata: unknown): Record<string, string> {
  if (metadata === undefined) return {};
  if (!isRecord(metadata)) throw fault(path, '__metadata__ must be an object', shown(metadata));
  return Object.fromEntries(
    Object.entries(metadata).map(([key, value]) => {
      if (typeof value !== 'string') throw fault(path, `__metadata__.${key} must be text`, shown(value));
      return [key, value];
    }),
  );
}

/** Parses one entry of the table: `{"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}`. */
function storedTensor(path: string, name: string, entry: unknown, dataStart: number): StoredTensor {
  const where = `tensor "${name}"`;
  if (!isRecord(entry)) throw fault(path, `${where} must be described by an object`, shown(entry));
  const { dtype: fileDtype, shape, data_offsets: offsets } = entry;
  const dtype =
    typeof fileDtype === 'string' && Object.hasOwn(FILE_DTYPES, fileDtype) && FILE_DTYPES[fileDtype];
  if (!dtype)
    throw fault(path, `${where}: dtype must be one of ${FILE_DTYPE_ORDER.join(', ')}`, shown(fileDtype));
  if (!isNumbers(shape)) throw fault(path, `${where}: shape must be a list of integers`, shown(shape));
  if (!isNumbers(offsets) || offsets.length !== 2) {
    throw fault(path, `${where}: data_offsets must be two integers`, shown(offsets));
  }
  const [begin = 0, end = 0] = offsets;
  const sizeBytes = tensorBytes(dtype, shape);
  if (begin < 0 || end - begin !== sizeBytes) {
    const rule = `${where}: data_offsets of ${fileDtype}[${shape.join(', ')}] must span ${sizeBytes} bytes`;
    throw fault(path, rule, shown(offsets));
  }
  return { name, dtype, shape, position: dataStart + begin, sizeBytes };
}

/** The tensors must fill the file from `dataStart` to its end, each byte belonging to one of them. */
function checkLayout(file: RangeFile, tensors: readonly StoredTensor[], dataStart: number): void {
  for (const { position, sizeBytes } of tensors) file.require(position, sizeBytes);
  requireDisjoint(file.path, tensors);
  const expected = tensors.reduce((sum, { sizeBytes }) => sum + sizeBytes, dataStart);
  if (expected !== file.sizeBytes) {
    throw fault(file.path, `tensors and header must fill the file, ${expected} bytes`, file.sizeBytes);
  }
}

function encodeHeader(
  path: string,
  sorted: readonly SafetensorsEntry[],
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  const names = new Set(sorted.map(({ name }) => name));
  if (names.size < sorted.length || names.has('__metadata__')) {
    throw new Error(
      `${path}: tensor names must differ and not be __metadata__, got ${[...names].join(', ')}`,
    );
  }
  // Joined by hand: a JavaScript object would move names such as "0" to its front.
  const items = Object.keys(metadata).length === 0 ? [] : [`"__metadata__":${JSON.stringify(metadata)}`];
  let offset = 0;
  for (const { name, dtype, shape } of sorted) {
    const end = offset + tensorBytes(dtype, shape);
    const entry = { dtype: fileDtypeOf(dtype), shape, data_offsets: [offset, end] };
    items.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`);
    offset = end;
  }
  const json = Buffer.from(`{${items.join(',')}}`);
  const padded = Math.ceil(json.byteLength / 8) * 8; // spaces, so that the data is aligned to 8 bytes
  const header = Buffer.alloc(8 + padded, ' ');
  header.writeBigUInt64LE(BigInt(padded));
  header.set(json, 8);
  return header;
}

async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.byteLength;) {
    const { bytesWritten } = await handle.write(bytes, done, Math.min(bytes.byteLength - done, 2 ** 28));
    done += bytesWritten;
  }
}

function byAlignmentThenName(a: SafetensorsEntry, b: SafetensorsEntry): number {
  const order = (dtype: DType) => FILE_DTYPE_ORDER.indexOf(fileDtypeOf(dtype));
  return order(a.dtype) - order(b.dtype) || Buffer.compare(Buffer.from(a.name), Buffer.from(b.name));
}

function fileDtypeOf(dtype: DType): string {
  const name = FILE_DTYPE_ORDER.find((key) => FILE_DTYPES[key] === dtype);
  if (name === undefined) throw new Error(`safetensors: dtype must be one of the format's, got ${dtype}`);
  return name;
}

function requireBytes(path: string, { name, dtype, shape }: TensorInfo, got: number): void {
  const expected = tensorBytes(dtype, shape);
  if (got === expected) return;
  throw new Error(
    `${path}: tensor "${name}" ${dtype}[${shape.join(', ')}] must have ${expected} bytes, got ${got}`,
  );
}

/** Any part of a header in at most 100 characters; a hostile one may nest too deep to be written out. */
function shown(value: unknown): string {
  if (typeof value === 'string') return value.slice(0, 100);
  try {
    const text: unknown = JSON.stringify(value); // undefined if value is
    return typeof text === 'string' ? text.slice(0, 100) : 'nothing';
  } catch (error) {
    if (error instanceof RangeError) return 'lists or objects nested too deep';
    throw error;
  }
}

function fault(path: string, rule: string, got: string | number): UserError {
  return new UserError(`${path}: ${rule}, got ${got} (damaged? fetch or write it again)`);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isNumbers(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item));
}
