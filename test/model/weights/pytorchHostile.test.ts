import { readFile } from 'node:fs/promises';

import { describe, expect, it } from 'vitest';

import { UserError } from '../../../src/errors.js';
import { openPyTorch, readPyTorchObject } from '../../../src/model/weights/pytorch.js';
import {
  fixture,
  fixtureBytes,
  int,
  pytorchPath,
  readPlain,
  tensorPickle,
  text,
  zipFile,
} from './pytorchFixture.js';
import { temporaryFile } from './weightsFixture.js';

const LIST = ']q\x00'; // EMPTY_LIST, BINPUT 0
const HUGE = 2n ** 62n;

async function refusal(path: string): Promise<string> {
  const error: unknown = await readPlain(path).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(UserError);
  expect(String(error)).toContain(path);
  return String(error);
}

/** One list of ten times the list before it, and so on, `depth` times. */
function laughs(depth: number): string {
  let pickle = LIST;
  for (let i = 0; i < depth; i++) pickle += `0]q\x01(${'h\x00'.repeat(10)}eq\x00`;
  return `\x80\x02${pickle}.`;
}

describe('a pickle that wants to run something', () => {
  it.each(Object.entries(fixture.refused))('%s is refused, naming %s', async (name, wanted) => {
    expect(await refusal(pytorchPath(name))).toContain(wanted);
  });

  it.each<[string, string, string]>([
    ['INST', `(${text('id')}ios\nsystem\n.`, 'to call os.system'],
    ['OBJ of a function', `(cos\nsystem\n${text('id')}o.`, 'to use os.system'],
    ['OBJ of a class that is allowed', '(ccollections\nOrderedDict\no.', 'opcode 0x6f'],
    ['REDUCE of a value', `${text('os.system')})R.`, 'to call "os.system"'],
    ['REDUCE of a class without a call', 'ctorch\nFloatStorage\n)R.', 'to call torch.FloatStorage'],
    ['REDUCE of what is on the list with a dict', 'ctorch\nSize\n}R.', 'to call torch.Size with a dict'],
    ['NEWOBJ of a function', 'ctorch\nSize\n)\x81.', 'to make a torch.Size'],
    ['BUILD of a dict', '}}b.', 'to set the state of a dict'],
    ['BUILD of a function', 'ctorch._utils\n_rebuild_tensor_v2\n}b.', 'to set the state of the class'],
    ['BUILD of a device', `ctorch\ndevice\n(${text('cpu')}tR}b.`, 'to set the state'],
    ['STACK_GLOBAL', `${text('builtins')}${text('exec')}\x93.`, 'to use builtins.exec'],
    ['a name of a prototype', 'cconstructor\nconstructor\n)R.', 'to use constructor.constructor'],
    ['an extension', '\x82\x01.', 'opcode 0x82'],
    [
      'torch.storage._load_from_bytes',
      'ctorch.storage\n_load_from_bytes\n.',
      'torch.storage._load_from_bytes',
    ],
    ['an outside module', `(${text('module')}NNNtQ.`, 'the outside object "module"'],
    ['an outside path', `${text('/etc/passwd')}Q.`, 'the outside object "/etc/passwd"'],
    ['a class as a value', 'ctorch\nFloatStorage\n.', 'got the class torch.FloatStorage'],
  ])('by %s is refused', async (_, pickle, message) => {
    expect(await refusal(await zipFile(`\x80\x02${pickle}`))).toContain(message);
  });
});

