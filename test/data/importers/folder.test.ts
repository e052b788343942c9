import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { collect as collectAll } from '../../helpers/sources.js';
import { UserError } from '../../../src/errors.js';
import { CsvParser, parseCsv, type CsvRow } from '../../../src/data/importers/csv.js';
import { readFolder, readList, type ImportProblem } from '../../../src/data/importers/folder.js';
import { listSource } from '../../../src/data/importers/list.js';
import { problemText } from '../../../src/data/importers/source.js';
import type { ImageTextPair } from '../../../src/data/pairs.js';

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'import-'));
});
afterEach(() => rm(folder, { recursive: true }));

const write = async (files: Record<string, string>) => {
  for (const [name, text] of Object.entries(files)) {
    await mkdir(join(folder, name, '..'), { recursive: true });
    await writeFile(join(folder, name), text);
  }
};

async function collect(
  read: typeof readFolder,
  path: string,
): Promise<{ pairs: ImageTextPair[]; problems: ImportProblem[] }> {
  const pairs: ImageTextPair[] = [];
  const problems: ImportProblem[] = [];
  const onProblem = (problem: ImportProblem) =>
    problems.push({ where: problem.where, reason: problemText(problem) });
  for await (const pair of read(path, { onProblem })) pairs.push(pair);
  return { pairs, problems };
}

const shown = (pairs: ImageTextPair[]) =>
  pairs.map(({ id, image, caption }) => [id, Buffer.from(image).toString(), caption]);

describe('readFolder', () => {
  it('pairs each image with the text of its name, in name order, bytes as they are', async () => {
    await write({
      'b.JPG': 'bytes b',
      'b.txt': ' a cat \n',
      'a.png': 'bytes a',
      'a.txt': 'a dog',
      'sub/c.webp': 'bytes c',
      'sub/c.txt': 'A Fox',
    });
    const { pairs, problems } = await collect(readFolder, folder);
    expect(shown(pairs)).toEqual([
      ['a', 'bytes a', 'a dog'],
      ['b', 'bytes b', 'a cat'],
      ['sub/c', 'bytes c', 'A Fox'],
    ]);
    expect(problems).toEqual([]);
  });

  it('tells of an image without text, with an empty text, and of an empty image, and goes on', async () => {
    await write({
      'a.jpg': 'x',
      'b.jpg': 'x',
      'b.txt': ' \n',
      'c.jpg': '',
      'c.txt': 'c',
      'd.jpg': 'x',
      'd.txt': 'd',
      'notes.md': '',
    });
    const { pairs, problems } = await collect(readFolder, folder);
    expect(pairs.map(({ id }) => id)).toEqual(['d']);
    expect(problems).toEqual([
      { where: join(folder, 'a.jpg'), reason: 'no text beside the image: a.txt' },
      { where: join(folder, 'b.jpg'), reason: 'caption is empty' },
      { where: join(folder, 'c.jpg'), reason: 'the image is empty' },
    ]);
  });

  it('orders files by their whole paths, whatever is a folder', async () => {
    const names = ['a/x', 'a-b', 'a.b', 'a0', 'B', 'a/b/c'];
    for (const name of names) await write({ [`${name}.jpg`]: 'x', [`${name}.txt`]: name });
    const { pairs } = await collect(readFolder, folder);
    expect(pairs.map(({ id }) => id)).toEqual(
      names
        .map((name) => `${name}.jpg`)
        .sort()
        .map((name) => name.slice(0, -4)),
    );
  });

  it('a folder that is not there is a user error', async () => {
    await expect(collect(readFolder, join(folder, 'gone'))).rejects.toThrow(UserError);
  });
});

