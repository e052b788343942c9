/** Small zip files built byte by byte, valid or broken in one place. */
import { crc32, deflateRawSync } from 'node:zlib';

/** One member to put into a zip. */
export interface Entry {
  readonly name: string;
  readonly data: Buffer;
  readonly stored?: boolean;
  /** Write its sizes and position into Zip64 fields. */
  readonly zip64?: boolean;
  /** What the table of contents says instead of the truth. */
  readonly lie?: {
    readonly crc32?: number;
    readonly sizeBytes?: number;
    readonly flags?: number;
    readonly method?: number;
  };
}

/** The bytes of a zip; `zip64` writes the Zip64 end records too. */
export function makeZip(entries: readonly Entry[], { zip64 = false, comment = '' } = {}): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let position = 0;
  for (const entry of entries) {
    const name = Buffer.from(entry.name);
    const body = entry.stored ? entry.data : deflateRawSync(entry.data);
    const header = Buffer.alloc(30);
    header.writeUInt32LE(0x04034b50, 0);
    header.writeUInt16LE(name.length, 26);
    parts.push(header, name, body);
    directory.push(entryOf(entry, name, body.length, position));
    position += header.length + name.length + body.length;
  }
  const table = Buffer.concat(directory);
  return Buffer.concat([...parts, table, ...endOf(entries.length, table.length, position, zip64, comment)]);
}

function entryOf(
  { data, stored, zip64 = false, lie = {} }: Entry,
  name: Buffer,
  compressed: number,
  position: number,
): Buffer {
  const sizeBytes = lie.sizeBytes ?? data.length;
  const extra = Buffer.alloc(zip64 ? 28 : 0);
  if (zip64) {
    extra.writeUInt16LE(1, 0);
    extra.writeUInt16LE(24, 2);
    [sizeBytes, compressed, position].forEach((value, i) => extra.writeBigUInt64LE(BigInt(value), 4 + 8 * i));
  }
  const entry = Buffer.alloc(46);
  entry.writeUInt32LE(0x02014b50, 0);
  entry.writeUInt16LE(lie.flags ?? 0, 8);
  entry.writeUInt16LE(lie.method ?? (stored ? 0 : 8), 10);
  entry.writeUInt32LE(lie.crc32 ?? crc32(data), 16);
  entry.writeUInt32LE(zip64 ? 0xffffffff : compressed, 20);
  entry.writeUInt32LE(zip64 ? 0xffffffff : sizeBytes, 24);
  entry.writeUInt16LE(name.length, 28);
  entry.writeUInt16LE(extra.length, 30);
  entry.writeUInt32LE(zip64 ? 0xffffffff : position, 42);
  return Buffer.concat([entry, name, extra]);
}

function endOf(count: number, length: number, position: number, zip64: boolean, comment: string): Buffer[] {
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(zip64 ? 0xffff : count, 10);
  end.writeUInt32LE(zip64 ? 0xffffffff : length, 12);
  end.writeUInt32LE(zip64 ? 0xffffffff : position, 16);
  end.writeUInt16LE(Buffer.byteLength(comment), 20);
  if (!zip64) return [end, Buffer.from(comment)];
  const record = Buffer.alloc(56);
  record.writeUInt32LE(0x06064b50, 0);
  [count, length, position].forEach((value, i) => record.writeBigUInt64LE(BigInt(value), 32 + 8 * i));
  const locator = Buffer.alloc(20);
  locator.writeUInt32LE(0x07064b50, 0);
  locator.writeBigUInt64LE(BigInt(position + length), 8);
  return [record, locator, end, Buffer.from(comment)];
}
