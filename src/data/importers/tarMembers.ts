/** The files in a webdataset tar, read as a stream: a damaged tar costs what comes after the damage, not the packing. */
import { createReadStream } from 'node:fs';
import { extract } from 'tar-stream';
import { fileError } from '../../files.js';
import { readBytes, reasonOf, withHandle } from '../bytes/fileBytes.js';
import { isOfDisk } from '../bytes/fileBytes.js';
import { MAX_IMAGE_BYTES } from './source.js';

/** A file within a tar. */
export interface Member {
  /** Path up to the first dot of the base name; what the files of one sample share. */
  readonly key: string;
  /** Path up to the last dot. */
  readonly stem: string;
  /** What follows the key and its dot, in lower case. */
  readonly suffix: string;
  /** In bytes. */
  readonly size: number;
  /** Bytes of the tar up to its end. */
  readonly end: number;
  /** Null if its suffix is not wanted, or it is too large. */
  readonly bytes: Uint8Array | null;
}

const MEMBER_NAME = /^(?:\.\/)?((?:.*\/)?[^./]+)\.([^/]*)$/; // webdataset, tariterators.py, `base_plus_ext`
const BLOCK = 512; // bytes; the unit of a tar, which ends with two blocks of zeros

/**
 * The regular files of a tar that belong to a sample, in its order.
 *
 * @param wanted suffixes of the files whose bytes are of use
 * @param onDamage called at the end if the tar is damaged, cut short or none, with few words
 * @throws UserError if it cannot be opened or read from the disk
 */
export async function* membersOf(
  path: string,
  wanted: ReadonlySet<string>,
  onDamage: (reason: string) => void,
): AsyncGenerator<Member> {
  const { isGzip, ends } = await look(path);
  if (isGzip) {
    onDamage('the tar is gzipped (gunzip it first)');
    return;
  }
  const file = createReadStream(path, { highWaterMark: 2 ** 20 });
  const tar = extract();
  file.on('error', (cause) => tar.destroy(cause)).pipe(tar);
  try {
    for await (const entry of tar) {
      const { type, size } = entry.header;
      const isFile = type === 'file' || type === 'contiguous-file';
      const name = isFile ? nameOf(entry.header.name) : null;
      const used = name && wanted.has(name.suffix) && size <= MAX_IMAGE_BYTES;
      const bytes = used ? await bytesOf(entry, size) : null;
      if (bytes === null) entry.resume(); // passes it over, in pieces
      if (name) yield { ...name, size, bytes, end: file.bytesRead }; // reading is ahead by some pieces
    }
    if (!ends) onDamage('the tar is cut short: its closing zeros are missing');
  } catch (cause) {
    if (isOfDisk(cause)) throw fileError(path, cause); // the disk's fault, not the tar's
    onDamage(`the tar is damaged or cut short (${reasonOf(cause)})`);
  } finally {
    file.destroy();
    tar.destroy();
  }
}

/** Null for a name that belongs to no sample. */
function nameOf(path: string): Pick<Member, 'key' | 'stem' | 'suffix'> | null {
  const [, key, suffix] = MEMBER_NAME.exec(path) ?? [];
  if (key === undefined || suffix === undefined) return null;
  const stem = `${key}.${suffix}`.replace(/\.[^.]*$/, '');
  return { key, stem, suffix: suffix.toLowerCase() };
}

async function bytesOf(entry: AsyncIterable<unknown>, size: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(size);
  let at = 0;
  for await (const chunk of entry) {
    const piece = chunk as Uint8Array; // a stream without an encoding yields bytes
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

/** What the first and last bytes of a tar tell. One that was cut between two members looks whole but for its end. */
async function look(path: string): Promise<{ isGzip: boolean; ends: boolean }> {
  const looking = withHandle(path, async (handle) => {
    const { size } = await handle.stat();
    const [first, second] = await readBytes(handle, path, 0, Math.min(size, 2));
    const last = await readBytes(handle, path, Math.max(size - BLOCK, 0), Math.min(size, BLOCK));
    return { isGzip: first === 0x1f && second === 0x8b, ends: last.every((byte) => byte === 0) };
  });
  return looking.catch((cause: unknown) => {
    throw fileError(path, cause);
  });
}
