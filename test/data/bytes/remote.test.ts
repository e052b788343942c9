import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';

import type { ImageTextPair } from '../../../src/data/pairs.js';
import { remoteFile } from '../../../src/data/bytes/remoteFile.js';
import {
  backoffMs,
  retryAfterMs,
  shownAddress,
  type RemoteOptions,
} from '../../../src/data/bytes/remoteRequest.js';
import { ShardSet } from '../../../src/data/shards/shards.js';
import { writeShards } from '../../../src/data/shards/shardWriter.js';
import { failure } from '../../helpers/failure.js';
import { answerWith, FileServer, type Fault } from '../../helpers/fileServer.js';

const impatient: RemoteOptions = { attempts: 4, firstWaitMs: 1, silenceMs: 5000 };
const pairs = Array.from({ length: 60 }, (_, i): ImageTextPair => ({
  id: `p${i}`,
  image: Uint8Array.from({ length: 20_000 + 100 * i }, (_, j) => (i * 31 + j * 7) % 251), // far apart, so in requests of their own
  caption: `caption ${i}`,
  extra: {},
}));

/** A pair without its bytes, which take vitest seconds to compare. */
const digest = (pair: ImageTextPair | undefined) => ({
  ...pair,
  image: createHash('sha256')
    .update(pair?.image ?? '')
    .digest('hex'),
});

const packed: Record<string, Uint8Array> = {};
beforeAll(async () => {
  const folder = await mkdtemp(join(tmpdir(), 'remote-'));
  await writeShards(join(folder, 'set'), pairs, { rowsPerShard: 30, rowsPerBatch: 10 });
  for (const name of await readdir(join(folder, 'set')))
    packed[`/set/${name}`] = new Uint8Array(await readFile(join(folder, 'set', name)));
  await rm(folder, { recursive: true });
});

let server: FileServer;
beforeEach(async () => {
  server = await FileServer.start(
    Object.fromEntries(Object.entries(packed).map(([path, bytes]) => [path, bytes.slice()])),
  );
});
afterEach(() => server.stop());

const openSet = (path = '/set', options = impatient) => ShardSet.open(server.at(path), options);

describe('a set behind http', () => {
  it.each(['/set', '/set/', '/set/manifest.json'])(
    'at %s reads every pair as it was packed, many at a time',
    async (path) => {
      const set = await openSet(path);
      const read = await Promise.all(pairs.map((_, row) => set.read(row)));
      expect(read.map(digest)).toEqual(pairs.map(digest));
      expect(server.mostAtOnce).toBeGreaterThan(4);
      expect(set.location(31)).toEqual({ shard: 'part-00001.arrow', row: 1 });
      expect(set.paths[1]).toBe(server.at('/set/part-00001.arrow'));
    },
  );

  it('asks nothing of a shard before a row of it is read, and then little more than the row', async () => {
    const set = await openSet();
    expect(server.log.filter((line) => line.includes('part-00001'))).toEqual([]);
    await set.read(30);
    server.log.length = 0;
    await set.read(35);
    expect(server.log).toHaveLength(1); // its batch is known: the image alone
    const [first = 0, last = 0] = (/(\d+)-(\d+)$/.exec(server.log[0] ?? '') ?? []).slice(1).map(Number);
    expect(last - first + 1).toBe(pairs[35]?.image.length);
  });

  it('verifies against the manifest, and tells how far it is', async () => {
    const set = await openSet();
    const seen: [number, number][] = [];
    await set.verify({ onProgress: (done, total) => seen.push([done, total]) });
    const total = (server.files.get('/set/part-00000.arrow')?.length ?? 0) * 2;
    expect(seen.at(-1)?.[0]).toBe(seen.at(-1)?.[1]);
    expect(Math.abs((seen.at(-1)?.[1] ?? 0) - total)).toBeLessThan(total / 2);
    const content = server.files.get('/set/part-00001.arrow') ?? new Uint8Array(0);
    content[300_000] = (content[300_000] ?? 0) ^ 4;
    server.etags = false; // a new version that the server does not tell
    expect(await failure((await openSet()).verify())).toMatch(/SHA-256 must be .* \S+part-00001\.arrow/);
  });

  it('a thousand shards open in less than two seconds, at the cost of a few requests', async () => {
    const { length } = server.files.get('/set/part-00000.arrow') ?? { length: 0 };
    const shard = (i: number) => ({
      file: `part-${i}.arrow`,
      rows: 30,
      bytes: length,
      sha256: '0'.repeat(64),
    });
    const shards = Array.from({ length: 1000 }, (_, i) => shard(i));
    const manifest = { version: 1, rows: 30_000, columns: ['id', 'image', 'caption'], shards };
    server.files.set('/many/manifest.json', Buffer.from(JSON.stringify(manifest)));
    for (const i of [0, 700])
      server.files.set(`/many/part-${i}.arrow`, server.files.get('/set/part-00000.arrow') ?? Buffer.alloc(0));
    const start = performance.now();
    const set = await openSet('/many');
    expect(performance.now() - start).toBeLessThan(2000);
    expect(set.rows).toBe(30_000);
    expect(server.log.length).toBeLessThan(10);
    expect((await set.read(21_003)).id).toBe('p3');
  });

  it('the fingerprint and rows are those of the same folder on disk', async () => {
    const set = await openSet();
    expect(set.rows).toBe(60);
    expect(set.fingerprint).toMatch(/^[0-9a-f]{64}$/);
    expect(set.hasChecksums).toBe(true);
  });
});

