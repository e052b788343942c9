/** A conversation through pipes, with a chat that knows its answers. */
import { EventEmitter } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { askAloud, converse, type Talk } from '../../src/cli/converse.js';
import { UserError } from '../../src/errors.js';
import { startConversation } from '../../src/model/conversation/conversation.js';
import type { Reply, ReplyOptions } from '../../src/model/conversation/reply.js';
import { TEMPLATES } from '../../src/model/conversation/template.js';
import { tinyPicture } from '../helpers/tinyFolders.js';

let folder: string;
let picture: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'converse-'));
  picture = join(folder, 'a picture.png');
  await writeFile(picture, await tinyPicture(1));
});
afterAll(() => rm(folder, { recursive: true }));

function replyOf(text: string, more: Partial<Reply> = {}): Reply {
  return {
    conversation: startConversation(TEMPLATES['vicuna-v0']),
    text,
    generated: { ids: [7, 8, 9], end: [], ended: true },
    finish: 'end',
    context: { length: 20, reused: 5 },
    shortened: false,
    ...more,
  };
}

/** A talk that writes down what is asked, printed and noted. */
class Recorded {
  readonly asked: string[] = [];
  printed = '';
  readonly notes: string[] = [];
  readonly signals = new EventEmitter();
  readonly input: PassThrough & { isTTY?: boolean } = new PassThrough();
  readonly screen: PassThrough & { isTTY?: boolean } = new PassThrough();
  ended = 0;
  readonly talk: Talk;

  constructor(answer: (question: string, options: ReplyOptions) => Reply | Promise<Reply>, json = false) {
    this.talk = {
      chat: {
        ask: async (question, options = {}) => {
          this.asked.push(question);
          return answer(question, options);
        },
        show: (bytes) => {
          this.asked.push(`image of ${bytes.length} bytes`);
          return Promise.resolve();
        },
        restart: () => void this.asked.push('restart'),
      },
      options: { maxNewTokens: 3 },
      json,
      output: { write: (text: string) => Boolean((this.printed += text)) },
      note: (text) => void this.notes.push(text),
    };
  }

