/** A file of which any bytes can be read, wherever it lies: on disk here, behind http(s) in remoteFile.ts. */

import { stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { fileError } from '../../files.js';
import { readBytes, withHandle, type ByteRange } from './fileBytes.js';

/** A file by position. Nothing is held open between reads, so a set of thousands of files holds no descriptors. */
export interface ByteFile {
  /** Path or address as messages show it; a signed address without its secrets. */
  readonly name: string;
  /** The last part of it, for ledgers. */
  readonly baseName: string;
  /**
   * Size in bytes.
   *
   * @throws UserError if there is no such file
   */
  size(): Promise<number>;
  /**
   * Reads some ranges, each whole. What is far away is asked for all at once, so neighbours are best given together.
   *
   * @returns the bytes of each range, the caller's own
   * @throws UserError if the file is not there (any more), or ends before a range does
   */
  read(ranges: readonly ByteRange[]): Promise<Uint8Array[]>;
}

/** A file on disk, opened for each call of `read`. */
export function localFile(path: string): ByteFile {
  return {
    name: path,
    baseName: basename(path),
    size: async () => {
      const found = await stat(path).catch((cause: unknown) => {
        throw fileError(path, cause);
      });
      return found.size;
    },
    read: (ranges) =>
      withHandle(path, async (handle) => {
        const parts: Uint8Array[] = [];
        for (const { offset, length } of ranges) parts.push(await readBytes(handle, path, offset, length));
        return parts;
      }),
  };
}

/** Reads one range of a file. */
export async function readRange(file: ByteFile, offset: number, length: number): Promise<Uint8Array> {
  const [bytes] = await file.read([{ offset, length }]);
  if (bytes === undefined) throw new Error('readRange: a file must give a part for each range');
  return bytes;
}

/** Ranges of a file, and what lies in them: ranges that are near each other are read as one. */
export class RangeReader {
  private constructor(private readonly parts: readonly { offset: number; bytes: Uint8Array }[]) {}

  /** Reads what covers all of `ranges`; gaps up to `maxGap` bytes are read too, as that is cheaper than another read. */
  static async read(
    file: ByteFile,
    ranges: readonly ByteRange[],
    maxGap = DEFAULT_MAX_GAP,
  ): Promise<RangeReader> {
    const joined = joinRanges(ranges, maxGap);
    const parts = await file.read(joined);
    return new RangeReader(
      joined.map(({ offset }, i) => ({ offset, bytes: parts[i] ?? new Uint8Array(0) })), // as many as asked for
    );
  }

  /** The bytes of one of the ranges, a view. */
  bytes({ offset, length }: ByteRange): Uint8Array {
    if (length === 0) return new Uint8Array(0);
    const part = this.parts.find(
      (one) => one.offset <= offset && offset + length <= one.offset + one.bytes.length,
    );
    if (part === undefined) throw new Error(`RangeReader: byte ${offset} was not asked for`);
    return part.bytes.subarray(offset - part.offset, offset - part.offset + length);
  }
}

const DEFAULT_MAX_GAP = 16 * 2 ** 10;

function joinRanges(ranges: readonly ByteRange[], maxGap: number): ByteRange[] {
  const joined: ByteRange[] = [];
  for (const range of [...ranges].filter(({ length }) => length > 0).sort((a, b) => a.offset - b.offset)) {
    const last = joined.at(-1);
    if (last === undefined || range.offset > last.offset + last.length + maxGap) joined.push(range);
    else {
      const end = Math.max(last.offset + last.length, range.offset + range.length);
      joined[joined.length - 1] = { offset: last.offset, length: end - last.offset };
    }
  }
  return joined;
}
