/** Files that grow record by record while a run goes on, and that outlive a full disk. */
import { closeSync, fsyncSync, openSync, writeSync } from 'node:fs';

import { UserError } from './errors.js';
import { fileError, hasCode } from './files.js';

/** Troubles that pass: somebody frees space, or mounts the disk again. */
const PASSING = ['ENOSPC', 'EDQUOT', 'EROFS'];
/** Bytes that wait in memory at most; a line of metrics has some 200. */
const MAX_WAITING = 64 * 2 ** 20;

/**
 * A file that is appended to. Records reach the system at once and in order. Where there is no space they wait in memory
 * and go first when there is: a run of days must not end because its log cannot grow for an hour. Whoever made it closes it.
 */
export class AppendFile {
  readonly #path: string;
  #handle: number | undefined;
  #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  #closed = false;

  /** Nothing is opened yet: the file is made with its first record. */
  constructor(path: string) {
    this.#path = path;
  }

  /** Bytes that are not in the file yet. */
  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /**
   * Appends a record, which must not be changed afterwards.
   *
   * @throws UserError if the file cannot be written for another reason than space, or too much waits already
   * @throws Error after `close`: it may be another process's by then
   */
  write(record: Uint8Array): void {
    if (this.#closed) throw new Error(`${this.#path}: is closed`);
    this.#waiting.push(record);
    this.#waitingBytes += record.length;
    try {
      this.#drain();
    } catch (error) {
      if (!hasCode(error, ...PASSING)) throw fileError(this.#path, error);
      if (this.#waitingBytes > MAX_WAITING)
        throw new UserError(
          `${this.#path}: could not be written for so long that ${this.#waitingBytes} bytes wait in memory (free some space, then run the same command again)`,
          { cause: error },
        );
    }
  }

  /**
   * Puts all records on disk, so that they survive a power cut.
   *
   * @throws UserError if that is not possible now; the records wait on
   */
  sync(): void {
    try {
      this.#drain();
      if (this.#handle !== undefined) fsyncSync(this.#handle);
    } catch (error) {
      throw fileError(this.#path, error);
    }
  }

  /** Writes what waits, if that is possible, and closes the file. */
  close(): void {
    this.#closed = true;
    try {
      this.#drain();
    } catch {
      // Whoever must know has called `sync`
    }
    this.#release();
  }

  /** Writes what waits. After a failure the file is opened anew next time: it may be another disk by then. */
  #drain(): void {
    for (let first = this.#waiting[0]; first; first = this.#waiting[0]) {
      try {
        this.#handle ??= openSync(this.#path, 'a');
        const written = writeSync(this.#handle, first);
        this.#waitingBytes -= written;
        if (written === first.length) this.#waiting.shift();
        else this.#waiting[0] = first.subarray(written);
      } catch (error) {
        this.#release();
        throw error;
      }
    }
  }

  #release(): void {
    if (this.#handle !== undefined) closeSync(this.#handle);
    this.#handle = undefined;
  }
}