describe('one shard behind http', () => {
  it('is read with the query of its address, which no message shows', async () => {
    const set = await openSet('/set/part-00000.arrow?signature=s3cret&expires=1');
    expect(digest(await set.read(7))).toEqual(digest(pairs[7]));
    expect(set.paths).toEqual([server.at('/set/part-00000.arrow?…')]);
    server.files.clear();
    expect(await failure(set.read(29))).toMatch(
      /^shards: no such file on the server, it answered 404: http:.*part-00000\.arrow\?… \(/,
    );
  });

  it('name and password go into a header, and into no message', async () => {
    const address = new URL(server.at('/set/part-00000.arrow'));
    address.username = 'reader';
    address.password = 'p@ss word';
    expect(shownAddress(address)).toBe(server.at('/set/part-00000.arrow'));
    expect(await remoteFile(address, impatient).size()).toBe(
      server.files.get('/set/part-00000.arrow')?.length,
    );
    const encoded = Buffer.from('reader:p@ss word').toString('base64');
    expect(server.lastHeaders.authorization).toBe(`Basic ${encoded}`);
    expect(server.lastHeaders['accept-encoding']).toBe('identity'); // of fetch: a range of the file, not of a zipped copy
  });

  it('one that is empty or no Arrow file is named', async () => {
    server.files.set('/empty.arrow', new Uint8Array(0));
    server.files.set('/page.arrow', Buffer.from('<!DOCTYPE html><html></html>'));
    expect(await failure(openSet('/empty.arrow'))).toMatch(/the file is empty: http/);
    expect(await failure(openSet('/page.arrow'))).toMatch(/it begins with "<!DOCT": http/);
  });

  it.each([
    [401, /the server refuses access, it answered 401/],
    [403, /the server refuses access, it answered 403/],
    [404, /no such file on the server, it answered 404/],
    [410, /no such file on the server, it answered 410/],
  ])('that is answered %i with an empty body is not called empty', async (status, message) => {
    server.faults.push(answerWith(status, { 'content-length': '0' }));
    expect(await failure(openSet('/set/part-00000.arrow'))).toMatch(message);
  });

  it('whose address is none is the user’s to mend, and shows no secret', async () => {
    for (const [place, shown] of [
      ['http://[bad/x.arrow', 'http://[bad/x.arrow'],
      ['http://localhost:99999/x.arrow?sig=s3cret', 'http://localhost:99999/x.arrow?…'],
      ['http://me:s3/cret@localhost/x.arrow', 'http://…@localhost/x.arrow'],
    ] as const)
      expect(await failure(ShardSet.open(place))).toBe(
        `shards: the address is not valid: ${shown} (check it; a / or @ in a password is written as %2F or %40)`,
      );
  });

  it('may have a per cent sign in its name or password', async () => {
    server.files.set('/100%.arrow', server.files.get('/set/part-00000.arrow') ?? Buffer.alloc(0));
    const address = new URL(server.at('/100%25.arrow'));
    address.password = '50%zz';
    expect((await ShardSet.open(address.href, impatient)).location(3)).toEqual({
      shard: '100%.arrow',
      row: 3,
    });
    expect(server.lastHeaders.authorization).toBe(`Basic ${Buffer.from(':50%zz').toString('base64')}`);
    expect(remoteFile(new URL('http://localhost/100%.arrow')).baseName).toBe('100%.arrow');
  });
});

/** Breaks the connection after some bytes of the body. */
const cut: Fault = (_, response, { first = 0, last = 0, content }) => {
  response.writeHead(206, {
    'content-length': last - first + 1,
    'content-range': `bytes ${first}-${last}/${content.length}`,
  });
  response.write(content.subarray(first, first + 5));
  setTimeout(() => response.destroy(), 5);
  return true;
};
/** Begins the body, and then says nothing more. */
const silent: Fault = (_, response, { first = 0, last = 0, content }) => {
  response.writeHead(206, {
    'content-length': last - first + 1,
    'content-range': `bytes ${first}-${last}/${content.length}`,
  });
  response.write(content.subarray(first, first + 5));
  return true;
};
/** Gives the bytes that follow those that were asked for. */
const shifted: Fault = (_, response, { first = 0, last = 0, content }) => {
  const part = content.subarray(first + 1, last + 2);
  response.writeHead(206, { 'content-range': `bytes ${first + 1}-${last + 1}/${content.length}` });
  response.end(part);
  return true;
};
/** Promises the range asked for, and ends before it does. */
const short: Fault = (_, response, { first = 0, last = 0, content }) => {
  response.writeHead(206, { 'content-range': `bytes ${first}-${last}/${content.length}` }); // chunked: no length
  response.end(content.subarray(first, last));
  return true;
};
const reset: Fault = (request) => {
  request.socket.destroy();
  return true;
};

describe('a server with faults', () => {
  it.each<[string, Fault[]]>([
    ['500 twice', [answerWith(500), answerWith(500)]],
    ['503, 502 and 408', [answerWith(503), answerWith(502), answerWith(408)]],
    ['429 with Retry-After', [answerWith(429, { 'retry-after': '0' })]],
    ['a connection cut in the middle', [cut, cut]],
    ['a connection that is reset before it answers', [reset]],
    ['a connection that falls silent', [silent]],
    ['another range than was asked for', [shifted]],
    ['an answer that is too short', [short]],
  ])('%s: the rows are read all the same', async (_, faults) => {
    const set = await openSet('/set', { ...impatient, silenceMs: faults.includes(silent) ? 300 : 5000 });
    await set.read(0);
    server.faults.push(...faults);
    expect(digest(await set.read(9))).toEqual(digest(pairs[9]));
    expect(server.faults).toEqual([]);
  });

  it('faults all the time end in one error that names the address and the last fault', async () => {
    const set = await openSet();
    server.faults.push(...Array<Fault>(20).fill(answerWith(503)));
    expect(await failure(set.read(0))).toMatch(
      /^shards: the server did not give the data in 4 attempts, it answered 503: http:\S+part-00000\.arrow \(/,
    );
    expect(server.faults.length).toBeGreaterThanOrEqual(20 - 2 * 4); // two ranges are asked for together
    server.faults.length = 0;
    expect(digest(await set.read(0))).toEqual(digest(pairs[0])); // and nothing of it stays
  });

  it('no server: the connection is named', async () => {
    const address = server.at('/set');
    await server.stop();
    expect(await failure(ShardSet.open(address, { attempts: 2, firstWaitMs: 1 }))).toMatch(
      /in 2 attempts, the connection broke, ECONNREFUSED: http/,
    );
    server = await FileServer.start({});
  });

  it.each([
    [401, /the server refuses access, it answered 401: .*signed ones expire/],
    [403, /the server refuses access, it answered 403/],
    [410, /no such file on the server, it answered 410/],
    [400, /the server does not give the file, it answered 400/],
  ])('%i is not asked again', async (status, message) => {
    const set = await openSet();
    await set.read(0);
    server.log.length = 0;
    server.faults.push(answerWith(status));
    expect(await failure(set.read(1))).toMatch(message);
    expect(server.log).toHaveLength(1);
  });

  it('a server that sends whole files is named, and not listened to', async () => {
    server.ranges = false;
    expect(await failure(openSet('/set/part-00000.arrow'))).toMatch(
      /does not answer range requests, it sends the whole file instead: http/,
    );
  });

  it.each([true, false])('a shard that changes during a run is an error (ETag %s)', async (etags) => {
    server.etags = etags;
    const set = await openSet('/set/part-00000.arrow');
    await set.read(0);
    const old = server.files.get('/set/part-00000.arrow') ?? new Uint8Array(0);
    server.files.set('/set/part-00000.arrow', Buffer.concat([old, new Uint8Array(8)]));
    expect(await failure(set.read(1))).toMatch(/the file changed while it was read, it was .*, got .*: http/);
  });

  it('a shard of another size than the manifest says is an error', async () => {
    const set = await openSet();
    const old = server.files.get('/set/part-00000.arrow') ?? new Uint8Array(0);
    server.files.set('/set/part-00000.arrow', Buffer.concat([old, new Uint8Array(8)]));
    expect(await failure(set.read(1))).toMatch(
      new RegExp(`the manifest says ${old.length} bytes, got ${old.length + 8}: http`),
    );
    server.files.set('/set/part-00000.arrow', old.subarray(0, 1000));
    expect(await failure(openSet())).toMatch(/the manifest says \d+ bytes, got 1000: http|is shorter than/);
  });

  it('a folder without a manifest, and a manifest that is none, are named', async () => {
    expect(await failure(openSet('/other'))).toMatch(
      /no manifest at that address: http:\S+\/other\/manifest\.json \(/,
    );
    server.files.set('/set/manifest.json', Buffer.from('<html>'));
    expect(await failure(openSet())).toMatch(/the manifest is not JSON, .*: http/);
  });
});

describe('waiting', () => {
  it('doubles, at least half of it certain, a minute at most', () => {
    for (const [random, expected] of [
      [0, [250, 500, 1000]],
      [1, [500, 1000, 2000]],
    ] as const) {
      vi.spyOn(Math, 'random').mockReturnValue(random);
      expect([1, 2, 3].map((attempt) => backoffMs(attempt, 500))).toEqual(expected);
      expect(backoffMs(30, 500)).toBe(30_000 * (1 + random));
    }
    vi.restoreAllMocks();
  });

  it('Retry-After is seconds or a date; nonsense is left alone', () => {
    const now = Date.parse('2026-01-01T00:00:00Z');
    expect(retryAfterMs('3', now)).toBe(3000);
    expect(retryAfterMs('Thu, 01 Jan 2026 00:00:05 GMT', now)).toBe(5000);
    expect(retryAfterMs('Wed, 31 Dec 2025 00:00:00 GMT', now)).toBe(0);
    expect(retryAfterMs('86400', now)).toBe(60_000);
    expect(retryAfterMs('soon', now)).toBeUndefined();
    expect(retryAfterMs(null, now)).toBeUndefined();
  });
});
