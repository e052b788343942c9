/**
 * The parts of the zip format that every reader of it needs, as pure functions over bytes already read.
 * Format: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 to 4.5.
 */

/** "Look in the Zip64 record", in a field of 16 bits. */
export const ZIP_FULL_16 = 0xffff;
/** The same in a field of 32 bits. */
export const ZIP_FULL_32 = 0xffffffff;

const END = { signature: 0x06054b50, length: 22 };

/** The three numbers of an entry of the table of contents, in bytes. */
export interface ZipEntrySizes {
  readonly sizeBytes: number;
  readonly compressedBytes: number;
  /** Where the local header begins. */
  readonly headerPosition: number;
}

/** What a reader makes of a number of 64 bits, and of one that is not there. Both may throw. */
export interface Zip64Rules {
  toNumber(value: bigint): number;
  missing(): Error;
}

/**
 * The numbers of the entry at `at`; each that is full stands in the Zip64 extra field instead, in this order.
 *
 * @param extra the entry's extra fields
 * @throws what `rules` say, if a full number is not there or is none
 */
export function zipEntrySizes(bytes: Buffer, at: number, extra: Buffer, rules: Zip64Rules): ZipEntrySizes {
  let big = zip64Field(extra);
  const number = (short: number): number => {
    if (short !== ZIP_FULL_32) return short;
    if (big.length < 8) throw rules.missing();
    const value = rules.toNumber(big.readBigUInt64LE(0));
    big = big.subarray(8);
    return value;
  };
  const sizeBytes = number(bytes.readUInt32LE(at + 24));
  const compressedBytes = number(bytes.readUInt32LE(at + 20));
  const headerPosition = number(bytes.readUInt32LE(at + 42));
  return { sizeBytes, compressedBytes, headerPosition };
}

/**
 * Where the end record begins in the last bytes of a file; -1 if there is none. Its comment fills the rest of the file: a
 * signature inside a comment or in data does not count.
 */
export function findZipEnd(tail: Buffer): number {
  let end = tail.length - END.length;
  while (end >= 0 && !isEnd(tail, end)) end--;
  return end;
}

function isEnd(tail: Buffer, at: number): boolean {
  return (
    tail.readUInt32LE(at) === END.signature && at + END.length + tail.readUInt16LE(at + 20) === tail.length
  );
}

function zip64Field(extra: Buffer): Buffer {
  for (let at = 0; at + 4 <= extra.length;) {
    const end = at + 4 + extra.readUInt16LE(at + 2);
    if (extra.readUInt16LE(at) === 1) return extra.subarray(at + 4, end);
    at = end;
  }
  return Buffer.alloc(0);
}
