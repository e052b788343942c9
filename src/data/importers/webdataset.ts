/**
 * Pairs from webdataset tars as img2dataset writes them: the form of MiniGPT-4's stage-1 data. Tars are read as streams,
 * one sample in memory at a time; a damaged one costs what comes after the damage, not the packing.
 */
import { createReadStream } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { extract } from 'tar-stream';
import { fileError } from '../../files.js';
import { readBytes, reasonOf, withHandle } from '../bytes/fileBytes.js';
import type { ImageTextPair } from '../pairs.js';
import {
  filesIdentity,
  MAX_IMAGE_BYTES,
  readPairs,
  ready,
  type Found,
  type ImportOptions,
  type ImportProblem,
  type Source,
  type SourceItem,
} from './source.js';

/** Extra columns that pairs of tars may have. Named before the first pair: a later tar may be the first that has one. */
export const TAR_COLUMNS: readonly string[] = ['url'];

/** A file within a tar. */
interface Member {
  /** Path up to the first dot of the base name; what the files of one sample share. */
  readonly key: string;
  /** What follows that dot, in lower case. */
  readonly suffix: string;
  /** In bytes. */
  readonly size: number;
  /** Bytes of the tar up to its end. */
  readonly end: number;
  /** Null if it is of no use here, or too large. */
  readonly bytes: Uint8Array | null;
}

/** Consecutive members of one key. */
interface Sample {
  readonly key: string;
  /** Bytes of the tar up to its end. */
  end: number;
  /** By suffix; of several with one suffix the first. */
  readonly files: Map<string, Uint8Array>;
  /** Suffixes that came again. */
  readonly repeated: Set<string>;
  /** Why it cannot be used, if its members tell already. */
  fault?: Reason;
}

/** Why a sample gives no pair. */
type Reason = Omit<ImportProblem, 'where'>;

const TAR_NAME = /\.(tar|tar\.gz|tgz)$/i;
const MEMBER_NAME = /^(?:\.\/)?((?:.*\/)?[^./]+)\.([^/]*)$/; // webdataset, tariterators.py, `base_plus_ext`
const IMAGE_SUFFIXES = ['jpg', 'jpeg', 'png', 'webp'];
const USED_SUFFIXES = new Set([...IMAGE_SUFFIXES, 'json', 'txt']);
const BLOCK = 512; // bytes; the unit of a tar, which ends with two blocks of zeros
const PYTHON_NUMBERS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?(?:NaN|Infinity)/gs;
const KEY_AGAIN = 'its key came before in this tar, apart from these files (they must follow each other)';
const UTF8 = new TextDecoder('utf-8', { fatal: true });

/** Whether a file is a tar by its name: `.tar`, or `.tar.gz` and `.tgz`, which are told of as problems. */
export function isTar(name: string): boolean {
  return TAR_NAME.test(name);
}

/**
 * The tars that lie in a folder, in the order of their names; subfolders are not searched.
 *
 * @throws UserError if the folder cannot be read
 */
export async function tarsIn(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((cause: unknown) => {
    throw fileError(folder, cause);
  });
  const tars = entries.filter((e) => !e.isDirectory() && isTar(e.name) && !e.name.startsWith('.'));
  return tars.map(({ name }) => join(folder, name)).sort();
}

/**
 * The pairs of a tar, or of each tar in a folder. A sample is `KEY.jpg` (`.jpeg`, `.png`, `.webp`) with `KEY.json`, whose
 * `caption` is taken as it stands, one after the other in the tar. In a tar without json files `KEY.txt` is the caption;
 * where other samples have a json, one without is left out, as MiniGPT-4 leaves it. The id is `TAR/KEY`, the bytes are
 * those of the member (not decoded here), the extra column is `url` of the json.
 *
 * @param source a tar, or a folder with tars; other files beside them are ignored
 * @throws UserError if the source, or when it is read one of its tars, cannot be opened or read from the disk
 * Source: webdataset 0.2.48, tariterators.py; Vision-CAIR/MiniGPT-4, minigpt4/datasets/datasets/cc_sbu_dataset.py.
 */
export async function tarSource(source: string): Promise<Source> {
  const status = await stat(source).catch((cause: unknown) => {
    throw fileError(source, cause);
  });
  const tars = status.isDirectory() ? await tarsIn(source) : [source];
  const identity = await filesIdentity(tars);
  const parts = tars.map(async (path) => ({ size: (await stat(path)).size, items: () => itemsOf(path) }));
  return {
    kind: 'webdataset tars',
    columns: TAR_COLUMNS,
    unit: 'bytes',
    identity,
    parts: await Promise.all(parts),
  };
}

/** Pairs of tars one after the other, as `tarSource` has them. @throws UserError as that does */
export async function* readTars(source: string, options: ImportOptions = {}): AsyncGenerator<ImageTextPair> {
  yield* readPairs(await tarSource(source), options);
}

