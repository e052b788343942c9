/** Reading weights files by byte range: no format reads more of a file than its table of contents and one tensor. */
import { open, type FileHandle } from 'node:fs/promises';

import { UserError } from '../../errors.js';
import { fileError } from '../../files.js';
import { BYTES_PER_ELEMENT, elementCount, type DType } from '../../tensorflow/dtypes.js';
import type { TensorInfo } from './weights.js';

/** Most bytes of one system read; Linux itself stops at 2 GiB. */
const READ_BYTES = 2 ** 28;

/** A tensor whose bytes lie in one piece of a file. */
export interface StoredTensor extends TensorInfo {
  /** Bytes from the start of the file. */
  readonly position: number;
  readonly sizeBytes: number;
}

/** A file open for reading by range; its owner closes it. */
export class RangeFile {
  private constructor(
    readonly path: string,
    readonly sizeBytes: number,
    private readonly handle: FileHandle,
  ) {}

  /** @throws UserError if there is no such file, it is a folder, or it may not be read */
  static async open(path: string): Promise<RangeFile> {
    try {
      const handle = await open(path, 'r');
      const stats = await handle.stat();
      if (stats.isFile()) return new RangeFile(path, stats.size, handle);
      await handle.close();
    } catch (error) {
      throw fileError(path, error);
    }
    throw new UserError(`${path}: must be a file, got a folder or device (name the file itself)`);
  }

  /** Opens `path` and hands it to `use`; closes it again if `use` throws. */
  static async openWith<T>(path: string, use: (file: RangeFile) => Promise<T>): Promise<T> {
    const file = await RangeFile.open(path);
    try {
      return await use(file);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /**
   * The bytes [position, position + length), in memory of their own.
   *
   * @throws UserError if the file ends before that
   */
  async read(position: number, length: number): Promise<Uint8Array> {
    this.require(position, length);
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length;) {
      const part = Math.min(length - done, READ_BYTES);
      const { bytesRead } = await this.handle.read(bytes, done, part, position + done);
      if (bytesRead === 0) throw this.truncated(position + length); // the file shrank since it was opened
      done += bytesRead;
    }
    return bytes;
  }

  /** @throws UserError if the file ends before `position + length`; checked before anything is allocated for it */
  require(position: number, length: number): void {
    if (position + length > this.sizeBytes) throw this.truncated(position + length);
  }

  /** Closes the file. */
  close(): Promise<void> {
    return this.handle.close();
  }

  private truncated(needed: number): UserError {
    const got = `got ${this.sizeBytes}`;
    return new UserError(
      `${this.path}: must have at least ${needed} bytes, ${got} (truncated? fetch it again)`,
    );
  }
}

/** Bytes of a tensor of `shape`; NaN where the shape is no shape (negative, fractional, beyond 2^53). */
export function tensorBytes(dtype: DType, shape: readonly number[]): number {
  const bytes = elementCount(shape) * BYTES_PER_ELEMENT[dtype];
  return shape.every((size) => Number.isSafeInteger(size) && size >= 0) && Number.isSafeInteger(bytes)
    ? bytes
    : NaN;
}

/** @throws UserError if two tensors share bytes of the file */
export function requireDisjoint(path: string, tensors: readonly StoredTensor[]): void {
  const sorted = [...tensors].sort((a, b) => a.position - b.position || a.sizeBytes - b.sizeBytes);
  let before: StoredTensor | undefined;
  for (const tensor of sorted) {
    if (before !== undefined && tensor.position < before.position + before.sizeBytes) {
      throw new UserError(
        `${path}: tensors must not overlap, got "${before.name}" and "${tensor.name}" in one place`,
      );
    }
    before = tensor;
  }
}
