/** A web server of files in memory that answers range requests, and misbehaves on demand. */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** A fault that takes the place of one answer: return true when it answered. */
export type Fault = (request: IncomingMessage, response: ServerResponse, range: RangeAsked) => boolean;

/** What a request asks for. */
export interface RangeAsked {
  /** Left out: the whole file. */
  readonly first?: number;
  /** Included. */
  readonly last?: number;
  readonly content: Uint8Array;
}

/** Files by path, such as `/part-00000.arrow`, behind a local address. */
export class FileServer {
  /** Requests so far, as `path first-last`. */
  readonly log: string[] = [];
  /** Headers of the last request. */
  lastHeaders: IncomingMessage['headers'] = {};
  /** Tried in turn before each answer; one that answers is used up. */
  readonly faults: Fault[] = [];
  /** Requests at the same time, at most. */
  mostAtOnce = 0;
  etags = true;
  ranges = true;
  private open = 0;

  private constructor(
    private readonly server: Server,
    readonly files: Map<string, Uint8Array>,
  ) {}

  static async start(files: Record<string, Uint8Array>): Promise<FileServer> {
    const server = createServer();
    const served = new FileServer(server, new Map(Object.entries(files)));
    server.on('request', (request, response) => served.arrive(request, response));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return served;
  }

  /** Address of a path. */
  at(path: string): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}${path}`;
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  private arrive(request: IncomingMessage, response: ServerResponse): void {
    this.open += 1;
    this.mostAtOnce = Math.max(this.mostAtOnce, this.open);
    response.on('close', () => (this.open -= 1));
    setTimeout(() => this.answer(request, response), 2); // so that others arrive meanwhile, as they would from afar
  }

  private answer(request: IncomingMessage, response: ServerResponse): void {
    this.lastHeaders = request.headers;
    const path = decodeURIComponent((request.url ?? '').split('?')[0] ?? '');
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
    this.log.push(first === undefined ? path : `${path} ${first}-${last ?? ''}`);
    const content = this.files.get(path);
    if (content === undefined) {
      response.writeHead(404).end('<html>not here</html>');
      return;
    }
    const asked = first === undefined ? { content } : { content, first: Number(first), last: Number(last) };
    const [fault] = this.faults;
    if (fault?.(request, response, asked) === true) {
      this.faults.shift();
      return;
    }
    this.give(response, asked);
  }

  private give(response: ServerResponse, { content, first, last }: RangeAsked): void {
    const etag = `"${createHash('sha256').update(content).digest('hex').slice(0, 16)}"`;
    if (this.etags) response.setHeader('etag', etag);
    if (!this.ranges || first === undefined || last === undefined) {
      response.writeHead(200, { 'content-length': content.length }).end(content);
    } else if (first >= content.length) {
      response.writeHead(416, { 'content-range': `bytes */${content.length}` }).end();
    } else {
      const part = content.subarray(first, last + 1);
      const end = first + part.length - 1;
      response.writeHead(206, {
        'content-length': part.length,
        'content-range': `bytes ${first}-${end}/${content.length}`,
      });
      response.end(part);
    }
  }
}

/** Answers with a status, and perhaps headers, in place of the file. */
export function answerWith(status: number, headers: Record<string, string> = {}): Fault {
  return (_, response) => {
    response.writeHead(status, headers).end();
    return true;
  };
}
