/** SHA-256 of a file of bytes, wherever it lies. */

import { createHash } from 'node:crypto';
import { readRange, type ByteFile } from './byteFile.js';

const PIECE_BYTES = 4 * 2 ** 20;

/**
 * Hashes a file in pieces; the next piece is read while one is hashed.
 *
 * @param onBytes called with the size of each piece that is done
 * @returns 64 hex digits
 */
export async function hashFile(
  file: ByteFile,
  sizeBytes: number,
  onBytes?: (bytes: number) => void,
): Promise<string> {
  const hash = createHash('sha256');
  const piece = (offset: number) => {
    const reading = readRange(file, offset, Math.min(PIECE_BYTES, sizeBytes - offset));
    reading.catch(() => undefined); // it may fail while the one before is still hashed; it is awaited in its turn
    return reading;
  };
  let next = sizeBytes > 0 ? piece(0) : undefined;
  for (let offset = 0; next !== undefined;) {
    const bytes = await next;
    offset += bytes.length;
    next = offset < sizeBytes ? piece(offset) : undefined;
    hash.update(bytes);
    onBytes?.(bytes.length);
  }
  return hash.digest('hex');
}
