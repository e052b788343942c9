/** A file behind http(s), read by range requests, and held to be the same file throughout. */

import type { ByteFile } from './byteFile.js';
import { fault, type ByteRange } from './fileBytes.js';
import {
  percentDecoded,
  request,
  serverFault,
  shownAddress,
  type Answer,
  type Outcome,
  type RemoteOptions,
} from './remoteRequest.js';

/** What an answer says of the file it is from. */
interface Version {
  /** ETag, or the time of the last change where there is none. */
  readonly mark: string | undefined;
  readonly sizeBytes: number | undefined;
}

const PROBE_BYTES = 8;
const MAX_TEXT_BYTES = 2 ** 28; // a manifest of a million shards

/** True of what is read over the network: an http or https address. */
export function isAddress(place: string): boolean {
  return /^https?:\/\//i.test(place);
}

/** The address that a place is. @throws UserError if it cannot be one */
export function addressOf(place: string): URL {
  if (URL.canParse(place)) return new URL(place);
  throw fault(
    shownPlace(place),
    'the address is not valid',
    'check it; a / or @ in a password is written as %2F or %40',
  );
}

/** A path as it is, an address without what may be secret in it. */
export function shownPlace(place: string): string {
  if (!isAddress(place)) return place;
  if (URL.canParse(place)) return shownAddress(new URL(place));
  return place.replace(/\/\/.*@/s, '//…@').replace(/\?.*$/s, '?…'); // nobody knows where its password ends
}

/**
 * A file of a server that answers range requests.
 *
 * @param listedBytes its size, if a manifest says so: then nothing is asked before the first read
 */
export function remoteFile(address: URL, options: RemoteOptions = {}, listedBytes?: number): ByteFile {
  const file = new RemoteFile(address, options, listedBytes);
  return {
    name: shownAddress(address),
    baseName: percentDecoded(address.pathname.split('/').at(-1) ?? ''),
    size: () => file.size(),
    read: (ranges) => Promise.all(ranges.map((range) => file.read(range))),
  };
}

/**
 * Fetches a text; null if there is no such file.
 *
 * @throws UserError if the server does not give it, or it is larger than 256 MiB
 */
export async function fetchText(address: URL, options: RemoteOptions = {}): Promise<string | null> {
  return request(address, {}, options, async (answer): Promise<Outcome<string | null>> => {
    if (answer.status === 404 || answer.status === 410) return { value: null };
    if (answer.status !== 200) throw refusal(address, answer.status);
    const length = Number(answer.headers.get('content-length') ?? NaN);
    const pieces: Uint8Array[] = [];
    let size = 0;
    for await (const piece of answer.pieces()) {
      pieces.push(piece);
      size += piece.length;
      if (size > MAX_TEXT_BYTES)
        throw fault(shownAddress(address), 'the file is larger than 256 MiB', 'check the address');
    }
    if (size < length) return { problem: `the connection ended after ${size} of ${length} bytes` };
    return { value: Buffer.concat(pieces).toString('utf8') };
  });
}

/** Reads ranges of one file, and remembers which version of it that was. */
class RemoteFile {
  private mark: string | undefined;
  private known: Promise<number> | undefined;

  constructor(
    private readonly address: URL,
    private readonly options: RemoteOptions,
    private readonly listedBytes: number | undefined,
  ) {}

  /** Bytes of the file: as listed, or asked of the server once. */
  size(): Promise<number> {
    if (this.listedBytes !== undefined) return Promise.resolve(this.listedBytes);
    this.known ??= this.ask().catch((cause: unknown) => {
      this.known = undefined;
      throw cause;
    });
    return this.known;
  }

  /** Reads one range, whole. */
  async read(range: ByteRange): Promise<Uint8Array> {
    if (range.length === 0) return new Uint8Array(0);
    const expected = await this.size();
    if (range.offset + range.length > expected)
      throw fault(this.name, `the file is cut short at byte ${expected}`, 'write or copy it again');
    return this.requestRange(range, async (answer) => {
      if (answer.status !== 206) throw this.rangeRefusal(answer.status);
      const problem = this.check(answer, range, expected);
      return problem === undefined ? readExactly(answer, range.length) : { problem };
    });
  }

