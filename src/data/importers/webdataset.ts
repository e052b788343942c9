/**
 * Pairs from webdataset tars as img2dataset writes them: the form of MiniGPT-4's stage-1 data. One sample is in memory at
 * a time.
 */
import { readdir, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fileError } from '../../files.js';
import type { ImageTextPair } from '../pairs.js';
import {
  decodeText,
  filesIdentity,
  isRecord,
  MAX_IMAGE_BYTES,
  readPairs,
  ready,
  type Found,
  type ImportOptions,
  type ImportProblem,
  type Source,
  type SourceItem,
} from './source.js';
import { membersOf, type Member } from './tarMembers.js';

/** Extra columns that pairs of tars may have. Named before the first pair: a later tar may be the first that has one. */
export const TAR_COLUMNS: readonly string[] = ['url'];

/** Consecutive members of one key. */
interface Sample {
  readonly key: string;
  /** Bytes of the tar up to its end. */
  end: number;
  /** By suffix; of several with one suffix the first. */
  readonly files: Map<string, Uint8Array>;
  /** Suffixes that came again. */
  readonly repeated: Set<string>;
  /** Paths without their ending of members that would be of use but for a further dot in their names. */
  readonly dotted: Set<string>;
  /** Why it cannot be used, if its members tell already. */
  fault?: Reason;
}

/** Why a sample gives no pair. */
type Reason = Omit<ImportProblem, 'where'>;

const TAR_NAME = /\.(tar|tar\.gz|tgz)$/i;
const IMAGE_SUFFIXES = ['jpg', 'jpeg', 'png', 'webp'];
const USED_SUFFIXES = new Set([...IMAGE_SUFFIXES, 'json', 'txt']);
const PYTHON_NUMBERS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?(?:NaN|Infinity)/gs;
const NO_JSON = 'no json, after the first json of its tar';
const DOTTED = "its name has a further dot (webdataset's keys end at the first)";
const KEY_AGAIN = 'its key came before in this tar, apart from these files (they must follow each other)';

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
 * `caption` is taken as it stands, one after the other in the tar. Without a json `KEY.txt` is the caption, but for samples
 * after the first json of their tar, which are left out as MiniGPT-4 leaves them. The id is `TAR/KEY`, the bytes are those
 * of the member (not decoded here), the extra column is `url` of the json.
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
  let [hasJson, isEmpty] = [false, true];
  let [pairs, passed] = [0, 0];
  for await (const sample of samplesOf(membersOf(path, USED_SUFFIXES, (damage) => damages.push(damage)))) {
    const { key, files, end } = sample;
    [hasJson, isEmpty, passed] = [hasJson || files.has('json'), false, end];
    const found = foundIn(path, name, sample, keys.has(key), hasJson);
    if (isOfUse(sample)) keys.add(key);
    if (found.pair) pairs += 1;
    yield ready(passed, found);
  }
  if (damages.length === 0 && isEmpty) damages.push('no image, json or txt file in it');
  const problems = damages.map((reason) => ({
    where: path,
    reason,
    detail: `pairs read from it: ${pairs}`,
  }));
  if (problems.length > 0) yield ready(passed, { problems });
}

/** The pair of a sample and what is wrong with it. */
function foundIn(path: string, tar: string, sample: Sample, cameBefore: boolean, needsJson: boolean): Found {
  const { key, repeated, dotted } = sample;
  if (!isOfUse(sample))
    return { problems: [...dotted].map((stem) => ({ where: `${path}:${stem}`, reason: DOTTED })) };
  const where = `${path}:${key}`;
  const problems: ImportProblem[] = [];
  if (repeated.size > 0)
    problems.push({ where, reason: `more than one ${[...repeated].join(', ')}; the first is taken` });
  const content = cameBefore ? { reason: KEY_AGAIN } : contentOf(sample, needsJson);
  if ('reason' in content) return { problems: [...problems, { where, ...content }] };
  return { pair: { id: `${tar}/${key}`, ...content }, problems };
}

/** Joins consecutive members of one key; samples without any file of use are passed over, unless a dot is why. */
async function* samplesOf(members: AsyncIterable<Member>): AsyncGenerator<Sample> {
  let sample: Sample | undefined;
  for await (const { key, stem, suffix, size, end, bytes } of members) {
    if (sample?.key !== key) {
      if (sample && (isOfUse(sample) || sample.dotted.size > 0)) yield sample;
      sample = { key, end, files: new Map(), repeated: new Set(), dotted: new Set() };
    }
    sample.end = end;
    if (!USED_SUFFIXES.has(suffix)) {
      if (USED_SUFFIXES.has(suffix.replace(/^.*\./, ''))) sample.dotted.add(stem);
    } else if (bytes === null)
      sample.fault = {
        reason: `its ${suffix} must have at most ${MAX_IMAGE_BYTES} bytes`,
        detail: String(size),
      };
    else if (sample.files.has(suffix)) sample.repeated.add(suffix);
    else sample.files.set(suffix, bytes);
  }
  if (sample && (isOfUse(sample) || sample.dotted.size > 0)) yield sample;
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
  if (!json && needsJson) return { reason: NO_JSON };
  if (!json && !text) return { reason: 'no json or txt beside the image' };
  const fields = json ? parseObject(json) : { caption: text && decodeText(text) };
  if (fields === null) return { reason: 'the json is not a JSON object' };
  const { caption, url } = fields;
  if (typeof caption !== 'string')
    return { reason: json ? 'no caption in the json' : 'the txt is not UTF-8 text' };
  if (caption.trim() === '') return { reason: 'caption is empty' };
  return { image, caption, extra: typeof url === 'string' && url !== '' ? { url } : {} };
}

/** An object that Python's `json` wrote: it may hold NaN and Infinity, which become null. */
function parseObject(bytes: Uint8Array): { caption?: unknown; url?: unknown } | null {
  const text = decodeText(bytes) ?? '';
  const plain = parseJson(() => text);
  if (plain !== undefined) return isRecord(plain) ? plain : null;
  const value = parseJson(() =>
    text.replace(PYTHON_NUMBERS, (part) => (part.startsWith('"') ? part : 'null')),
  );
  return isRecord(value) ? value : null;
}

/** Undefined if it is no JSON, or too long a text for the expression that replaces in it. */
function parseJson(textOf: () => string): unknown {
  try {
    return JSON.parse(textOf()) as unknown;
  } catch {
    return undefined; // the caller reports the sample
  }
}
