/**
 * Requests on their way to the worker: in order, one at a time, and runs that wait together as one. So whoever asks for
 * several runs before the first is answered has them computed at the same time.
 */
import type { GraphRun, Replies, Request } from './protocol.js';

type RunRequest = Request & { readonly kind: 'run' };

/** A request with the promise of its reply. Until it is sent its inputs must stay as they are. */
interface Waiting {
  readonly request: Request;
  readonly transfer: ArrayBuffer[];
  readonly resolve: (reply: never) => void;
  readonly reject: (error: Error) => void;
}

/** Of a worker's answer: the reply, or why there is none. */
export interface Answer {
  readonly reply?: Replies[Request['kind']];
  readonly error?: string;
}

/** The requests that one worker has still to answer. */
export class RequestQueue {
  #waiting: Waiting[] = [];
  /** What the worker is at. */
  #current: readonly Waiting[] = [];
  #ended: Error | undefined;
  #isDispatching = false;

  /**
   * @param post hands a request to the worker, whose answer comes back by `answered`
   * @param concurrency runs that may become one
   */
  constructor(
    private readonly post: (request: Request, transfer: ArrayBuffer[]) => void,
    private readonly concurrency: number,
  ) {}

  /** Puts a request at the end. @throws (the promise) `tensorflow: …` where it fails or the worker ends */
  ask<K extends Request['kind']>(
    request: Request & { kind: K },
    transfer: ArrayBuffer[] = [],
  ): Promise<Replies[K]> {
    return new Promise((resolve, reject) => {
      if (this.#ended) throw this.#ended;
      this.#waiting.push({ request, transfer, resolve, reject });
      this.#dispatchSoon();
    });
  }

  /** Takes the worker's answer to what it was at. */
  answered({ reply, error }: Answer): void {
    const asked = this.#current;
    this.#current = [];
    this.#dispatchSoon();
    const advice = asked.length > 1 ? ` (in ${asked.length} runs at a time: model.concurrency)` : '';
    if (error !== undefined)
      for (const { reject } of asked) reject(new Error(`tensorflow: ${error}${advice}`));
    else if (asked[0]?.request.kind === 'run')
      resolveRuns(asked, reply as Replies['run']); // as asked
    else asked[0]?.resolve(reply as never); // typed by `ask`, which made the request
  }

  /** Rejects all that is asked, now and later. */
  end(error: Error): void {
    this.#ended ??= error;
    for (const { reject } of [...this.#current, ...this.#waiting]) reject(error);
    this.#current = [];
    this.#waiting = [];
  }

  /** After the callers that an answer woke have asked for what they need next: theirs may go together. */
  #dispatchSoon(): void {
    if (this.#isDispatching) return;
    this.#isDispatching = true;
    setImmediate(() => {
      this.#isDispatching = false;
      if (!this.#current.length && this.#waiting.length) this.#dispatch();
    });
  }

  #dispatch(): void {
    this.#current = together(this.#waiting, this.concurrency);
    this.#waiting = this.#waiting.filter((one) => !this.#current.includes(one));
    const [first] = this.#current;
    if (!first) return;
    const runs = this.#current.flatMap(({ request }) => (request.kind === 'run' ? request.runs : []));
    const request = first.request.kind === 'run' ? { ...first.request, runs } : first.request;
    try {
      this.post(request, first.transfer);
    } catch (error) {
      this.answered({ error: `a request could not be sent: ${String(error)}` }); // its bytes were given away before
    }
  }
}

/**
 * The first request, and the runs after it that may go with it. They overtake nothing but tensors being freed, which no
 * run that was asked for later can need.
 */
function together(waiting: readonly Waiting[], most: number): Waiting[] {
  const [first] = waiting;
  if (first?.request.kind !== 'run') return waiting.slice(0, 1);
  const chosen = [first];
  for (const one of waiting.slice(1)) {
    if (chosen.length === most) break;
    if (one.request.kind === 'run' && isAlike(one.request, first.request)) chosen.push(one);
    else if (one.request.kind !== 'release') break;
  }
  return chosen;
}

/** Whether two runs are of one graph, and feed and fetch the same of it. */
function isAlike(a: RunRequest, b: RunRequest): boolean {
  return a.session === b.session && namesOf(a.runs[0]) === namesOf(b.runs[0]);
}

function namesOf(run: GraphRun | undefined): string {
  const fetches = run?.fetches.map(({ name, keep }) => `${name}${keep ? ' kept' : ''}`);
  return [...(run?.feeds.map(([name]) => name) ?? []), '→', ...(fetches ?? [])].join();
}

function resolveRuns(asked: readonly Waiting[], results: Replies['run']): void {
  asked.forEach(({ resolve }, i) => {
    resolve(results.slice(i, i + 1) as never); // one run each, as asked
  });
}
