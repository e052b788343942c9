/**
 * Help texts, written here rather than by yargs: loading it and laying out its help takes 0.15 s or more, half of what a
 * `--help` may take.
 */
import type { Options } from 'yargs';

import type { Verb } from './verb.js';

const WIDTH = 100;
const INDENT = 2;

/** The help of the whole program: its verbs, a sentence each. */
export function programHelp(verbs: readonly Verb[]): string {
  return [
    'minigpt4 VERB [options]',
    '',
    'Trains the projection through which a frozen language model sees.',
    '',
    ...columns(verbs.map(({ command, describe }) => [command, describe])),
    '',
    'minigpt4 VERB --help shows the options of a verb and an example; minigpt4 --version the version.',
  ].join('\n');
}

/** The help of one verb: what it does, its options, an example. */
export function verbHelp({ command, describe, options, example }: Verb): string {
  const rows = Object.entries(options).map(([name, option]): [string, string] => [
    label(name, option, command),
    meaning(option),
  ]);
  return [
    `minigpt4 ${command} [options]`,
    '',
    describe,
    '',
    ...columns([...rows, ['--help', 'show this help']]),
    '',
    `Example: minigpt4 ${example}`,
  ].join('\n');
}

function label(name: string, { type, choices, default: fallback }: Options, command: string): string {
  if (command.includes(`<${name}>`)) return `<${name}>`;
  if (type === 'boolean') return fallback === true ? `--no-${name}` : `--${name}`;
  return `--${name} ${choices ? choices.join('|') : 'VALUE'}`;
}

function meaning({ describe = '', demandOption }: Options): string {
  return demandOption === true ? `${describe} (required)` : describe;
}

/** Two columns, the second wrapped between words. */
function columns(rows: readonly (readonly [string, string])[]): string[] {
  const left = INDENT + Math.max(...rows.map(([name]) => name.length)) + 2;
  return rows.flatMap(([name, words]) =>
    wrap(words, WIDTH - left).map(
      (line, i) => `${' '.repeat(INDENT)}${i === 0 ? name : ''}`.padEnd(left) + line,
    ),
  );
}

function wrap(words: string, width: number): string[] {
  const lines = [''];
  for (const word of words.split(' ')) {
    const last = lines.at(-1) ?? '';
    if (last !== '' && last.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = last === '' ? word : `${last} ${word}`;
  }
  return lines;
}
