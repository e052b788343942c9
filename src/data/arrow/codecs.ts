/** Arrow's two body codecs for reading. Shards are written uncompressed: JPEG does not shrink (and apache-arrow 21 compresses wrongly). */

import { CompressionType, compressionRegistry } from 'apache-arrow';
import { decompress as decompressZstd } from 'fzstd';
import { decompress as decompressLz4 } from 'lz4js';

const LZ4_MAGIC = 0x184d2204;
const LZ4_MAX_RATIO = 255; // of the format: one input byte lengthens a match by at most 255

/** Lets apache-arrow read LZ4 and ZSTD bodies. Repeated calls do nothing new. */
export function registerCodecs(): void {
  // Both decoders may return a view at an odd offset; Arrow needs 8-byte alignment, hence the copies.
  compressionRegistry.set(CompressionType.LZ4_FRAME, { decode: (bytes) => decodeLz4(bytes).slice() });
  compressionRegistry.set(CompressionType.ZSTD, { decode: (bytes) => decompressZstd(bytes).slice() });
}

function decodeLz4(frame: Uint8Array): Uint8Array {
  checkLz4Frame(frame);
  return decompressLz4(frame);
}

/**
 * Throws a RangeError if a block leaves the frame; lz4js believes every size and can be busy for minutes with a flipped bit.
 * Source: lz4/lz4, doc/lz4_Frame_format.md.
 */
function checkLz4Frame(frame: Uint8Array): void {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength); // throws a RangeError outside
  if (view.getUint32(0, true) !== LZ4_MAGIC) throw new RangeError('not an LZ4 frame');
  const flags = view.getUint8(4);
  const hasContentSize = (flags & 8) !== 0;
  if (hasContentSize && view.getBigUint64(6, true) > BigInt(frame.length * LZ4_MAX_RATIO)) {
    throw new RangeError('the LZ4 frame claims more bytes than it can hold');
  }
  const checksumBytes = (flags & 16) !== 0 ? 4 : 0; // after each block
  let at = 4 + 2 + (hasContentSize ? 8 : 0) + 1;
  for (let size = view.getUint32(at, true); size !== 0; size = view.getUint32(at, true)) {
    at += 4 + (size & 0x7fffffff) + checksumBytes; // the highest bit marks a block stored as it is
  }
}
