/** Which requests go to the worker, when, and which as one. */
import { describe, expect, it } from 'vitest';
import type { Request } from '../../src/tensorflow/protocol.js';
import { RequestQueue } from '../../src/tensorflow/requestQueue.js';

type Run = Request & { kind: 'run' };

const run = (value: number, { session = 1, fetch = 'y:0' } = {}): Run => ({
  kind: 'run',
  session,
  runs: [
    {
      feeds: [['x:0', { shape: [1], data: Float32Array.of(value) }]],
      fetches: [{ name: fetch, keep: false }],
    },
  ],
});
const release: Request & { kind: 'release' } = { kind: 'release', tensors: [7] };
const unload: Request & { kind: 'unload' } = { kind: 'unload', session: 1 };

/** A worker that answers each run with the value it was fed, when it is told to. */
class FakeWorker {
  readonly queue: RequestQueue;
  readonly posted: Request[] = [];

  constructor(concurrency: number) {
    this.queue = new RequestQueue((request) => this.posted.push(request), concurrency);
  }

  /** What was posted: the values of the runs, or the kind. */
  get log(): string[] {
    return this.posted.map((request) =>
      request.kind === 'run' ? request.runs.map(valueOf).join('+') : request.kind,
    );
  }

  async answer(): Promise<void> {
    await turn();
    const request = this.posted.at(-1);
    if (request?.kind === 'run')
      this.queue.answered({ reply: request.runs.map(({ feeds }) => feeds.map(([, feed]) => feed)) });
    else this.queue.answered({ reply: null });
    await turn();
  }
}

const valueOf = ({ feeds: [feed] }: Run['runs'][number]): number =>
  feed && 'data' in feed[1] ? (feed[1].data[0] ?? NaN) : NaN;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));

describe('RequestQueue', () => {
  it('sends one request at a time, in order', async () => {
    const worker = new FakeWorker(1);
    const replies = [worker.queue.ask(run(1)), worker.queue.ask(unload), worker.queue.ask(run(2))];
    await turn();
    expect(worker.log).toEqual(['1']);
    for (let i = 0; i < replies.length; i++) await worker.answer();
    expect(worker.log).toEqual(['1', 'unload', '2']);
    expect(await Promise.all(replies)).toEqual([run(1), null, run(2)].map(replyTo));
  });

  it('sends alike runs as one, as many as may be, and gives each caller its own results', async () => {
    const worker = new FakeWorker(2);
    const replies = [1, 2, 3].map((value) => worker.queue.ask(run(value)));
    await worker.answer();
    await worker.answer();
    expect(worker.log).toEqual(['1+2', '3']);
    expect(await Promise.all(replies)).toEqual([1, 2, 3].map((value) => replyTo(run(value))));
  });

  it('keeps runs of another graph or of other outputs apart', async () => {
    const worker = new FakeWorker(4);
    const asked = [run(1), run(2, { session: 2 }), run(3), run(4, { fetch: 'z:0' })];
    const replies = asked.map((request) => worker.queue.ask(request));
    for (let i = 0; i < asked.length; i++) await worker.answer();
    await Promise.all(replies);
    expect(worker.log).toEqual(['1', '2', '3', '4']);
  });

  it('lets a run overtake tensors being freed, and nothing else', async () => {
    const worker = new FakeWorker(2);
    const replies = [run(1), release, run(2), run(3), unload, run(4)].map((one) => worker.queue.ask(one));
    for (let i = 0; i < 5; i++) await worker.answer();
    await Promise.all(replies);
    expect(worker.log).toEqual(['1+2', 'release', '3', 'unload', '4']);
  });

  it('joins what callers ask for when an answer has woken them', async () => {
    const worker = new FakeWorker(2);
    const loop = async (value: number): Promise<void> => {
      for (let i = 0; i < 3; i++) {
        await worker.queue.ask(run(value + i));
        await worker.queue.ask(release);
      }
    };
    const loops = Promise.all([loop(10), loop(20)]);
    for (let i = 0; i < 9; i++) await worker.answer();
    await loops;
    expect(worker.log.filter((text) => text !== 'release')).toEqual(['10+20', '11+21', '12+22']);
  });

  it('tells all that went together of an error, and goes on', async () => {
    const worker = new FakeWorker(2);
    const replies = [1, 2, 3].map((value) => worker.queue.ask(run(value)));
    const settled = Promise.allSettled(replies);
    await turn();
    worker.queue.answered({ error: 'OOM' });
    await worker.answer();
    expect(await settled).toMatchObject([
      { reason: new Error('tensorflow: OOM (in 2 runs at a time: model.concurrency)') },
      { reason: new Error('tensorflow: OOM (in 2 runs at a time: model.concurrency)') },
      { value: replyTo(run(3)) },
    ]);
  });

  it('rejects a request that cannot be sent, and goes on', async () => {
    const posted: Request[] = [];
    const queue = new RequestQueue((request) => {
      if (request.kind === 'unload') throw new Error('detached');
      posted.push(request);
    }, 1);
    const settled = Promise.allSettled([queue.ask(unload), queue.ask(run(1))]);
    await turn();
    await turn();
    expect(posted).toEqual([run(1)]);
    queue.end(new Error('ended'));
    expect(await settled).toMatchObject([
      { reason: new Error('tensorflow: a request could not be sent: Error: detached') },
      { reason: new Error('ended') },
    ]);
  });

  it('rejects what waits and what is asked later once the worker has ended', async () => {
    const worker = new FakeWorker(1);
    const settled = Promise.allSettled([worker.queue.ask(run(1)), worker.queue.ask(run(2))]);
    await turn();
    worker.queue.end(new Error('ended'));
    worker.queue.end(new Error('ended twice'));
    for (const { status, ...rest } of await settled)
      expect([status, rest]).toEqual(['rejected', { reason: new Error('ended') }]);
    await expect(worker.queue.ask(unload)).rejects.toThrow('ended');
  });
});

/** What `ask` gives for a request. */
function replyTo(request: Request | null): unknown {
  return request?.kind === 'run' ? [request.runs[0]?.feeds.map(([, feed]) => feed)] : null;
}
