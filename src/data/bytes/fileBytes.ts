/** Reading byte ranges of data files, and the one form of error for what is wrong with such a file. */

import { open, type FileHandle } from 'node:fs/promises';
import { UserError } from '../../errors.js';
import { fileError } from '../../files.js';

/** Bytes of a file. */
export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

/** The error of this folder: which file, what is wrong with it, what to do. */
export function fault(path: string, problem: string, remedy: string, cause?: unknown): UserError {
  return new UserError(
    `shards: ${problem}: ${path} (${remedy})`,
    cause === undefined ? undefined : { cause },
  );
}

/** Opens a file for `use` and closes it after; a file that is not there is the user's to fix. */
export async function withHandle<T>(path: string, use: (handle: FileHandle) => Promise<T>): Promise<T> {
  const handle = await open(path, 'r').catch((cause: unknown) => {
    throw fileError(path, cause);
  });
  try {
    return await use(handle);
  } finally {
    await handle.close();
  }
}

/** What a caught value says. */
export function reasonOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

/** Whether an error, or what it came from, is the system's answer: then what the file holds is not at fault. */
export function isOfDisk(error: unknown): boolean {
  return error instanceof Error && ('syscall' in error || isOfDisk(error.cause));
}

/** What `decode` returns; if it throws, the file's bytes are at fault. */
export function decodeOrFault<T>(path: string, decode: () => T): T {
  try {
    return decode();
  } catch (cause) {
    throw fault(path, `the file is damaged, ${reasonOf(cause)}`, 'write or copy it again', cause);
  }
}

/** Reads exactly the bytes asked for. */
export async function readBytes(
  handle: FileHandle,
  path: string,
  offset: number,
  length: number,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  await fill(handle, path, bytes, offset);
  return bytes;
}

/** Fills `bytes` from `offset`; a read may bring less than asked for (Linux: at most 2 GiB). */
export async function fill(
  handle: FileHandle,
  path: string,
  bytes: Uint8Array,
  offset: number,
): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesRead } = await handle.read(
      bytes,
      done,
      Math.min(bytes.length - done, 2 ** 30),
      offset + done,
    );
    if (bytesRead === 0)
      throw fault(path, `the file is cut short at byte ${offset + done}`, 'write or copy it again');
    done += bytesRead;
  }
}