describe('a pickle that lies or floods', () => {
  it.each<[string, string, string]>([
    ['nothing', '', 'must go on for 1 bytes'],
    ['no end', '\x80\x02N', 'must go on for 1 bytes'],
    ['two values', 'NN.', 'must leave one value, got 2'],
    ['no value', '.', 'must push what it pops'],
    ['another protocol', '\x80\x09N.', 'protocol must be 2 to 5, got 9'],
    ['a pop below a mark', 'N(0.', 'must push what it pops'],
    ['a mark that is not there', 'Nt.', 'must set the marks'],
    ['a memo entry that is not there', 'h\x05.', 'must fill the memo'],
    ['an append to a tuple', '))a.', 'only lists can be appended to'],
    ['an item without its value', '}(Nu.', 'items must be pairs'],
    ['a list as a key', '}]Ns.', 'keys must be texts or numbers, got a list of 0'],
    ['a list in itself', `${LIST}h\x00a.`, 'must not hold itself'],
    ['a dict in itself', `}q\x00${text('a')}h\x00s.`, 'must not hold itself'],
    ['100,000 tuples in one another', `N${'\x85'.repeat(100_000)}.`, 'must nest at most 64 deep'],
    ['ten to the 20 values in 20 lists', laughs(20), 'must hold at most 4000000 values'],
    ['a memo of a million', `N${'\x94'.repeat(1_000_001)}.`, 'at most 1000000 memo entries'],
    ['a million values at a time', `${'N'.repeat(1_000_001)}.`, 'at most 1000000 values at a time'],
    ['a million marks', `${'('.repeat(1_000_001)}.`, 'at most 1000000 marks'],
    ['a million dicts', `${'}0'.repeat(1_000_001)}N.`, 'at most 1000000 lists, dicts and calls'],
    ['an integer of 2 GiB', '\x8b\xff\xff\xff\x7f\x01.', 'integers must have at most 1024 bytes'],
    ['a text of 4 GiB', 'X\xff\xff\xff\xffabc.', 'must go on for 4294967295 bytes'],
    ['a text of 2^63 bytes', `\x8d${'\xff'.repeat(7)}\x7fabc.`, 'must go on for 9223372036854776000 bytes'],
    [
      'byte strings of 2^64 bytes',
      `\x8e${'\xff'.repeat(8)}abc.`,
      'must go on for 18446744073709552000 bytes',
    ],
    ['a frame of 2^62 bytes', `\x95${'\x00'.repeat(7)}\x40N.`, 'must go on for'],
    ['a text that is not UTF-8', 'X\x02\x00\x00\x00\xc3\x28.', 'texts must be UTF-8'],
    ['a name without an end', `c${'a'.repeat(2000)}`, 'names must have at most 1000 bytes'],
    ['a storage without a class', `(${text('storage')}NNNNtQ.`, 'must have a class, a key and a count'],
    ['a shape of 65 dimensions', tensorPickle(4, 0, Array(65).fill(1) as number[], []), 'at most 64 numbers'],
    [
      'a view of half a storage (torch < 0.4)',
      `(${text('storage')}ctorch\nFloatStorage\n${text('0')}NK\x04}tQ.`,
      'got a view',
    ],
  ])('with %s is refused', async (_, pickle, message) => {
    const path = await zipFile(pickle.startsWith('\x80') ? pickle : `\x80\x02${pickle}`, {
      0: new Uint8Array(16),
    });
    const before = performance.now();
    expect(await refusal(path)).toContain(message);
    expect(performance.now() - before).toBeLessThan(5000);
  });

  it('is refused beyond 8 MiB before it is read', async () => {
    const path = await zipFile(Buffer.alloc(8 * 2 ** 20 + 1));
    expect(await refusal(path)).toContain('data.pkl must have at most 8388608 bytes');
  });

  it('of names that grow with each level is refused', async () => {
    let pickle = '\x80\x02}q\x00';
    for (let i = 0; i < 100; i++)
      pickle += `${text(String(i))}${tensorPickle(4, 0, [], []).slice(2 + 1 + 6, -2)}s`;
    for (let i = 0; i < 60; i++) pickle += `q\x010}${text('a'.repeat(20_000))}h\x01s`;
    const path = await zipFile(`${pickle}.`, { 0: new Uint8Array(16) });
    await expect(openPyTorch(path)).rejects.toThrow('names must have at most 67108864 characters');
  });
});

describe('a tensor that its storage cannot back', () => {
  const inside = 'must lie in its 4 elements';
  it.each<[string, Parameters<typeof tensorPickle>, string]>([
    ['more elements than the storage', [4, 0, [5], [1]], inside],
    ['an offset that leads out', [4, 1, [4], [1]], inside],
    ['an offset behind the end', [4, 5, [], []], inside],
    ['strides that lead out', [4, 0, [2, 2], [3, 1]], inside],
    ['a huge stride', [4, 0, [2], [2 ** 52]], inside],
    ['strides whose sum is beyond 2^53', [4, 0, [2, 2 ** 30], [2 ** 40, 2 ** 40]], inside],
    ['a stride beyond 2^53', [4, 0, [2], [HUGE]], 'must be lists of at most 64 numbers'],
    ['a negative stride', [4, 3, [4], [-1]], 'must have sizes and strides from 0'],
    ['a negative offset', [4, -1, [1], [1]], 'must have sizes and strides from 0'],
    ['a negative size', [4, 0, [-1], [1]], 'must have sizes and strides from 0'],
    ['fewer strides than sizes', [4, 0, [2, 2], [1]], 'as many of the one as of the other'],
    ['2^40 times one element', [4, 0, [2 ** 40], [0]], 'must not be larger than its file'],
    ['2^104 times one element', [4, 0, [2 ** 52, 2 ** 52], [0, 0]], inside],
    [
      'a storage that claims more than there is',
      [5, 0, [5], [1]],
      'must have 5 elements of 4 bytes, got 16 bytes',
    ],
    ['a storage that claims 2^52', [2 ** 52, 0, [1], [1]], 'elements of 4 bytes, got 16 bytes'],
    ['a storage that claims less than there is', [3, 0, [3], [1]], 'must have 3 elements of 4 bytes'],
    ['a storage of -4', [-4, 0, [0], [1]], 'must have a class, a key and a count'],
  ])('with %s is refused when the file is opened', async (_, numbers, message) => {
    expect(await refusal(await zipFile(tensorPickle(...numbers), { 0: new Uint8Array(16) }))).toContain(
      message,
    );
  });
});