describe('readList', () => {
  it('reads JSON lines, with paths relative to the list', async () => {
    await write({
      'data/list.jsonl': [
        '{"image":"i/a.jpg","caption":"A"}',
        '',
        '{"image":"i/a.jpg","caption":"B","id":7}',
        '{"image":"i/none.jpg","caption":"C"}',
        '{"image":"i/a.jpg","caption":""}',
        '{"caption":"D"}',
        '{broken',
        '[1]',
      ].join('\n'),
      'data/i/a.jpg': 'bytes',
    });
    const list = join(folder, 'data/list.jsonl');
    const { pairs, problems } = await collect(readList, list);
    expect(shown(pairs)).toEqual([
      ['i/a.jpg', 'bytes', 'A'],
      ['7', 'bytes', 'B'],
    ]);
    expect(problems).toEqual([
      { where: `${list}:4`, reason: `cannot read the image: ${join(folder, 'data/i/none.jpg')}` },
      { where: `${list}:5`, reason: 'caption is empty' },
      { where: `${list}:6`, reason: 'no image named' },
      { where: `${list}:7`, reason: 'not a JSON object' },
      { where: `${list}:8`, reason: 'not a JSON object' },
    ]);
  });

  it.each([
    ['list.csv', 'id,Image,caption\n1,a.jpg,"Hello, ""you"""\n2,b.jpg,x\n'],
    ['list.tsv', 'id\tImage\tcaption\r\n1\ta.jpg\tHello, "you"\r\n2\tb.jpg\tx'],
  ])('reads %s by its header', async (name, text) => {
    await write({ [name]: text, 'a.jpg': 'A' });
    const { pairs, problems } = await collect(readList, join(folder, name));
    expect(shown(pairs)).toEqual([['1', 'A', 'Hello, "you"']]);
    expect(problems).toEqual([
      { where: `${join(folder, name)}:3`, reason: `cannot read the image: ${join(folder, 'b.jpg')}` },
    ]);
  });

  it.each([
    [
      'list.csv',
      'file,text\na,b',
      /the first line must name the columns image and caption, got "file, text"/,
    ],
    ['list.csv', 'image,caption\na,"b', /a quote must be closed, got none after line 2/],
    ['list.csv', '', /the first line must name the columns/],
    ['list.txt', 'a', /a list must be \.jsonl, \.csv or \.tsv/],
  ])('refuses %s with the text %j', async (name, text, message) => {
    await write({ [name]: text });
    await expect(collect(readList, join(folder, name))).rejects.toThrow(message);
    await expect(collect(readList, join(folder, name))).rejects.toThrow(UserError);
  });
});

describe('listSource', () => {
  it('reads a long list as a stream: lines and letters cut by the pieces, progress in its bytes', async () => {
    const line = (i: number) =>
      JSON.stringify({ image: 'a.jpg', caption: `ünï ${'é'.repeat(3000)} ${i}`, id: i });
    const lines = Array.from({ length: 400 }, (_, i) => line(i)).join('\n'); // 2.4 MB, three pieces
    await write({ 'list.jsonl': `\ufeff${lines}`, 'a.jpg': 'A' });
    const source = await listSource(join(folder, 'list.jsonl'));
    const passed: number[] = [];
    let i = 0;
    for await (const item of source.parts[0]?.items() ?? []) {
      const { pair } = await item.load();
      expect(pair?.caption).toBe(`ünï ${'é'.repeat(3000)} ${i}`);
      passed.push(item.passed);
      i += 1;
    }
    expect(i).toBe(400);
    expect(new Set(passed).size).toBe(3);
    expect(passed.at(-1)).toBe(source.parts[0]?.size);
  });

  it('leaves out a byte order mark at its beginning alone, wherever its pieces end', async () => {
    const row = (caption: string) => `a.jpg,${caption}\n`;
    const captionsOf = async (before: string) => {
      const text = `\ufeffimage,caption\n${before}\ufeff${row('marked')}${row('last')}`;
      await write({ 'list.csv': text, 'a.jpg': 'A' });
      const { pairs, problems } = await collectAll(listSource(join(folder, 'list.csv')));
      return [pairs.at(-1)?.caption, problems];
    };
    const lost = [expect.stringMatching(/:3: cannot read the image: .*\ufeffa\.jpg$/)];
    expect(await captionsOf(row('one'))).toEqual(['last', lost]);
    const head = Buffer.byteLength('\ufeffimage,caption\n' + row(''));
    expect(await captionsOf(row('x'.repeat(2 ** 20 - head)))).toEqual(['last', lost]); // the mark begins a piece
  });

  it('takes other columns and another folder where they are named; of several captions each', async () => {
    await write({
      'list.jsonl':
        '{"file": "a.jpg", "texts": ["one", "two"], "id": "x"}\n{"image": "a.jpg", "texts": ["three"]}',
      'list.csv': 'FILE,text\na.jpg,"one\nand more"',
      'images/a.jpg': 'A',
    });
    const options = { imageColumn: 'file', captionColumn: 'texts', images: join(folder, 'images') };
    const { pairs, problems } = await collectAll(listSource(join(folder, 'list.jsonl'), options));
    expect(shown(pairs)).toEqual([
      ['x', 'A', 'one'],
      ['x#2', 'A', 'two'],
    ]);
    expect(problems).toEqual([`${join(folder, 'list.jsonl')}:2: no image named, column "file"`]);
    const csv = { ...options, captionColumn: 'text' };
    expect(shown((await collectAll(listSource(join(folder, 'list.csv'), csv))).pairs)).toEqual([
      ['a.jpg', 'A', 'one\nand more'],
    ]);
  });
});

