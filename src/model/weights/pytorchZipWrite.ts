/**
 * Zip files as `torch.save` writes them: members stored, each one's data aligned to 64 bytes by an extra field "FB".
 * Format: PKWARE APPNOTE.TXT 6.3.10; pytorch, caffe2/serialize/inline_container.cc, `detail::getPadding`.
 */
import type { FileHandle } from 'node:fs/promises';

const ALIGNMENT = 64; // bytes, kFieldAlignment
const FULL_16 = 0xffff;
const FULL_32 = 0xffffffff; // "look in the Zip64 record"
const UTF8_NAMES = 0x0800;
const MIDNIGHT_1980 = 0x00210000; // DOS date and time; a constant, so that the same input gives the same bytes

interface WrittenMember {
  readonly name: Buffer;
  readonly crc: number;
  readonly sizeBytes: number;
  readonly position: number;
}

/** Writes a zip file member by member, from position 0 of a handle that its owner closes. */
export class ZipWriter {
  private readonly members: WrittenMember[] = [];
  private position = 0;

  /** @param zip64From sizes, positions and counts from here on are written as Zip64; other than by default in tests */
  constructor(
    private readonly handle: FileHandle,
    private readonly zip64From = FULL_32,
  ) {}

  /** Writes one member; the bytes are not kept. */
  async add(name: string, bytes: Uint8Array): Promise<void> {
    const member: WrittenMember = {
      name: Buffer.from(name),
      crc: crc32(bytes),
      sizeBytes: bytes.byteLength,
      position: this.position,
    };
    this.members.push(member);
    await this.write(this.localHeader(member));
    await this.write(bytes);
  }

  /** Writes the table of contents. */
  async finish(): Promise<void> {
    const start = this.position;
    const count = this.members.length;
    await this.write(Buffer.concat(this.members.map((member) => this.entry(member))));
    const length = this.position - start;
    if (this.isBig(start) || this.isBig(length) || count >= Math.min(FULL_16, this.zip64From)) {
      await this.write(end64(this.position, { start, length, count }));
    }
    const end = Buffer.alloc(22);
    end.writeUInt32LE(0x06054b50, 0);
    end.writeUInt16LE(this.short(count, FULL_16), 8); // on this disk
    end.writeUInt16LE(this.short(count, FULL_16), 10);
    end.writeUInt32LE(this.short(length), 12);
    end.writeUInt32LE(this.short(start), 16);
    await this.write(end);
  }

  private localHeader(member: WrittenMember): Buffer {
    const { sizeBytes } = member;
    const sizes = this.isBig(sizeBytes) ? zip64Field([sizeBytes, sizeBytes]) : Buffer.alloc(0);
    const fixed = 30 + member.name.length + sizes.length + 4; // 4: the padding's own id and length
    const padding = (ALIGNMENT - ((member.position + fixed) % ALIGNMENT)) % ALIGNMENT;
    const head = Buffer.alloc(30);
    head.writeUInt32LE(0x04034b50, 0);
    this.describe(member, head, 4);
    head.writeUInt16LE(sizes.length + 4 + padding, 28);
    const pad = Buffer.alloc(4 + padding, 'Z');
    pad.write('FB', 'latin1');
    pad.writeUInt16LE(padding, 2);
    return Buffer.concat([head, member.name, sizes, pad]);
  }

  private entry(member: WrittenMember): Buffer {
    const { sizeBytes, position, name } = member;
    const big = [sizeBytes, sizeBytes, position].filter((value) => this.isBig(value));
    const extra = big.length === 0 ? Buffer.alloc(0) : zip64Field(big);
    const head = Buffer.alloc(46);
    head.writeUInt32LE(0x02014b50, 0);
    head.writeUInt16LE(this.version(member), 4); // made by
    this.describe(member, head, 6);
    head.writeUInt16LE(extra.length, 30);
    head.writeUInt32LE(this.short(position), 42);
    return Buffer.concat([head, name, extra]);
  }