  /** What a terminal shows besides the answers, without the codes that move its cursor. */
  get shown(): string {
    // eslint-disable-next-line no-control-regex -- the escape of such codes
    return String((this.screen.read() as Buffer | null) ?? '').replaceAll(/\x1b\[[\d;]*[A-Z]/gi, '');
  }

  listen(): Promise<number> {
    return converse(this.talk, {
      input: this.input,
      screen: this.screen,
      signals: this.signals,
      endNow: () => (this.ended += 1),
    });
  }

  /** Sends all lines at once and then the end, as a file through a pipe does. */
  hear(...lines: string[]): Promise<number> {
    this.input.end(lines.map((line) => `${line}\n`).join(''));
    return this.listen();
  }
}

describe('an answer', () => {
  it('is printed as it grows, and its last part at the end', async () => {
    const parts: string[] = [];
    const recorded = new Recorded((_, { onText }) => {
      for (const text of ['a', 'a dog', 'a dog']) {
        onText?.(text);
        parts.push(recorded.printed);
      }
      return replyOf('a dog.');
    });
    await askAloud(recorded.talk, 'What?');
    expect(parts).toEqual(['a', 'a dog', 'a dog']);
    expect(recorded.printed).toBe('a dog.\n');
    expect(recorded.notes).toEqual([]);
  });

  it('is printed anew where it turned out to be another', async () => {
    const recorded = new Recorded((_, { onText }) => {
      onText?.('Sure. Assis');
      onText?.('a d');
      return replyOf('a dog.');
    });
    await askAloud(recorded.talk, 'What?');
    expect(recorded.printed).toBe('Sure. Assis\na dog.\n');
  });

  it.each<[string, Partial<Reply>, string[]]>([
    ['', {}, ['(an empty answer)']],
    ['a dog', { finish: 'length' }, ['(cut off after 3 tokens: --max-new-tokens)']],
    ['a', { finish: 'stopped' }, ['(stopped)']],
    [
      'a dog.',
      { shortened: true },
      ['(the conversation became too long: its oldest questions were left out, its images were not)'],
    ],
  ])('%j with %j is followed by a note', async (text, more, notes) => {
    const recorded = new Recorded(() => replyOf(text, more));
    await askAloud(recorded.talk, 'What?');
    expect(recorded.printed).toBe(`${text}\n`);
    expect(recorded.notes).toEqual(notes);
  });

  it('is one JSON object a line, and nothing before it is whole', async () => {
    const recorded = new Recorded((_, { onText }) => {
      expect(onText).toBeUndefined();
      return replyOf('a "dog"\n', { finish: 'length', shortened: true });
    }, true);
    await askAloud(recorded.talk, 'What?');
    expect(recorded.printed).toMatch(/^[^\n]*\n$/);
    const { ms, ...line } = JSON.parse(recorded.printed) as Record<string, unknown>;
    expect(ms).toBeTypeOf('number');
    expect(line).toEqual({
      question: 'What?',
      answer: 'a "dog"\n',
      tokens: 3,
      finish: 'length',
      shortened: true,
      context: 20,
      reused: 5,
    });
  });
});

describe('a conversation', () => {
  it('answers each line, and the end of the lines ends it', async () => {
    const recorded = new Recorded((question) => replyOf(`${question}!`));
    await expect(recorded.hear('One?', ' Two? ')).resolves.toBe(0);
    expect(recorded.printed).toBe('One?!\nTwo?!\n');
    expect(recorded.signals.listenerCount('SIGINT')).toBe(0);
  });

  it('shows images, forgets, helps and ends by command', async () => {
    const recorded = new Recorded(() => replyOf('yes'));
    const lines = [`/image ${picture}`, `/image '${picture}'`, '/restart', '/help', '/quit', 'Never asked?'];
    await expect(recorded.hear(...lines)).resolves.toBe(0);
    const shown = `image of ${(await tinyPicture(1)).length} bytes`;
    expect(recorded.asked).toEqual([shown, shown, 'restart']);
    expect(recorded.notes.slice(0, 3)).toEqual([
      `${picture}: shown`,
      `${picture}: shown`,
      'forgotten: show an image with /image FILE',
    ]);
    for (const command of ['/image', '/restart', '/help', '/quit'])
      expect(recorded.notes[3]).toContain(command);
  });

  it('says what is wrong with a line and goes on', async () => {
    const recorded = new Recorded((question) => {
      if (question === 'Long?') throw new UserError('too long');
      return replyOf('yes');
    });
    await expect(
      recorded.hear('', '/imag x', '/image', '/image nowhere.png', 'Long?', 'Short?'),
    ).resolves.toBe(0);
    expect(recorded.notes).toEqual([
      'an empty line asks nothing: type a question, or /help',
      'unknown command "/imag x": commands are /image FILE, /restart, /help and /quit',
      'unknown command "/image": commands are /image FILE, /restart, /help and /quit',
      'nowhere.png: no such file or folder (check the path)',
      'too long',
    ]);
    expect(recorded.asked).toEqual(['Long?', 'Short?']);
  });

  it('does not go on after a bug', async () => {
    const recorded = new Recorded(() => {
      throw new Error('a bug');
    });
    await expect(recorded.hear('One?', 'Two?')).rejects.toThrow('a bug');
    expect(recorded.asked).toEqual(['One?']);
  });
});

describe('Ctrl-C', () => {
  /** An answer that goes on until its signal stops it. */
  const endless = (_: string, { signal }: ReplyOptions): Promise<Reply> =>
    new Promise((resolve) => {
      signal?.addEventListener('abort', () => resolve(replyOf('so f', { finish: 'stopped' })));
    });

  it('stops an answer, and the conversation goes on', async () => {
    const recorded = new Recorded((question, options) => {
      if (question === 'Sure?') return replyOf('yes');
      setImmediate(() => recorded.signals.emit('SIGINT'));
      return endless(question, options);
    });
    await expect(recorded.hear('What?', 'Sure?')).resolves.toBe(0);
    expect(recorded.printed).toBe('so f\nyes\n');
    expect(recorded.notes).toEqual(['(stopped)']);
    expect(recorded.ended).toBe(0);
  });

  it('pressed again before the answer has stopped ends at once', async () => {
    const recorded = new Recorded(async (question, options) => {
      setImmediate(() => {
        recorded.signals.emit('SIGINT');
        recorded.signals.emit('SIGINT');
      });
      return endless(question, options);
    });
    await recorded.hear('What?');
    expect(recorded.ended).toBe(1);
  });

  it('where no answer is written ends with 130', async () => {
    const recorded = new Recorded(() => replyOf('yes'));
    const ended = recorded.listen();
    recorded.input.write('What?\n');
    while (recorded.printed === '') await new Promise((resolve) => setImmediate(resolve));
    await new Promise((resolve) => setImmediate(resolve));
    recorded.signals.emit('SIGINT');
    await expect(ended).resolves.toBe(130);
    expect(recorded.asked).toEqual(['What?']);
  });
});

describe('on a terminal', () => {
  /** Waits until a condition holds. */
  const until = async (holds: () => boolean): Promise<void> => {
    while (!holds()) await new Promise((resolve) => setImmediate(resolve));
  };

  function terminal(answer: ConstructorParameters<typeof Recorded>[0]): Recorded {
    const recorded = new Recorded(answer);
    recorded.input.isTTY = true;
    recorded.screen.isTTY = true;
    return recorded;
  }

  it('each question follows a prompt, and Ctrl-D ends the line and the conversation', async () => {
    const recorded = terminal(() => replyOf('yes'));
    const ended = recorded.listen();
    recorded.input.write('What?\r');
    await until(() => recorded.printed === 'yes\n');
    await new Promise((resolve) => setImmediate(resolve));
    recorded.input.write('\x04');
    await expect(ended).resolves.toBe(0);
    expect(recorded.shown).toBe('> What?\r\n> \n');
  });

  it('Ctrl-C as a key stops the answer, then ends with 130', async () => {
    const recorded = terminal(
      (_, { signal }) =>
        new Promise((resolve) => {
          signal?.addEventListener('abort', () => resolve(replyOf('so f', { finish: 'stopped' })));
          setImmediate(() => recorded.input.write('\x03'));
        }),
    );
    const ended = recorded.listen();
    recorded.input.write('What?\r');
    await until(() => recorded.notes.includes('(stopped)'));
    await new Promise((resolve) => setImmediate(resolve));
    recorded.input.write('\x03');
    await expect(ended).resolves.toBe(130);
    expect(recorded.ended).toBe(0);
  });

  it('Ctrl-D while an answer is written lets it come to its end', async () => {
    const recorded = terminal(async () => {
      recorded.input.write('\x04');
      await new Promise((resolve) => setTimeout(resolve, 20));
      return replyOf('yes');
    });
    const ended = recorded.listen();
    recorded.input.write('What?\r');
    await expect(ended).resolves.toBe(0);
    expect(recorded.printed).toBe('yes\n');
  });
});