describe('a damaged file', () => {
  it.each(Object.entries(fixture.damaged))('%s is refused: %s', async (name, message) => {
    expect(await refusal(pytorchPath(name))).toContain(message);
  });

  /** A good file with `bytes` put at `at` of the entry whose name ends with `member`. */
  async function changedEntry(member: string, at: number, bytes: readonly number[]): Promise<string> {
    const file = await fixtureBytes('list.pth');
    let entry = file.indexOf('PK\x01\x02', 0, 'latin1');
    while (
      !file
        .subarray(entry + 46, entry + 46 + file.readUInt16LE(entry + 28))
        .toString()
        .endsWith(member)
    ) {
      entry = file.indexOf('PK\x01\x02', entry + 1, 'latin1');
    }
    file.set(bytes, entry + at);
    return temporaryFile('changed.pth', file);
  }

  it.each<[string, string, number, readonly number[], RegExp]>([
    ['a member larger than the file', 'data.pkl', 20, [0, 0, 0, 9, 0, 0, 0, 9], /data\.pkl of \d+ bytes/],
    ['two sizes of one stored member', 'data.pkl', 20, [1, 0, 0, 0], /compressed or encrypted/],
    ['a member behind the end', 'data/0', 42, [0, 0, 0, 9], /data\/0 of \d+ bytes at/],
    ['a member where another is', 'data.pkl', 42, [100, 0, 0, 0], /no header for|another header for/],
    ['an encrypted member', 'data.pkl', 8, [1, 8], /compressed or encrypted/],
    ['a Zip64 size that is not there', 'data.pkl', 24, [255, 255, 255, 255], /without its Zip64 sizes/],
    ['another signature', 'data.pkl', 0, [0], /no entry at byte 0/],
    ['a name past the table', 'data.pkl', 28, [255, 255], /reaches past its table/],
  ])('with %s is refused', async (_, member, at, bytes, message) => {
    expect(await refusal(await changedEntry(member, at, bytes))).toMatch(message);
  });

  it.each<[string, number, readonly number[]]>([
    ['a table of contents outside', 16, [0, 0, 0, 8]],
    ['a table of contents of another length', 12, [255, 255, 255, 8]],
    ['more members than there are', 10, [250, 255]],
    ['a Zip64 record that is not there', 16, [255, 255, 255, 255]],
  ])('with %s is refused', async (_, at, bytes) => {
    const file = await readFile(await zipFile('\x80\x02N.'));
    file.set(bytes, file.length - 22 + at);
    expect(await refusal(await temporaryFile('changed.pth', file))).toContain('must be a whole zip file');
  });

  it.each<[string, Buffer, Buffer, string]>([
    [
      'another magic number',
      Buffer.from('l\xfc\x9c', 'latin1'),
      Buffer.from('m\xfc\x9c', 'latin1'),
      'number, got',
    ],
    [
      'another format version',
      Buffer.from('M\xe9\x03', 'latin1'),
      Buffer.from('M\xea\x03', 'latin1'),
      'must be 1001',
    ],
    [
      'big-endian numbers',
      Buffer.from('little_endianq\x02\x88', 'latin1'),
      Buffer.from('little_endianq\x02\x89', 'latin1'),
      'little-endian',
    ],
    [
      'a storage of another count',
      Buffer.from('\x0f\0\0\0\0\0\0\0', 'latin1'),
      Buffer.from('\x10\0\0\0\0\0\0\0', 'latin1'),
      'must have 15 elements, got 16',
    ],
  ])('of the old format with %s is refused', async (_, from, to, message) => {
    const file = await fixtureBytes('dtypes-legacy.pth');
    const at = file.indexOf(from, file.indexOf(from) < 40 ? 0 : 8);
    expect(at).toBeGreaterThan(0);
    file.set(to, at);
    expect(await refusal(await temporaryFile('changed.pth', file))).toContain(message);
  });

  it.each(['views-zip.pth', 'views-legacy.pth'])(
    '%s is refused at every length below its own',
    async (name) => {
      const whole = await readFile(pytorchPath(name));
      for (let length = 0; length < whole.length; length += 7) {
        const path = await temporaryFile('cut.pth', whole.subarray(0, length));
        await expect(readPyTorchObject(path)).rejects.toThrow(UserError);
      }
    },
  );
});

it('int makes the integers that it says', async () => {
  expect(await readPlain(await zipFile(`\x80\x02(${int(-5)}${int(2 ** 40)}t.`))).toEqual([-5, 2 ** 40]);
});
