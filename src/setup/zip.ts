/**
 * The table of contents of a zip file, Zip64 included, with every offset and length checked against the file.
 * Format: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 to 4.5.
 */
import type { FileHandle } from 'node:fs/promises';

import { UserError } from '../errors.js';
import { findZipEnd, ZIP_FULL_16, ZIP_FULL_32, zipEntrySizes } from '../zipFormat.js';

/** One file inside a zip. */
export interface ZipMember {
  /** Path inside the zip, `/` between its parts; never absolute, never with `..`. */
  readonly name: string;
  readonly method: 'stored' | 'deflate';
  readonly crc32: number;
  readonly compressedBytes: number;
  readonly sizeBytes: number;
  /** Where its local header begins. */
  readonly headerPosition: number;
}

/** A zip file open for reading; its owner closes the handle. */
export interface ZipSource {
  readonly path: string;
  readonly handle: FileHandle;
  readonly sizeBytes: number;
}

const SIGNATURE = {
  local: 0x04034b50,
  entry: 0x02014b50,
  end64: 0x06064b50,
  locator64: 0x07064b50,
};
const LENGTH = { local: 30, entry: 46, end: 22, end64: 56, locator64: 20, comment: 0xffff };
const MAX_DIRECTORY_BYTES = 64 * 2 ** 20; // half a million members; bounds what a hostile file can make us hold

/**
 * Lists the files in a zip; folders are left out.
 *
 * @throws UserError if it is no zip, is cut or damaged, is encrypted, or names a path outside its own folder
 */
export async function listZip(zip: ZipSource): Promise<ZipMember[]> {
  const { position, length, count } = await findDirectory(zip);
  const bytes = await read(zip, position, length);
  const members: ZipMember[] = [];
  let at = 0;
  for (let i = 0; i < count; i++) {
    const entry = parseEntry(zip, bytes, at);
    at = entry.next;
    if (!entry.member.name.endsWith('/')) members.push(entry.member);
  }
  return members;
}

/**
 * Where the bytes of a member begin in the file.
 *
 * @throws UserError if its local header is damaged, or its bytes reach past the file's end
 */
export async function dataPosition(zip: ZipSource, member: ZipMember): Promise<number> {
  const header = await read(zip, member.headerPosition, LENGTH.local);
  if (header.readUInt32LE(0) !== SIGNATURE.local) throw damaged(zip, `no local header for ${member.name}`);
  const position = member.headerPosition + LENGTH.local + header.readUInt16LE(26) + header.readUInt16LE(28);
  if (position + member.compressedBytes > zip.sizeBytes)
    throw damaged(zip, `${member.name} reaches past the end`);
  return position;
}

interface Directory {
  readonly position: number;
  readonly length: number;
  readonly count: number;
}

async function findDirectory(zip: ZipSource): Promise<Directory> {
  const tailLength = Math.min(zip.sizeBytes, LENGTH.end + LENGTH.comment);
  const tail = await read(zip, zip.sizeBytes - tailLength, tailLength);
  const end = findZipEnd(tail);
  if (end < 0) throw damaged(zip, 'no table of contents');
  const count = tail.readUInt16LE(end + 10);
  const length = tail.readUInt32LE(end + 12);
  const position = tail.readUInt32LE(end + 16);
  const big = count === ZIP_FULL_16 || length === ZIP_FULL_32 || position === ZIP_FULL_32;
  const found = big
    ? await findDirectory64(zip, zip.sizeBytes - tailLength + end)
    : { count, length, position };
  if (found.length > MAX_DIRECTORY_BYTES || found.position + found.length > zip.sizeBytes) {
    throw damaged(zip, `a table of contents of ${found.length} bytes at ${found.position}`);
  }
  return found;
}

async function findDirectory64(zip: ZipSource, endPosition: number): Promise<Directory> {
  const locator = await read(zip, endPosition - LENGTH.locator64, LENGTH.locator64);
  if (locator.readUInt32LE(0) !== SIGNATURE.locator64) throw damaged(zip, 'no Zip64 locator');
  const record = await read(zip, safe(zip, locator.readBigUInt64LE(8)), LENGTH.end64);
  if (record.readUInt32LE(0) !== SIGNATURE.end64) throw damaged(zip, 'no Zip64 record');
  const [count, length, position] = [32, 40, 48].map((at) => safe(zip, record.readBigUInt64LE(at)));
  return { count: count ?? 0, length: length ?? 0, position: position ?? 0 };
}

function parseEntry(zip: ZipSource, bytes: Buffer, at: number): { member: ZipMember; next: number } {
  if (at + LENGTH.entry > bytes.length || bytes.readUInt32LE(at) !== SIGNATURE.entry) {
    throw damaged(zip, `no entry at byte ${at} of its table of contents`);
  }
  const [nameLength, extraLength] = [bytes.readUInt16LE(at + 28), bytes.readUInt16LE(at + 30)];
  const nameEnd = at + LENGTH.entry + nameLength;
  const next = nameEnd + extraLength + bytes.readUInt16LE(at + 32);
  if (next > bytes.length) throw damaged(zip, `an entry that reaches past its table of contents`);
  const name = checkName(zip, bytes.toString('utf8', at + LENGTH.entry, nameEnd));
  if ((bytes.readUInt16LE(at + 8) & 1) !== 0)
    throw new UserError(`${zip.path}: must not be encrypted, got ${name} encrypted`);
  const sizes = zipEntrySizes(bytes, at, bytes.subarray(nameEnd, nameEnd + extraLength), {
    toNumber: (value) => safe(zip, value),
    missing: () => damaged(zip, 'a large member without its Zip64 sizes'),
  });
  return {
    member: {
      name,
      method: methodOf(zip, name, bytes.readUInt16LE(at + 10)),
      crc32: bytes.readUInt32LE(at + 16),
      ...sizes,
    },
    next,
  };
}

function methodOf(zip: ZipSource, name: string, method: number): ZipMember['method'] {
  if (method === 0) return 'stored';
  if (method === 8) return 'deflate';
  throw new UserError(`${zip.path}: members must be stored or deflated, got method ${method} for ${name}`);
}

function checkName(zip: ZipSource, name: string): string {
  const outside = name.startsWith('/') || /^[A-Za-z]:/.test(name) || name.split('/').includes('..');
  if (name === '' || outside || name.includes('\\') || name.includes('\0')) {
    throw new UserError(`${zip.path}: members must stay inside their folder, got ${JSON.stringify(name)}`);
  }
  return name;
}

async function read(zip: ZipSource, position: number, length: number): Promise<Buffer> {
  if (position < 0 || position + length > zip.sizeBytes)
    throw damaged(zip, `${length} bytes wanted at ${position}`);
  const bytes = Buffer.alloc(length);
  for (let done = 0; done < length;) {
    const { bytesRead } = await zip.handle.read(bytes, done, length - done, position + done);
    if (bytesRead === 0) throw damaged(zip, 'an early end');
    done += bytesRead;
  }
  return bytes;
}

function safe(zip: ZipSource, value: bigint): number {
  if (value <= BigInt(zip.sizeBytes) * 2000n) return Number(value); // deflate shrinks at most 1032 times
  throw damaged(zip, `a size or position of ${value}`);
}

/** The error for a file that is not the zip it should be. */
export function damaged(zip: ZipSource, got: string): UserError {
  return new UserError(
    `${zip.path}: must be a whole zip file, got ${got} in ${zip.sizeBytes} bytes (delete it and run set-up again)`,
  );
}
