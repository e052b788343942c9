/**
 * The members of a PyTorch zip file, Zip64 included, each as a range of the file: PyTorch stores them uncompressed.
 * Format: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 to 4.5; pytorch, caffe2/serialize/inline_container.cc.
 */
import { findZipEnd, ZIP_FULL_16, ZIP_FULL_32, zipEntrySizes } from '../../zipFormat.js';
import { malformed } from './pytorchValues.js';
import type { RangeFile } from './weightsFile.js';

/** One member, as the zip's table of contents has it. */
interface Member {
  readonly name: string;
  readonly stored: boolean;
  readonly sizeBytes: number;
  readonly headerPosition: number;
}

interface Directory {
  readonly position: number;
  readonly length: number;
  readonly count: number;
}

const LOCAL = { signature: 0x04034b50, length: 30 };
const ENTRY = { signature: 0x02014b50, length: 46 };
const END_BYTES = 22;
const END64 = { signature: 0x06064b50, length: 56 };
const LOCATOR64 = { signature: 0x07064b50, length: 20 };
const MAX_COMMENT = 0xffff;
const MAX_DIRECTORY_BYTES = 32 * 2 ** 20;
const MAX_MEMBERS = 250_000; // far above any model's storages; bounds what a hostile file can make us hold

/** The members of an open zip file; its owner closes the file. */
export class PyTorchZip {
  private constructor(
    private readonly file: RangeFile,
    private readonly members: ReadonlyMap<string, Member>,
    private readonly dataEnd: number,
  ) {}

  /**
   * Reads the table of contents.
   *
   * @throws UserError if there is none, it is damaged, names a member twice, or lists more than any model has
   */
  static async open(file: RangeFile): Promise<PyTorchZip> {
    const { position, length, count } = await findDirectory(file);
    const bytes = Buffer.from((await file.read(position, length)).buffer);
    const members = new Map<string, Member>();
    let at = 0;
    for (let i = 0; i < count; i++) {
      const { member, next } = parseEntry(file, bytes, at);
      if (members.has(member.name)) throw damaged(file, `${JSON.stringify(member.name)} twice`);
      members.set(member.name, member);
      at = next;
    }
    return new PyTorchZip(file, members, position);
  }

  /** Names of all members, in the table's order. */
  names(): IterableIterator<string> {
    return this.members.keys();
  }

  /**
   * Bytes of a member; undefined if there is none.
   *
   * @throws UserError if the member is compressed or cannot lie where the table says
   */
  size(name: string): number | undefined {
    const member = this.members.get(name);
    if (member === undefined) return undefined;
    if (!member.stored) throw damaged(this.file, `${name} compressed or encrypted, which PyTorch never does`);
    if (member.headerPosition + LOCAL.length + name.length + member.sizeBytes > this.dataEnd) {
      throw damaged(this.file, `${name} of ${member.sizeBytes} bytes at ${member.headerPosition}`);
    }
    return member.sizeBytes;
  }

  /**
   * The bytes [position, position + length) of a member, in memory of their own.
   *
   * @throws UserError if there is no such member, `size` would throw, or its local header is damaged
   */
  async read(name: string, position: number, length: number): Promise<Uint8Array> {
    const member = this.members.get(name);
    const sizeBytes = this.size(name);
    if (member === undefined || sizeBytes === undefined) throw damaged(this.file, `no ${name}`);
    const start = await this.dataPosition(member);
    if (position + length > sizeBytes || start + sizeBytes > this.dataEnd) {
      throw damaged(this.file, `${name} of ${sizeBytes} bytes, too few`);
    }
    return this.file.read(start + position, length);
  }

  /** Where a member's bytes begin: behind its local header, whose padding the table of contents does not know. */
  private async dataPosition({ name, headerPosition }: Member): Promise<number> {
    const header = Buffer.from((await this.file.read(headerPosition, LOCAL.length)).buffer);
    if (header.readUInt32LE(0) !== LOCAL.signature) throw damaged(this.file, `no header for ${name}`);
    const nameLength = header.readUInt16LE(26);
    const localName = await this.file.read(headerPosition + LOCAL.length, nameLength);
    if (Buffer.from(localName).toString() !== name) throw damaged(this.file, `another header for ${name}`);
    return headerPosition + LOCAL.length + nameLength + header.readUInt16LE(28);
  }
}

async function findDirectory(file: RangeFile): Promise<Directory> {
  const tailLength = Math.min(file.sizeBytes, END_BYTES + MAX_COMMENT);
  const tailPosition = file.sizeBytes - tailLength;
  const tail = Buffer.from((await file.read(tailPosition, tailLength)).buffer);
  const end = findZipEnd(tail);
  if (end < 0) throw damaged(file, 'no table of contents');
  const count = tail.readUInt16LE(end + 10);
  const length = tail.readUInt32LE(end + 12);
  const position = tail.readUInt32LE(end + 16);
  const big = count === ZIP_FULL_16 || length === ZIP_FULL_32 || position === ZIP_FULL_32;
  const found = big ? await findDirectory64(file, tailPosition + end) : { count, length, position };
  const fits = found.position + found.length <= tailPosition + end;
  if (!fits || found.length > MAX_DIRECTORY_BYTES || found.count > MAX_MEMBERS) {
    const what = `${found.count} members in ${found.length} bytes at ${found.position}`;
    throw damaged(file, `a table of contents of ${what}`);
  }
  return found;
}

async function findDirectory64(file: RangeFile, endPosition: number): Promise<Directory> {
  const read = async (position: number, length: number, signature: number): Promise<Buffer> => {
    const inside = position >= 0 && position + length <= endPosition;
    const bytes = inside ? Buffer.from((await file.read(position, length)).buffer) : undefined;
    if (bytes?.readUInt32LE(0) !== signature) throw damaged(file, 'no Zip64 record');
    return bytes;
  };
  const locator = await read(endPosition - LOCATOR64.length, LOCATOR64.length, LOCATOR64.signature);
  const record = await read(Number(locator.readBigUInt64LE(8)), END64.length, END64.signature);
  const number = (at: number): number => Number(record.readBigUInt64LE(at));
  return { count: number(32), length: number(40), position: number(48) };
}

function parseEntry(file: RangeFile, bytes: Buffer, at: number): { member: Member; next: number } {
  if (at + ENTRY.length > bytes.length || bytes.readUInt32LE(at) !== ENTRY.signature) {
    throw damaged(file, `no entry at byte ${at} of its table of contents`);
  }
  const nameEnd = at + ENTRY.length + bytes.readUInt16LE(at + 28);
  const extraEnd = nameEnd + bytes.readUInt16LE(at + 30);
  const next = extraEnd + bytes.readUInt16LE(at + 32);
  if (next > bytes.length) throw damaged(file, 'an entry that reaches past its table of contents');
  const name = bytes.toString('utf8', at + ENTRY.length, nameEnd);
  const sizes = zipEntrySizes(bytes, at, bytes.subarray(nameEnd, extraEnd), {
    toNumber: Number, // rounded beyond 2^53, where no file ends
    missing: () => damaged(file, 'a large member without its Zip64 sizes'),
  });
  const plain = bytes.readUInt16LE(at + 10) === 0 && (bytes.readUInt16LE(at + 8) & 1) === 0;
  const stored = plain && sizes.sizeBytes === sizes.compressedBytes;
  return { member: { name, stored, ...sizes }, next };
}

function damaged(file: RangeFile, got: string): Error {
  return malformed(file.path, 'must be a whole zip file as torch.save writes it', got);
}
