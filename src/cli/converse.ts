/** A chat on the terminal, or through pipes: questions are lines, answers are printed as they are written. */
import { createInterface } from 'node:readline/promises';
import type { Readable, Writable } from 'node:stream';
import { readImage, type Chat } from '../chat.js';
import { UserError } from '../errors.js';
import type { ReplyOptions } from '../model/conversation/reply.js';

/** Where a conversation is held. */
export interface Talk {
  readonly chat: Pick<Chat, 'ask' | 'show' | 'restart'>;
  readonly options: ReplyOptions;
  /** One JSON object a line in place of the text of the answers. */
  readonly json: boolean;
  /** Answers. */
  readonly output: Pick<Writable, 'write'>;
  /** All else: one line of text. */
  readonly note: (text: string) => void;
}

/** Where the questions come from. */
export interface Listener {
  readonly input: Readable & { readonly isTTY?: boolean };
  /** Where the prompt and what is typed are shown, if both it and `input` are a terminal. */
  readonly screen: Writable & { readonly isTTY?: boolean };
  /** Emits `SIGINT`; `process` does. */
  readonly signals: Pick<NodeJS.EventEmitter, 'on' | 'off'>;
  /** Ends the process at once, for those who press Ctrl-C while an answer is being stopped. */
  readonly endNow: () => void;
}

const HELP = `/image FILE  shows an image, beside those shown before
/restart     forgets images and questions
/help        shows this
/quit        ends, as Ctrl-D does; Ctrl-C stops an answer, and ends where there is none`;

/**
 * Asks one question and prints the answer.
 *
 * @param signal stops the answer
 */
export async function askAloud(
  { chat, options, json, output, note }: Talk,
  question: string,
  signal?: AbortSignal,
): Promise<void> {
  const begun = performance.now();
  let shown = '';
  const show = (text: string): void => {
    // What was printed stays: a text that begins otherwise is printed anew on the next line
    output.write(text.startsWith(shown) ? text.slice(shown.length) : `\n${text}`);
    shown = text;
  };
  const reply = await chat.ask(question, {
    ...options,
    ...(signal && { signal }),
    ...(!json && { onText: (text) => text.startsWith(shown) && show(text) }),
  });
  const { text, finish, generated, context, shortened } = reply;
  if (json) {
    const ms = Math.round(performance.now() - begun);
    const { length, reused } = context;
    const line = { question, answer: text, tokens: generated.ids.length, finish, ms, shortened };
    output.write(`${JSON.stringify({ ...line, context: length, reused })}\n`);
    return;
  }
  show(text);
  output.write('\n');
  if (shortened)
    note('(the conversation became too long: its oldest questions were left out, its images were not)');
  if (finish === 'length') note(`(cut off after ${generated.ids.length} tokens: --max-new-tokens)`);
  if (finish === 'stopped') note('(stopped)');
  if (finish === 'end' && text === '') note('(an empty answer)');
}

/**
 * Answers lines until they end, `/quit` or Ctrl-C. What the user can mend is said, and the conversation goes on.
 *
 * @returns the exit code: 0, or 130 after Ctrl-C
 */
export async function converse(talk: Talk, { input, screen, signals, endNow }: Listener): Promise<number> {
  const terminal = input.isTTY === true && screen.isTTY === true;
  const lines = createInterface({ input, ...(terminal && { output: screen }), terminal, prompt: '> ' });
  let answering: AbortController | undefined;
  let open = true; // Ctrl-D closes the lines, also while an answer is written
  let quits = false;
  let code = 0;
  const prompt = (): void => {
    if (terminal && open) lines.prompt();
  };
  const interrupt = (): void => {
    if (answering?.signal.aborted) endNow();
    else if (answering) answering.abort();
    else {
      code = 130;
      lines.close();
    }
  };
  lines.on('close', () => {
    if (terminal && !quits) screen.write('\n'); // after the prompt, or what was typed
    open = false;
  });
  lines.on('SIGINT', interrupt); // of a terminal, which gives readline the key and no signal
  signals.on('SIGINT', interrupt);
  try {
    prompt();
    for await (const line of lines) {
      answering = new AbortController();
      quits = !(await obey(talk, line.trim(), answering.signal));
      answering = undefined;
      if (quits || code !== 0) break;
      prompt();
    }
  } finally {
    lines.close();
    signals.off('SIGINT', interrupt);
  }
  return code;
}

/** Does what a line says. @returns whether the conversation goes on */
async function obey(talk: Talk, line: string, signal: AbortSignal): Promise<boolean> {
  if (line === '/quit') return false;
  try {
    if (line.startsWith('/')) await command(talk, line);
    else if (line === '') talk.note('an empty line asks nothing: type a question, or /help');
    else await askAloud(talk, line, signal);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    talk.note(error.message);
  }
  return true;
}

async function command({ chat, note }: Talk, line: string): Promise<void> {
  const [, name, rest = ''] = /^\/(\S*)\s*(.*)$/.exec(line) ?? [];
  if (name === 'help') note(HELP);
  else if (name === 'restart') {
    chat.restart();
    note('forgotten: show an image with /image FILE');
  } else if (name === 'image' && rest !== '') {
    const file = rest.replace(/^(['"])(.*)\1$/, '$2'); // terminals quote the path of a file that is dropped on them
    await chat.show(await readImage(file));
    note(`${file}: shown`);
  } else
    throw new UserError(`unknown command "${line}": commands are /image FILE, /restart, /help and /quit`);
}