  /** The eight fields that a local header and an entry share. */
  private describe(member: WrittenMember, head: Buffer, at: number): void {
    head.writeUInt16LE(this.version(member), at);
    head.writeUInt16LE(UTF8_NAMES, at + 2);
    head.writeUInt16LE(0, at + 4); // stored
    head.writeUInt32LE(MIDNIGHT_1980, at + 6);
    head.writeUInt32LE(member.crc, at + 10);
    head.writeUInt32LE(this.short(member.sizeBytes), at + 14); // compressed
    head.writeUInt32LE(this.short(member.sizeBytes), at + 18);
    head.writeUInt16LE(member.name.length, at + 22);
  }

  private version({ sizeBytes, position }: WrittenMember): number {
    return this.isBig(sizeBytes) || this.isBig(position) ? 45 : 20;
  }

  private isBig(value: number): boolean {
    return value >= this.zip64From;
  }

  private short(value: number, full = FULL_32): number {
    return value >= Math.min(full, this.zip64From) ? full : value;
  }

  private async write(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.byteLength;) {
      const part = Math.min(bytes.byteLength - done, 2 ** 28); // Linux stops at 2 GiB
      const { bytesWritten } = await this.handle.write(bytes, done, part);
      done += bytesWritten;
    }
    this.position += bytes.byteLength;
  }
}

/** The Zip64 record and its locator, for a table of contents from `start`. */
function end64(position: number, directory: { start: number; length: number; count: number }): Buffer {
  const record = Buffer.alloc(56 + 20);
  record.writeUInt32LE(0x06064b50, 0);
  record.writeBigUInt64LE(44n, 4); // bytes that follow in the record
  record.writeUInt16LE(45, 12); // made by
  record.writeUInt16LE(45, 14); // needed
  record.writeBigUInt64LE(BigInt(directory.count), 24); // on this disk
  record.writeBigUInt64LE(BigInt(directory.count), 32);
  record.writeBigUInt64LE(BigInt(directory.length), 40);
  record.writeBigUInt64LE(BigInt(directory.start), 48);
  record.writeUInt32LE(0x07064b50, 56);
  record.writeBigUInt64LE(BigInt(position), 64);
  record.writeUInt32LE(1, 72); // disks
  return record;
}

function zip64Field(values: readonly number[]): Buffer {
  const field = Buffer.alloc(4 + 8 * values.length);
  field.writeUInt16LE(1, 0);
  field.writeUInt16LE(8 * values.length, 2);
  for (const [i, value] of values.entries()) field.writeBigUInt64LE(BigInt(value), 4 + 8 * i);
  return field;
}

/** Remainders of a byte (first 256), and of a byte with 1 to 7 zero bytes behind it. */
const TABLES = crcTables();

/** CRC-32 as zip has it (polynomial 0xedb88320), eight bytes at a time; Node's own is not in every Node 20. */
export function crc32(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let crc = -1;
  let at = 0;
  for (; at + 8 <= bytes.length; at += 8) {
    const low = crc ^ view.getInt32(at, true);
    const high = view.getInt32(at + 4, true);
    crc = fourBytes(low, 7 * 256) ^ fourBytes(high, 3 * 256);
  }
  for (; at < bytes.length; at++) crc = row(0, crc ^ view.getUint8(at)) ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** Remainder of a word's bytes, the first of them by the table that begins at `table`. */
function fourBytes(word: number, table: number): number {
  const low = row(table, word) ^ row(table - 256, word >>> 8);
  return low ^ row(table - 512, word >>> 16) ^ row(table - 768, word >>> 24);
}

function row(table: number, byte: number): number {
  return TABLES[table + (byte & 255)] ?? 0;
}

function crcTables(): Int32Array {
  const tables = new Int32Array(8 * 256);
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
    tables[byte] = crc;
  }
  for (let i = 256; i < tables.length; i++) {
    const before = tables[i - 256] ?? 0;
    tables[i] = (tables[before & 255] ?? 0) ^ (before >>> 8);
  }
  return tables;
}