async function* itemsOf(path: string): AsyncGenerator<SourceItem> {
  const name = basename(path).replace(TAR_NAME, '');
  const keys = new Set<string>();
  const damages: string[] = [];
  let hasJson = false;
  let pairs = 0;
  let passed = 0;
  for await (const sample of samplesOf(membersOf(path, (damage) => damages.push(damage)))) {
    const { key, files, end } = sample;
    hasJson ||= files.has('json');
    const found = foundIn(path, name, sample, keys.has(key), hasJson);
    keys.add(key);
    passed = end;
    if (found.pair) pairs += 1;
    yield ready(passed, found);
  }
  if (damages.length === 0 && keys.size === 0) damages.push('no image, json or txt file in it');
  const problems = damages.map((reason) => ({
    where: path,
    reason,
    detail: `pairs read from it: ${pairs}`,
  }));
  if (problems.length > 0) yield ready(passed, { problems });
}

/** The pair of a sample and what is wrong with it. */
function foundIn(path: string, tar: string, sample: Sample, cameBefore: boolean, needsJson: boolean): Found {
  const { key, repeated } = sample;
  const where = `${path}:${key}`;
  const problems: ImportProblem[] = [];
  if (repeated.size > 0)
    problems.push({ where, reason: `more than one ${[...repeated].join(', ')}; the first is taken` });
  const content = cameBefore ? { reason: KEY_AGAIN } : contentOf(sample, needsJson);
  if ('reason' in content) return { problems: [...problems, { where, ...content }] };
  return { pair: { id: `${tar}/${key}`, ...content }, problems };
}

/** Joins consecutive members of one key; samples without any file of use are passed over. */
async function* samplesOf(members: AsyncIterable<Member>): AsyncGenerator<Sample> {
  let sample: Sample | undefined;
  for await (const { key, suffix, size, end, bytes } of members) {
    if (sample?.key !== key) {
      if (sample && isOfUse(sample)) yield sample;
      sample = { key, end, files: new Map(), repeated: new Set() };
    }
    sample.end = end;
    if (!USED_SUFFIXES.has(suffix)) continue;
    if (bytes === null)
      sample.fault = {
        reason: `its ${suffix} must have at most ${MAX_IMAGE_BYTES} bytes`,
        detail: String(size),
      };
    else if (sample.files.has(suffix)) sample.repeated.add(suffix);
    else sample.files.set(suffix, bytes);
  }
  if (sample && isOfUse(sample)) yield sample;
}

function isOfUse({ files, fault }: Sample): boolean {
  return files.size > 0 || fault !== undefined;
}

/** What a pair needs of a sample, or why there is none. */
function contentOf({ files, fault }: Sample, needsJson: boolean): Omit<ImageTextPair, 'id'> | Reason {
  if (fault) return fault;
  const image = IMAGE_SUFFIXES.map((suffix) => files.get(suffix)).find((bytes) => bytes !== undefined);
  if (!image) return { reason: 'no image (jpg, jpeg, png or webp)' };
  if (image.length === 0) return { reason: 'the image is empty' };
  const json = files.get('json');
  const text = files.get('txt');
  if (!json && needsJson) return { reason: 'no json, which other samples of this tar have' };
  if (!json && !text) return { reason: 'no json or txt beside the image' };
  const fields = json ? parseObject(json) : { caption: text && decodeText(text) };
  if (fields === null) return { reason: 'the json is not a JSON object' };
  const { caption, url } = fields;
  if (typeof caption !== 'string')
    return { reason: json ? 'no caption in the json' : 'the txt is not UTF-8 text' };
  if (caption.trim() === '') return { reason: 'caption is empty' };
  return { image, caption, extra: typeof url === 'string' && url !== '' ? { url } : {} };
}

/** Null if the bytes are not UTF-8. */
function decodeText(bytes: Uint8Array): string | null {
  try {
    return UTF8.decode(bytes);
  } catch {
    return null; // the caller reports the sample
  }
}

/** An object that Python's `json` wrote: it may hold NaN and Infinity, which become null. */
function parseObject(bytes: Uint8Array): { caption?: unknown; url?: unknown } | null {
  const text = decodeText(bytes)?.replace(PYTHON_NUMBERS, (part) => (part.startsWith('"') ? part : 'null'));
  try {
    const value: unknown = JSON.parse(text ?? '');
    return typeof value === 'object' && !Array.isArray(value) ? value : null;
  } catch {
    return null; // the caller reports the sample
  }
}

/**
 * The regular files of a tar that belong to a sample, in its order.
 *
 * @param onDamage called at the end if the tar is damaged, cut short or none, with few words
 */
async function* membersOf(path: string, onDamage: (reason: string) => void): AsyncGenerator<Member> {
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
      const used = name && USED_SUFFIXES.has(name.suffix) && size <= MAX_IMAGE_BYTES;
      const bytes = used ? await bytesOf(entry, size) : null;
      if (bytes === null) entry.resume(); // passes it over, in pieces
      if (name) yield { ...name, size, bytes, end: file.bytesRead }; // reading is ahead by some pieces
    }
    if (!ends) onDamage('the tar is cut short: its closing zeros are missing');
  } catch (cause) {
    if (cause instanceof Error && 'syscall' in cause) throw fileError(path, cause); // the disk's fault, not the tar's
    onDamage(`the tar is damaged or cut short (${reasonOf(cause)})`);
  } finally {
    file.destroy();
    tar.destroy();
  }
}

/** Null for a name that belongs to no sample. */
function nameOf(path: string): Pick<Member, 'key' | 'suffix'> | null {
  const [, key, suffix] = MEMBER_NAME.exec(path) ?? [];
  return key === undefined || suffix === undefined ? null : { key, suffix: suffix.toLowerCase() };
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
