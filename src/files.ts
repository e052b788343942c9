/**
 * Writing files and folders whole: under a temporary name beside the target, fsynced, then renamed, so that a reader
 * (or a crash) sees all of it or nothing of it.
 */
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, rename, rm, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';

import { UserError } from './errors.js';

/** What a failed file operation means to the user, by system error code. */
const FAULTS: Readonly<Record<string, string>> = {
  ENOSPC: 'no space left on the device (free some space, or choose another place)',
  EDQUOT: 'no space left in the disk quota (free some space, or choose another place)',
  EROFS: 'the file system is read-only (choose another place)',
  EACCES: 'permission denied (choose another place, or change its permissions)',
  EPERM: 'operation not permitted (choose another place, or change its permissions)',
  ENOENT: 'no such file or folder (check the path)',
  ENOTDIR: 'a part of the path is a file, not a folder (check the path)',
  EISDIR: 'is a folder, not a file (check the path)',
  EEXIST: 'exists already (delete it, or choose another place)',
  ENOTEMPTY: 'exists already and is not empty (delete it, or choose another place)',
  EIO: 'the disk failed (look into the system log; the same command goes on where it can)',
  ESTALE: 'the network disk has lost it (mount it again)',
  ETIMEDOUT: 'the network disk did not answer (check it)',
  EMFILE: 'too many files are open (raise the limit with ulimit -n, or take fewer workers)',
  ENFILE: 'too many files are open on this machine (close other programs)',
  ELOOP: 'its links lead in a circle (check the path)',
  ENAMETOOLONG: 'the name is too long (choose a shorter one)',
};

/**
 * Turns the system errors a user can fix (no space, no permission, no such file …) into a `UserError` that names `path`.
 *
 * @returns the error to throw: the `UserError` with its cause, or `error` as it came
 */
export function fileError(path: string, error: unknown): unknown {
  if (!(error instanceof Error) || !('code' in error)) return error;
  const fault = FAULTS[String(error.code)];
  return fault === undefined ? error : new UserError(`${path}: ${fault}`, { cause: error });
}

/** Whether something thrown is a system error of one of these codes, such as ENOENT. */
export function hasCode(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && 'code' in error && codes.includes(String(error.code));
}

/**
 * Writes a file through `fill`; the file appears at `path`, replacing what was there, only when all of it is on disk.
 *
 * @param fill writes the content to the handle it is given, from position 0
 * @throws UserError if there is no space, no permission or no such folder; the temporary file is removed on any error
 */
export async function writeWhole(path: string, fill: (handle: FileHandle) => Promise<void>): Promise<void> {
  const temporary = temporaryName(path);
  try {
    const handle = await open(temporary, 'wx');
    try {
      await fill(handle);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
    await syncFolder(dirname(path));
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined); // what is said is why it was not written
    throw fileError(path, error);
  }
}

/** Writes `data` (text as UTF-8) to `path` as `writeWhole` does. */
export async function writeFileWhole(path: string, data: string | Uint8Array): Promise<void> {
  await writeWhole(path, (handle) => handle.writeFile(data));
}

/**
 * Makes a folder through `fill`; it appears at `path` only when `fill` is done. Parents are made where missing.
 *
 * @param fill writes the files, whole, into the temporary folder it is given
 * @throws UserError if `path` exists and is not an empty folder; the temporary folder is removed on any error
 */
export async function writeFolderWhole(path: string, fill: (folder: string) => Promise<void>): Promise<void> {
  const temporary = temporaryName(path);
  try {
    await mkdir(dirname(temporary), { recursive: true });
    await mkdir(temporary);
    await fill(temporary);
    await syncFolder(temporary);
    await rename(temporary, path);
    await syncFolder(dirname(temporary));
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined); // as above
    throw fileError(path, error);
  }
}

/** A name in the same folder as `path` (a rename never crosses file systems), hidden and unique. */
export function temporaryName(path: string): string {
  const whole = resolve(path);
  return join(dirname(whole), `.${basename(whole)}.${randomUUID().slice(0, 8)}.tmp`);
}

/** Puts a folder's entries on disk, so that a rename in it survives a power cut. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** SHA-256 of a file, or of several one after the other, in hex; read in pieces. */
export async function sha256OfFile(...paths: readonly string[]): Promise<string> {
  const hash = createHash('sha256');
  for (const path of paths) {
    try {
      for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) {
        hash.update(chunk as Uint8Array); // a stream without an encoding yields bytes
      }
    } catch (error) {
      throw fileError(path, error);
    }
  }
  return hash.digest('hex');
}
