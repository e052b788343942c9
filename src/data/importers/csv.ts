/** Comma- or tab-separated text with quotes (RFC 4180): the little that lists of captions need. */

/** One line of a table, and where it began. */
export interface CsvRow {
  readonly fields: readonly string[];
  /** Line of the text, from 1; a quoted field may hold further lines. */
  readonly line: number;
}

/** A field, and where its text ends; null where the text ends before the field does. */
type Field = { readonly value: string; readonly next: number } | null;

const MAX_ROW_LENGTH = 16 * 2 ** 20; // characters; a quote that is not closed must not take the whole file

/** Splits text that comes in pieces into rows of fields, holding one row at a time. */
export class CsvParser {
  #rest = '';
  #line = 1;
  readonly #plain: RegExp;

  /** @param separator one character */
  constructor(private readonly separator: string) {
    this.#plain = new RegExp(`[^${separator}\\n]*`, 'y');
  }

  /**
   * The rows that end in this piece.
   *
   * @throws Error if a row is longer than 16 Mi characters
   */
  push(piece: string): CsvRow[] {
    return this.#take(this.#rest + piece, false);
  }

  /** The row after which no line break came. @throws Error if a quote is not closed */
  end(): CsvRow[] {
    return this.#take(this.#rest, true);
  }

  #take(text: string, isLast: boolean): CsvRow[] {
    const rows: CsvRow[] = [];
    let start = 0;
    while (start < text.length) {
      const row = this.#row(text, start, isLast);
      if (row === null) break;
      if (row.fields.length > 1 || row.fields[0] !== '') rows.push({ fields: row.fields, line: this.#line }); // blank lines are no rows
      this.#line += newlines(text, start, row.next);
      start = row.next;
    }
    this.#rest = text.slice(start);
    if (this.#rest.length > MAX_ROW_LENGTH || (isLast && this.#rest !== ''))
      throw new Error(`csv: a quote must be closed, got none after line ${this.#line}`);
    return rows;
  }

  /** The row that begins at `start`; null if the text ends before it does. */
  #row(text: string, start: number, isLast: boolean): { fields: string[]; next: number } | null {
    const fields: string[] = [];
    for (let at = start; ;) {
      const field: Field = text[at] === '"' ? this.#quoted(text, at) : this.#unquoted(text, at);
      if (field === null) return null;
      const { value, next } = field;
      if (next >= text.length && !isLast) return null; // more of it may come
      const ends = text[next] !== this.separator;
      const isLine = ends && value.endsWith('\r'); // \r\n, or cut off between the two
      fields.push(isLine ? value.slice(0, -1) : value);
      at = next + 1;
      if (ends) return { fields, next: Math.min(at, text.length) };
    }
  }

  #unquoted(text: string, start: number): { value: string; next: number } {
    this.#plain.lastIndex = start;
    const [value = ''] = this.#plain.exec(text) ?? [];
    return { value, next: start + value.length };
  }

  /** What follows the closing quote belongs to the field, as for Python's csv. */
  #quoted(text: string, start: number): Field {
    for (let at = text.indexOf('"', start + 1); at >= 0; at = text.indexOf('"', at + 2)) {
      if (text[at + 1] === '"') continue;
      const after = this.#unquoted(text, at + 1);
      return { value: text.slice(start + 1, at).replaceAll('""', '"') + after.value, next: after.next };
    }
    return null;
  }
}

/**
 * Splits a whole text into rows of fields. A field in double quotes may hold separators, line breaks and doubled quotes.
 *
 * @param separator one character
 * @throws Error if a quote is not closed
 */
export function parseCsv(text: string, separator: string): CsvRow[] {
  const parser = new CsvParser(separator);
  return [...parser.push(text.startsWith('\ufeff') ? text.slice(1) : text), ...parser.end()];
}

function newlines(text: string, start: number, end: number): number {
  let count = 0;
  for (let at = text.indexOf('\n', start); at >= 0 && at < end; at = text.indexOf('\n', at + 1)) count += 1;
  return count;
}
