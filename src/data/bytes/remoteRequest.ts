/**
 * One request to a server of files, tried again while that can help: overload, a broken or silent connection. What cannot
 * pass by itself (no such file, no access) ends at once.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import pLimit from 'p-limit';
import { UserError } from '../../errors.js';
import { fault } from './fileBytes.js';

/** How patient the reader of a server's files is. */
export interface RemoteOptions {
  /** Requests made for one range before it is given up; 7 if not given: some 20 to 30 seconds of waiting in between. */
  readonly attempts?: number;
  /** Wait before the second request; it doubles with each. 500 if not given. */
  readonly firstWaitMs?: number;
  /** Silence after which a connection counts as broken; 30,000 if not given. */
  readonly silenceMs?: number;
}

/** What a server or the connection to it is at fault for, whatever the bytes of the file are. */
export class ServerError extends UserError {}

/** What came of one request. */
export type Outcome<T> =
  { readonly value: T } | { readonly problem: string; readonly retryAfterMs?: number | undefined };

/** An answer, and its body in pieces; each piece restarts the clock of `silenceMs`. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  pieces(): AsyncIterable<Uint8Array>;
}

/** An address with credentials taken out of it, as fetch demands. */
interface Target {
  readonly href: string;
  readonly headers: Readonly<Record<string, string>>;
}

const MAX_WAIT_MS = 60_000; // also of what a server asks for
const CONNECTIONS = 32; // at the same time, to all servers

const connecting = pLimit(CONNECTIONS);

/**
 * Requests `address` until `read` gets its value from an answer.
 *
 * @param read gives the value, or the problem that another request may not meet; throws what cannot be mended
 * @throws UserError naming the address and the last problem when all attempts are used up
 */
export async function request<T>(
  address: URL,
  headers: Readonly<Record<string, string>>,
  { attempts = 7, firstWaitMs = 500, silenceMs = 30_000 }: RemoteOptions,
  read: (answer: Answer) => Promise<Outcome<T>>,
): Promise<T> {
  const target = targetOf(address, headers);
  return connecting(async () => {
    for (let attempt = 1; ; attempt++) {
      const outcome = await tryOnce(address, target, silenceMs, read);
      if ('value' in outcome) return outcome.value;
      if (attempt >= attempts) {
        throw serverFault(
          address,
          `the server did not give the data in ${attempts} attempts, ${outcome.problem}`,
          'check the server and the connection; a run goes on from its last checkpoint',
        );
      }
      await sleep(outcome.retryAfterMs ?? backoffMs(attempt, firstWaitMs));
    }
  });
}

/** An address without what may be secret in it: credentials, and the query that a signed address has. */
export function shownAddress(address: URL): string {
  return `${address.origin}${address.pathname}${address.search === '' ? '' : '?…'}`;
}

/** The error of a server that does not give what it should. */
export function serverFault(address: URL, problem: string, remedy: string, cause?: unknown): ServerError {
  return new ServerError(fault(shownAddress(address), problem, remedy).message, { cause });
}

/** Text of a part of an address without its %xx; as it is where a per cent sign means itself. */
export function percentDecoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/**
 * Milliseconds to wait after attempt number `attempt`: doubling, and half of it at random, so that many readers of one
 * server do not come back at the same moment.
 */
export function backoffMs(attempt: number, firstWaitMs: number): number {
  const wait = Math.min(firstWaitMs * 2 ** (attempt - 1), MAX_WAIT_MS);
  return wait * (0.5 + Math.random() / 2);
}

/** What a Retry-After header asks for, in seconds or as a date; undefined if it is neither. At most a minute. */
export function retryAfterMs(header: string | null, now = Date.now()): number | undefined {
  if (header === null) return undefined;
  const wait = /^\d+$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - now;
  return Number.isNaN(wait) ? undefined : Math.min(Math.max(wait, 0), MAX_WAIT_MS);
}

async function tryOnce<T>(
  address: URL,
  { href, headers }: Target,
  silenceMs: number,
  read: (answer: Answer) => Promise<Outcome<T>>,
): Promise<Outcome<T>> {
  const controller = new AbortController();
  const silence = setTimeout(() => controller.abort(), silenceMs);
  let broken: unknown; // what the connection threw; what `read` throws is its own affair
  const guarded = <V>(work: Promise<V>): Promise<V> =>
    work.catch((cause: unknown) => {
      broken = cause;
      throw cause;
    });
  try {
    const response = await guarded(fetch(href, { headers, signal: controller.signal }));
    silence.refresh();
    async function* pieces(): AsyncGenerator<Uint8Array> {
      const reader = response.body?.getReader();
      for (;;) {
        const next = await guarded(reader?.read() ?? Promise.resolve({ done: true, value: undefined }));
        if (next.done) return;
        silence.refresh();
        yield next.value as Uint8Array; // fetch bodies are bytes
      }
    }
    return (
      passingFault(response) ?? (await read({ status: response.status, headers: response.headers, pieces }))
    );
  } catch (cause) {
    if (broken === undefined || cause !== broken) throw cause;
    return { problem: connectionFault(address, cause, controller.signal.aborted, silenceMs) };
  } finally {
    clearTimeout(silence);
    controller.abort(); // lets go of a body that was not read to its end
  }
}

/** Too many requests, or a server that cannot just now. */
function passingFault({ status, headers }: Response): Outcome<never> | undefined {
  if (status !== 408 && status !== 429 && status < 500) return undefined;
  return { problem: `it answered ${status}`, retryAfterMs: retryAfterMs(headers.get('retry-after')) };
}

/** Says what happened to a connection. @throws UserError if it would happen again */
function connectionFault(address: URL, error: unknown, silent: boolean, silenceMs: number): string {
  if (silent) return `it was silent for ${silenceMs / 1000} s`;
  const cause: unknown = error instanceof Error ? (error.cause ?? error) : error;
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
  const reason = code || (cause instanceof Error ? cause.message : String(cause));
  if (code === 'ENOTFOUND') throw serverFault(address, 'there is no such server', 'check the address', error);
  if (/CERT|SELF_SIGNED|ALTNAME|SSL|VERIFY/.test(code)) {
    throw serverFault(
      address,
      `the server's certificate is not accepted, ${reason}`,
      'check the address; NODE_EXTRA_CA_CERTS names a file of further authorities',
      error,
    );
  }
  return `the connection broke, ${reason}`;
}

/** fetch refuses addresses with a name and password; they go into a header. */
function targetOf(address: URL, headers: Readonly<Record<string, string>>): Target {
  const bare = new URL(address);
  bare.username = '';
  bare.password = '';
  bare.hash = '';
  if (address.username === '' && address.password === '') return { href: bare.href, headers };
  const name = `${percentDecoded(address.username)}:${percentDecoded(address.password)}`;
  const authorization = `Basic ${Buffer.from(name).toString('base64')}`;
  return { href: bare.href, headers: { ...headers, authorization } };
}
