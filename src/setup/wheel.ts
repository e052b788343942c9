/** Unpacking Python wheels (zip files) without an external program: `unzip` may be missing where set-up runs. */
import { mkdir, open, writeFile, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createInflateRaw, inflateRawSync } from 'node:zlib';

import { UserError } from '../errors.js';
import { fileError, writeFolderWhole } from '../files.js';
import { requireSpace } from './disk.js';
import { silent, type OnProgress } from './progress.js';
import { damaged, dataPosition, listZip, type ZipMember, type ZipSource } from './zip.js';

/** Options of `extractWheel`. */
export interface ExtractOptions {
  /** Which members, by their path inside the wheel (`tensorflow/libtensorflow_cc.so.2`). */
  readonly wanted: (name: string) => boolean;
  readonly onProgress?: OnProgress;
}

/** Read and written at once; larger files are forced to disk before the folder appears, headers by the thousand are not. */
const CHUNK_BYTES = 2 ** 18;

/**
 * Extracts the wanted members of a wheel under their own paths. The folder appears only when all of it is there.
 *
 * @param toFolder made by this; must not exist, or be empty
 * @returns the extracted members' paths inside `toFolder`, in the wheel's order
 * @throws UserError if the wheel is damaged or holds no wanted member, or there is no space for them
 */
export async function extractWheel(
  wheelPath: string,
  toFolder: string,
  options: ExtractOptions,
): Promise<string[]> {
  return withZip(wheelPath, async (zip) => {
    const members = (await listZip(zip)).filter((member) => options.wanted(member.name));
    if (members.length === 0)
      throw new UserError(`${wheelPath}: must hold the wanted files, got none of them (another version?)`);
    requireDistinct(zip, members);
    const totalBytes = members.reduce((sum, member) => sum + member.sizeBytes, 0);
    await requireSpace(toFolder, totalBytes, `setup: unpacking ${members.length} files`);
    const report = reporter(totalBytes, options.onProgress ?? silent);
    await writeFolderWhole(toFolder, async (folder) => {
      for (const inside of foldersOf(members)) await mkdir(join(folder, inside), { recursive: true });
      for (const member of members) await extractMember(zip, member, join(folder, member.name), report);
    });
    return members.map((member) => member.name);
  });
}

/** Names of the files in a wheel. */
export async function listWheel(wheelPath: string): Promise<string[]> {
  return withZip(wheelPath, async (zip) => (await listZip(zip)).map((member) => member.name));
}

async function withZip<T>(path: string, use: (zip: ZipSource) => Promise<T>): Promise<T> {
  const handle = await open(path, 'r').catch((error: unknown) => {
    throw fileError(path, error);
  });
  try {
    return await use({ path, handle, sizeBytes: (await handle.stat()).size });
  } finally {
    await handle.close();
  }
}

async function extractMember(
  zip: ZipSource,
  member: ZipMember,
  target: string,
  report: (bytes: number) => void,
): Promise<void> {
  const start = await dataPosition(zip, member);
  const check = new MemberCheck(zip, member, report);
  try {
    await (isSmall(member)
      ? extractSmall(zip, member, start, target, check)
      : extractLarge(zip, member, start, target, check));
  } catch (error) {
    throw isInflateError(error) ? damaged(zip, `${member.name} not decompressible`) : error;
  }
}

function isSmall({ sizeBytes, compressedBytes }: ZipMember): boolean {
  return Math.max(sizeBytes, compressedBytes) <= CHUNK_BYTES;
}

/** In one piece: a wheel's ten thousand headers would otherwise cost a stream each. */
async function extractSmall(
  zip: ZipSource,
  member: ZipMember,
  start: number,
  target: string,
  check: MemberCheck,
): Promise<void> {
  const chunks = [];
  for await (const chunk of readRange(zip, start, member.compressedBytes)) chunks.push(chunk);
  const packed = Buffer.concat(chunks);
  const bytes =
    member.method === 'deflate' ? inflateRawSync(packed, { maxOutputLength: CHUNK_BYTES }) : packed;
  check.add(bytes);
  check.finish();
  await writeFile(target, bytes, { flag: 'wx' });
}

async function extractLarge(
  zip: ZipSource,
  member: ZipMember,
  start: number,
  target: string,
  check: MemberCheck,
): Promise<void> {
  const file = await open(target, 'wx');
  try {
    const source = readRange(zip, start, member.compressedBytes);
    const sink = fileSink(file, (bytes) => check.add(bytes));
    const inflate = createInflateRaw({ chunkSize: CHUNK_BYTES });
    await (member.method === 'deflate' ? pipeline(source, inflate, sink) : pipeline(source, sink));
    check.finish();
    await file.sync();
  } finally {
    await file.close();
  }
}

async function* readRange(zip: ZipSource, start: number, length: number): AsyncGenerator<Buffer> {
  for (let done = 0; done < length;) {
    const chunk = Buffer.allocUnsafe(Math.min(length - done, CHUNK_BYTES));
    const { bytesRead } = await zip.handle.read(chunk, 0, chunk.length, start + done);
    if (bytesRead === 0) throw damaged(zip, 'an early end');
    done += bytesRead;
    yield chunk.subarray(0, bytesRead);
  }
}

/** Writes to a file, showing every chunk to `check` first. */
function fileSink(file: FileHandle, check: (bytes: Uint8Array) => void): Writable {
  return new Writable({
    write(chunk: Uint8Array, _encoding, done) {
      const written = async () => {
        check(chunk);
        await file.writeFile(chunk); // from the current position on, however many system calls it takes
      };
      written().then(() => done(), done);
    },
  });
}

/** Counts and checks what comes out of a member, and stops at the first byte too many. */
class MemberCheck {
  private sizeBytes = 0;
  private crc = 0xffffffff;

  constructor(
    private readonly zip: ZipSource,
    private readonly member: ZipMember,
    private readonly report: (bytes: number) => void,
  ) {}

  add(bytes: Uint8Array): void {
    this.sizeBytes += bytes.length;
    if (this.sizeBytes > this.member.sizeBytes)
      throw damaged(this.zip, `${this.member.name} longer than it says`);
    let crc = this.crc;
    for (const byte of bytes) crc = (crc >>> 8) ^ (CRC_TABLE[(crc ^ byte) & 0xff] ?? 0);
    this.crc = crc;
    this.report(bytes.length);
  }

  finish(): void {
    const { name, sizeBytes, crc32 } = this.member;
    if (this.sizeBytes !== sizeBytes)
      throw damaged(this.zip, `${name} with ${this.sizeBytes} of ${sizeBytes} bytes`);
    if ((this.crc ^ 0xffffffff) >>> 0 !== crc32) throw damaged(this.zip, `${name} with a wrong checksum`);
  }
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1; // zip's polynomial, reflected
  return crc;
});

function reporter(totalBytes: number, onProgress: OnProgress): (bytes: number) => void {
  let doneBytes = 0;
  return (bytes) => {
    doneBytes += bytes;
    onProgress({ task: 'unpacking', doneBytes, totalBytes });
  };
}

function requireDistinct(zip: ZipSource, members: readonly ZipMember[]): void {
  const names = new Set<string>();
  for (const { name } of members) {
    if (names.has(name)) throw damaged(zip, `${name} twice`);
    names.add(name);
  }
}

function foldersOf(members: readonly ZipMember[]): Set<string> {
  return new Set(members.map(({ name }) => dirname(name)));
}

function isInflateError(error: unknown): boolean {
  return error instanceof Error && 'code' in error && /^Z_|^ERR_BUFFER_TOO_LARGE$/.test(String(error.code));
}