  private get name(): string {
    return shownAddress(this.address);
  }

  private requestRange<T>(
    { offset, length }: ByteRange,
    read: (answer: Answer) => Promise<Outcome<T>>,
  ): Promise<T> {
    const headers = { range: `bytes=${offset}-${offset + length - 1}` };
    return request(this.address, headers, this.options, read);
  }

  private ask(): Promise<number> {
    return this.requestRange({ offset: 0, length: PROBE_BYTES }, (answer) => {
      const { status, headers } = answer;
      const isEmpty = status === 416 || (status === 200 && headers.get('content-length') === '0'); // no byte 0
      if (isEmpty) return Promise.resolve({ value: 0 });
      if (answer.status !== 206) throw this.rangeRefusal(answer.status);
      const { sizeBytes } = versionOf(answer);
      if (sizeBytes === undefined) throw this.noRanges('its answer names no size');
      this.mark = versionOf(answer).mark;
      return Promise.resolve({ value: sizeBytes });
    });
  }

  /** What is wrong with an answer's range, if another request may mend it. @throws UserError if the file is another now */
  private check(answer: Answer, { offset, length }: ByteRange, expected: number): string | undefined {
    const { mark, sizeBytes } = versionOf(answer);
    this.mark ??= mark;
    if (sizeBytes !== undefined && sizeBytes !== expected && this.listedBytes !== undefined) {
      throw fault(
        this.name,
        `the manifest says ${expected} bytes, got ${sizeBytes}`,
        'copy the shard again or pack again',
      );
    }
    const marked = mark !== undefined && this.mark !== undefined; // not every answer of every server bears one
    if ((marked && mark !== this.mark) || (sizeBytes !== undefined && sizeBytes !== expected)) {
      throw fault(
        this.name,
        `the file changed while it was read, it was ${this.mark ?? `${expected} bytes`}, got ${mark ?? `${sizeBytes ?? '?'} bytes`}`,
        'shards must stay as they are during a run; start the run anew with the new ones',
      );
    }
    const given = answer.headers.get('content-range') ?? 'none';
    const asked = `bytes ${offset}-${offset + length - 1}/`;
    return given.startsWith(asked) ? undefined : `it gave the range "${given}" instead of "${asked}…"`;
  }

  private rangeRefusal(status: number): Error {
    if (status === 200) return this.noRanges('it sends the whole file instead');
    return refusal(this.address, status);
  }

  private noRanges(detail: string): Error {
    return serverFault(
      this.address,
      `the server does not answer range requests, ${detail}`,
      'use a server that does (most object stores and web servers do), or copy the shards here',
    );
  }
}

async function readExactly(answer: Answer, length: number): Promise<Outcome<Uint8Array>> {
  const bytes = new Uint8Array(length);
  let done = 0;
  for await (const piece of answer.pieces()) {
    if (done + piece.length > length) return { problem: `it gave more than the ${length} bytes asked for` };
    bytes.set(piece, done);
    done += piece.length;
  }
  return done === length
    ? { value: bytes }
    : { problem: `the connection ended after ${done} of ${length} bytes` };
}

function versionOf({ headers }: Answer): Version {
  const total = /\/(\d+)$/.exec(headers.get('content-range') ?? '')?.[1];
  return {
    mark: headers.get('etag') ?? headers.get('last-modified') ?? undefined,
    sizeBytes: total === undefined ? undefined : Number(total),
  };
}

/** Why a server gives nothing, of an answer that would be the same again. */
function refusal(address: URL, status: number): Error {
  if (status === 416) {
    const problem = 'the file is shorter than it was, or than its manifest says';
    return fault(shownAddress(address), problem, 'copy it again');
  }
  if (status === 401 || status === 403) {
    const problem = `the server refuses access, it answered ${status}`;
    return serverFault(address, problem, 'check the address; signed ones expire');
  }
  if (status === 404 || status === 410)
    return serverFault(address, `no such file on the server, it answered ${status}`, 'check the address');
  return serverFault(
    address,
    `the server does not give the file, it answered ${status}`,
    'check the address',
  );
}
