/**
 * GGUF files (llama.cpp's): key-values, a table of tensors, then their bytes, some of them quantised.
 * Format: ggml-org/ggml, docs/gguf.md; versions 2 and 3, little-endian.
 */
import { UserError } from '../../errors.js';
import { elementCount } from '../../tensorflow/dtypes.js';
import { BLOCK_TYPES, OTHER_TYPE_NAMES, type BlockType } from './ggufBlocks.js';
import { GgufCursor, NeedsMoreBytes, type GgufValue } from './ggufCursor.js';
import { weightSource, type WeightSource } from './weights.js';
import { RangeFile, requireDisjoint, type StoredTensor } from './weightsFile.js';

/** An open GGUF file. Quantised tensors read as float32, F16 and BF16 as they are; shapes are row-major, as PyTorch's. */
export interface GgufFile extends WeightSource {
  /** Architecture, hyper-parameters and tokenizer, by their names in the file (`llama.block_count` …). */
  readonly keyValues: ReadonlyMap<string, GgufValue>;
}

interface GgufTensor extends StoredTensor {
  readonly type: BlockType;
}

interface GgufHeader {
  readonly keyValues: ReadonlyMap<string, GgufValue>;
  readonly tensors: readonly GgufTensor[];
}

const FIRST_HEADER_BYTES = 4 * 2 ** 20; // holds a vocabulary of 150k tokens
const MAX_HEADER_BYTES = 256 * 2 ** 20; // far above any real vocabulary; bounds what a hostile file can make us hold
const MAX_DIMENSIONS = 4; // GGML_MAX_DIMS

/**
 * Opens a GGUF file; only its header is read.
 *
 * @throws UserError naming the file and its fault: no GGUF, another version or byte order, truncated, a tensor type
 * that is not read, counts or offsets that do not fit the file
 */
export async function openGguf(path: string): Promise<GgufFile> {
  return RangeFile.openWith(path, async (file) => {
    const { keyValues, tensors } = await readHeader(file);
    for (const { position, sizeBytes } of tensors) file.require(position, sizeBytes);
    requireDisjoint(path, tensors);
    const source = weightSource({
      path,
      metadata: texts(keyValues),
      tensors,
      readBytes: async ({ position, sizeBytes, type }) => {
        const bytes = await file.read(position, sizeBytes);
        if (type.dequantize === undefined) return bytes;
        return new Uint8Array(type.dequantize(bytes).buffer);
      },
      close: () => file.close(),
    });
    return { ...source, keyValues };
  });
}

/** Reads as much of the file's beginning as the header turns out to need, doubling. */
async function readHeader(file: RangeFile): Promise<GgufHeader> {
  for (let length = FIRST_HEADER_BYTES; ; length *= 2) {
    const bytes = await file.read(0, Math.min(length, file.sizeBytes));
    try {
      return parseHeader(new GgufCursor(file.path, bytes, file.sizeBytes));
    } catch (error) {
      if (!(error instanceof NeedsMoreBytes)) throw error;
      if (length >= MAX_HEADER_BYTES) {
        throw new UserError(
          `${file.path}: header must have at most ${MAX_HEADER_BYTES} bytes, got more (damaged?)`,
        );
      }
    }
  }
}

function parseHeader(cursor: GgufCursor): GgufHeader {
  const magic = cursor.uint32();
  if (magic !== 0x46554747) throw cursor.fault('must begin with "GGUF"', `0x${magic.toString(16)}`);
  const version = cursor.uint32();
  if (version !== 2 && version !== 3) {
    const got = (version & 0xffff) === 0 ? `big-endian ${version >>> 24}` : version;
    throw cursor.fault('version must be 2 or 3, little-endian', got);
  }
  const tensorCount = cursor.count('tensor count', 24); // name length, dimensions, type, offset
  const keyValueCount = cursor.count('key-value count', 13); // key length, type, value
  const keyValues = new Map<string, GgufValue>();
  for (let i = 0; i < keyValueCount; i++) {
    const key = cursor.text();
    keyValues.set(key, cursor.value(cursor.uint32(), `value of "${key}"`));
  }
  const descriptions = [];
  for (let i = 0; i < tensorCount; i++) descriptions.push(describeTensor(cursor));
  const alignment = keyValues.get('general.alignment') ?? 32;
  if (typeof alignment !== 'number' || !Number.isSafeInteger(alignment) || alignment < 1) {
    throw cursor.fault('general.alignment must be a positive integer', describe(alignment));
  }
  const dataStart = Math.ceil(cursor.position / alignment) * alignment;
  const tensors = descriptions.map((tensor) => ({ ...tensor, position: dataStart + tensor.position }));
  return { keyValues, tensors };
}

/** Parses one row of the table of tensors; its `position` still counts from the data section's start. */
function describeTensor(cursor: GgufCursor): GgufTensor {
  const name = cursor.text();
  const dimensionCount = cursor.uint32();
  if (dimensionCount > MAX_DIMENSIONS) {
    throw cursor.fault(`tensor "${name}" must have at most ${MAX_DIMENSIONS} dimensions`, dimensionCount);
  }
  const dimensions = Array.from({ length: dimensionCount }, () => cursor.uint64(`a dimension of "${name}"`));
  const typeNumber = cursor.uint32();
  const type = BLOCK_TYPES.get(typeNumber);
  if (type === undefined) {
    const known = [...BLOCK_TYPES.values()].map((known) => known.name).join(', ');
    const got = OTHER_TYPE_NAMES[typeNumber] ?? 'unknown';
    throw new UserError(
      `${cursor.path}: tensor "${name}" must have a type of ${known}, got ${got} (number ${typeNumber}; choose a file quantised otherwise)`,
    );
  }
  const elements = elementCount(dimensions);
  const rowElements = dimensions[0] ?? 1; // GGUF lists the fastest dimension first
  if (!Number.isSafeInteger(elements * type.blockBytes) || rowElements % type.blockElements !== 0) {
    const rule = `tensor "${name}" of ${type.name} must have rows of a multiple of ${type.blockElements} elements`;
    throw cursor.fault(rule, `[${dimensions.join(', ')}]`);
  }
  const sizeBytes = (elements / type.blockElements) * type.blockBytes;
  const position = cursor.uint64(`offset of "${name}"`);
  return { name, dtype: type.dtype, shape: dimensions.reverse(), position, sizeBytes, type };
}

function describe(value: GgufValue): string {
  return Array.isArray(value) ? `a list of ${value.length}` : String(value);
}

function texts(keyValues: ReadonlyMap<string, GgufValue>): Record<string, string> {
  const found: [string, string][] = [];
  for (const [key, value] of keyValues) if (typeof value === 'string') found.push([key, value]);
  return Object.fromEntries(found);
}