describe('a list that is not UTF-8', () => {
  const latin = (text: string) => Buffer.from(text, 'latin1');
  const problemsOf = async (name: string, parts: readonly Buffer[]) => {
    await write({ 'a.jpg': 'A' });
    await writeFile(join(folder, name), Buffer.concat(parts));
    const { pairs, problems } = await collect(readList, join(folder, name));
    return { captions: pairs.map(({ caption }) => caption), problems };
  };
  const problem = (name: string, line: number) => ({
    where: `${join(folder, name)}:${line}`,
    reason: 'the text is not UTF-8',
  });

  it('costs the lines with such bytes, told by their numbers, wherever the pieces of the list end', async () => {
    const line = (caption: string) => `{"image": "a.jpg", "caption": "${caption}"}\n`;
    const long = 'é'.repeat(2 ** 19); // with the rest of its line more than a piece of 1 MiB
    const { captions, problems } = await problemsOf('list.jsonl', [
      Buffer.from(line('one')),
      latin(line('f\xfcnf')),
      Buffer.from(line('genuine \ufffd')),
      Buffer.from(line('written \\ud800')),
      Buffer.from(line(long)),
      latin(line('\xe9'.repeat(2 ** 20))),
      Buffer.from(line('last').trimEnd()),
    ]);
    expect(captions).toEqual(['one', 'genuine \ufffd', 'written \ud800', long, 'last']);
    expect(problems).toEqual([problem('list.jsonl', 2), problem('list.jsonl', 6)]);
  });

  it('as a table costs these rows', async () => {
    const { captions, problems } = await problemsOf('list.csv', [
      Buffer.from('\ufeffimage,caption,more\na.jpg,fünf,\n'),
      latin('a.jpg,"two\nf\xfcnf lines",\na.jpg,x,\xfc\n'),
      Buffer.from('a.jpg,last,'),
    ]);
    expect(captions).toEqual(['fünf', 'last']);
    expect(problems).toEqual([problem('list.csv', 3), problem('list.csv', 5)]);
  });

  it('without line breaks is not read into memory whole', async () => {
    await writeFile(join(folder, 'list.jsonl'), Buffer.alloc(65 * 2 ** 20, 'x'));
    await expect(collect(readList, join(folder, 'list.jsonl'))).rejects.toThrow(
      /a line must have at most 67108864 bytes, got more in .*list\.jsonl from byte 0/,
    );
  });
});

describe('parseCsv', () => {
  const fields = (text: string) => parseCsv(text, ',').map((row) => row.fields);

  it('knows quotes, doubled quotes, separators and line breaks within, empty fields and blank lines', () => {
    expect(fields('a,b\n"x,""y""\nz",\n\n,q\r\n"",w')).toEqual([['a', 'b'], ['x,"y"\nz', ''], ['', 'q'], ['', 'w']]); // prettier-ignore
    expect(fields('\ufeffa,b')).toEqual([['a', 'b']]);
    expect(fields('a,')).toEqual([['a', '']]);
    expect(fields('a\r\nb,c\r')).toEqual([['a'], ['b', 'c']]); // cut off before the last line break ends
  });

  it('splits text in pieces as it splits the whole, wherever the pieces end', () => {
    const text = fc.array(fc.constantFrom('a', 'é', ',', '"', '""', '\n', '\r\n', '\r', '"q,\n"', ' '), {
      maxLength: 40,
    });
    const cases = fc.property(text, fc.integer({ min: 1, max: 7 }), (parts, step) => {
      const whole = parts.join('');
      const parser = new CsvParser(',');
      const inPieces = () => {
        const rows: CsvRow[] = [];
        for (let at = 0; at < whole.length; at += step) rows.push(...parser.push(whole.slice(at, at + step)));
        return [...rows, ...parser.end()];
      };
      let expected: CsvRow[] | undefined;
      try {
        expected = parseCsv(whole, ',');
      } catch {
        expect(inPieces).toThrow(/a quote must be closed/);
        return;
      }
      expect(inPieces()).toEqual(expected);
    });
    fc.assert(cases, { numRuns: 500 });
  });

  it('takes what follows a closing quote into the field, as Python’s csv does', () => {
    expect(fields('"a"x,"b""c" d\n')).toEqual([['ax', 'b"c d']]);
  });

  it('numbers rows by the line they begin on', () => {
    expect(parseCsv('h\n"two\nlines"\nlast', ',').map(({ line }) => line)).toEqual([1, 2, 4]);
  });
});
