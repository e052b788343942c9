/** The text of a list in pieces of whole lines. Lines that are not UTF-8 are marked: each costs itself, not the list. */

import { createReadStream } from 'node:fs';
import { UserError } from '../../errors.js';
import { fileError } from '../../files.js';
import { decodeText } from './source.js';

/** Text of whole lines, and how many bytes of the list are read. */
export interface Piece {
  readonly text: string;
  readonly passed: number;
}

/** A line without its line break. */
export interface Line extends Piece {
  /** Its number, from 1. */
  readonly line: number;
}

const PIECE_BYTES = 2 ** 20;
const MAX_LINE_BYTES = 64 * 2 ** 20;
const LINE_BREAK = 0x0a; // in UTF-8 a part of nothing else
const BYTE_ORDER_MARK = '\ufeff';
const NOT_UTF8 = '\udfff'; // half of a pair: no UTF-8 decodes to it

/** Whether a piece of the text was not UTF-8. */
export function isMarked(text: string): boolean {
  return text.includes(NOT_UTF8);
}

/** The lines of a list; the last has no line break. @throws UserError as `piecesOf` does */
export async function* linesOf(file: string): AsyncGenerator<Line> {
  let line = 0;
  for await (const { text, passed } of piecesOf(file))
    for (const one of text.replace(/\n$/, '').split('\n')) yield { text: one, line: (line += 1), passed };
}

/**
 * The text of a list, some 1 MiB at a time; a byte order mark at its beginning is left out.
 *
 * @throws UserError if it cannot be read or has a line of more than 64 MiB
 */
export async function* piecesOf(file: string): AsyncGenerator<Piece> {
  const stream = createReadStream(file, { highWaterMark: PIECE_BYTES });
  let [waiting, passed]: [Buffer[], number] = [[], 0];
  let isFirst = true;
  const textOf = (bytes: Buffer) => {
    const text = markedText(bytes);
    const hasMark = isFirst && text.startsWith(BYTE_ORDER_MARK); // in a later piece it is text
    isFirst = false;
    return hasMark ? text.slice(1) : text;
  };
  try {
    for await (const chunk of stream) {
      const bytes = chunk as Buffer; // a stream without an encoding yields bytes
      passed += bytes.length;
      const end = bytes.lastIndexOf(LINE_BREAK) + 1;
      waiting.push(bytes.subarray(0, end === 0 ? bytes.length : end));
      if (end === 0) requireShort(file, waiting, passed);
      else {
        yield { text: textOf(Buffer.concat(waiting)), passed };
        waiting = [bytes.subarray(end)];
      }
    }
    const rest = Buffer.concat(waiting);
    if (rest.length > 0) yield { text: textOf(rest), passed };
  } catch (cause) {
    throw fileError(file, cause);
  } finally {
    stream.destroy();
  }
}

function requireShort(file: string, waiting: readonly Uint8Array[], passed: number): void {
  const length = waiting.reduce((sum, bytes) => sum + bytes.length, 0);
  if (length > MAX_LINE_BYTES)
    throw new UserError(
      `pack: a line must have at most ${MAX_LINE_BYTES} bytes, got more in ${file} from byte ${passed - length} (is it a list?)`,
    );
}

/** Each line that is not UTF-8 with the mark in the place of what is not. */
function markedText(bytes: Buffer): string {
  const whole = decodeText(bytes, { keepMark: true });
  if (whole !== null) return whole;
  const lines: string[] = [];
  for (let start = 0; start < bytes.length;) {
    const end = bytes.indexOf(LINE_BREAK, start) + 1 || bytes.length;
    const line = bytes.subarray(start, end);
    lines.push(decodeText(line, { keepMark: true }) ?? line.toString('utf8').replaceAll('\ufffd', NOT_UTF8));
    start = end;
  }
  return lines.join('');
}
