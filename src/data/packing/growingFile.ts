/** A file that grows while packing goes on, and is cut back to what was on record when packing is taken up again. */

import { open, rm, type FileHandle } from 'node:fs/promises';
import { UserError } from '../../errors.js';
import { fileError } from '../../files.js';

const FLUSH_BYTES = 2 ** 20;

/** A file that is added to. It is made with its first bytes; whoever opened it closes it. */
export class GrowingFile {
  #waiting: Uint8Array[] = [];
  #waitingBytes = 0;

  private constructor(
    private readonly path: string,
    private handle: FileHandle | undefined,
    private length: number,
  ) {}

  /**
   * Opens a file at the length it had; what came after goes.
   *
   * @throws UserError if it cannot be written, or is shorter
   */
  static async open(path: string, length: number): Promise<GrowingFile> {
    try {
      if (length === 0) {
        await rm(path, { force: true });
        return new GrowingFile(path, undefined, 0);
      }
      const handle = await open(path, 'r+');
      await cutBack(handle, path, length).catch(async (error: unknown) => {
        await handle.close();
        throw error;
      });
      return new GrowingFile(path, handle, length);
    } catch (error) {
      throw fileError(path, error);
    }
  }

  /** Adds bytes, which must not change afterwards; they are written by the megabyte. */
  async add(bytes: Uint8Array): Promise<void> {
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    if (this.#waitingBytes >= FLUSH_BYTES) await this.#flush();
  }

  /** Puts all on disk. @returns the length in bytes */
  async sync(): Promise<number> {
    await this.#flush();
    await this.handle?.sync();
    return this.length;
  }

  /** Closes the file; what was not synced may be lost. */
  async close(): Promise<void> {
    await this.handle?.close();
    this.handle = undefined;
  }

  async #flush(): Promise<void> {
    const bytes = Buffer.concat(this.#waiting.splice(0));
    this.#waitingBytes = 0;
    if (bytes.length === 0) return;
    try {
      this.handle ??= await open(this.path, 'w');
      for (let done = 0; done < bytes.length;) {
        const { bytesWritten } = await this.handle.write(bytes, done, bytes.length - done, this.length);
        done += bytesWritten;
        this.length += bytesWritten;
      }
    } catch (error) {
      throw fileError(this.path, error);
    }
  }
}

/** Never the other way: `truncate` would fill up a shorter file with zeros. */
async function cutBack(handle: FileHandle, path: string, length: number): Promise<void> {
  const { size } = await handle.stat();
  if (size < length)
    throw new UserError(
      `${path}: must have at least the ${length} bytes on record, got ${size} (pack anew with --force)`,
    );
  await handle.truncate(length);
}
