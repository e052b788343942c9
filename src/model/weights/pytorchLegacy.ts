/**
 * PyTorch files from before the zip format (torch < 1.6, or `_use_new_zipfile_serialization=False`): five pickles one
 * after the other (magic number, protocol, system, object, storage keys), then each storage behind its int64 count.
 * Source: pytorch, torch/serialization.py, `_legacy_save` and `_legacy_load`.
 */
import { NeedsMoreBytes } from './ggufCursor.js';
import { allowedGlobals, NamedStorages } from './pytorchGlobals.js';
import { unpickle } from './pytorchPickle.js';
import { PickleCursor } from './pytorchPickleCursor.js';
import type { ElementType, PyTorchStorage } from './pytorchStorage.js';
import { describeValue, malformed } from './pytorchValues.js';
import type { RangeFile } from './weightsFile.js';

const MAGIC = 0x1950a86a20f9469cfc6cn;
const PROTOCOL = 1001;
const FIRST_BYTES = 2 ** 20; // holds the pickles of some thousand tensors
const WINDOW_BYTES = 2 ** 16; // small storages' counts are read together

/** Most bytes of the pickles of a file: some 40,000 tensors; bounds what a hostile file can make us hold. */
export const MAX_PICKLE_BYTES = 8 * 2 ** 20;

interface Pickles {
  readonly value: unknown;
  readonly storages: NamedStorages<LegacyStorage>;
  readonly keys: readonly unknown[];
  /** Where the first storage begins. */
  readonly end: number;
}

/**
 * Reads the object of a file in the old format; its tensors are read later.
 *
 * @throws UserError if it is none, big-endian, damaged, or wants anything that is not allowed
 */
export async function readLegacy(file: RangeFile): Promise<unknown> {
  const { value, storages, keys, end } = await readPickles(file);
  await placeStorages(file, storages.byKey, keys, end);
  for (const storage of storages.byKey.values()) storage.requirePosition();
  return value;
}

/** Reads as much of the file's beginning as the pickles turn out to need, doubling. */
async function readPickles(file: RangeFile): Promise<Pickles> {
  for (let length = FIRST_BYTES; ; length *= 2) {
    const bytes = await file.read(0, Math.min(length, file.sizeBytes));
    try {
      return parsePickles(file, new PickleCursor(file.path, bytes, file.sizeBytes));
    } catch (error) {
      if (!(error instanceof NeedsMoreBytes)) throw error;
      if (length >= MAX_PICKLE_BYTES) {
        throw malformed(file.path, `pickles must have at most ${MAX_PICKLE_BYTES} bytes`, 'more');
      }
    }
  }
}

function parsePickles(file: RangeFile, cursor: PickleCursor): Pickles {
  const magic = unpickle(cursor);
  if (magic !== MAGIC)
    throw malformed(file.path, 'must begin with torch.save’s number', describeValue(magic));
  const protocol = unpickle(cursor);
  if (protocol !== PROTOCOL) {
    throw malformed(file.path, `format must be ${PROTOCOL}`, describeValue(protocol));
  }
  const system = unpickle(cursor);
  if (!(system instanceof Map) || system.get('little_endian') !== true) {
    throw malformed(file.path, 'must be little-endian', describeValue(system));
  }
  const storages = new NamedStorages(
    file.path,
    file.sizeBytes,
    (key, element, count) => new LegacyStorage(file, key, element, count),
  );
  const value = unpickle(cursor, {
    globals: allowedGlobals(file.path),
    persistent: (id) => storages.find(id),
  });
  const keys = unpickle(cursor);
  if (!Array.isArray(keys)) throw malformed(file.path, 'storage keys must be a list', describeValue(keys));
  return { value, storages, keys, end: cursor.position };
}

/** Finds each storage's bytes, in the order of `keys`, and holds its count against the pickle's. */
async function placeStorages(
  file: RangeFile,
  storages: ReadonlyMap<string, LegacyStorage>,
  keys: readonly unknown[],
  start: number,
): Promise<void> {
  let position = start;
  let window: Buffer = Buffer.alloc(0);
  let windowStart = 0;
  for (const key of keys) {
    const storage = typeof key === 'string' ? storages.get(key) : undefined;
    if (storage === undefined || storage.position !== undefined) {
      throw malformed(file.path, 'storage keys must name each storage once', describeValue(key));
    }
    file.require(position, 8);
    if (position + 8 > windowStart + window.length) {
      const bytes = await file.read(position, Math.min(WINDOW_BYTES, file.sizeBytes - position));
      window = Buffer.from(bytes.buffer);
      windowStart = position;
    }
    const count = window.readBigInt64LE(position - windowStart);
    if (count !== BigInt(storage.count)) {
      throw malformed(
        file.path,
        `storage "${storage.key}" must have ${storage.count} elements`,
        String(count),
      );
    }
    storage.position = position + 8;
    position = storage.position + storage.count * storage.element.bytes;
    file.require(position, 0);
  }
}

/** A storage of the old format; where it lies is known when the pickles have been read. */
class LegacyStorage implements PyTorchStorage {
  position: number | undefined;

  constructor(
    private readonly file: RangeFile,
    readonly key: string,
    readonly element: ElementType,
    readonly count: number,
  ) {}

  requirePosition(): number {
    if (this.position !== undefined) return this.position;
    throw malformed(this.file.path, `storage "${this.key}" must be in the file`, 'none');
  }

  async read(position: number, length: number): Promise<Uint8Array> {
    return this.file.read(this.requirePosition() + position, length);
  }
}
