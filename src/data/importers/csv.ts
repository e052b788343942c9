/** Comma- or tab-separated text with quotes (RFC 4180): the little that lists of captions need. */

/** One line of a table, and where it began. */
export interface CsvRow {
  readonly fields: readonly string[];
  /** Line of the text, from 1; a quoted field may hold further lines. */
  readonly line: number;
}

/**
 * Splits text into rows of fields. A field in double quotes may hold separators, line breaks and doubled quotes.
 *
 * @param separator one character
 * @throws Error if a quote is not closed
 */
export function parseCsv(text: string, separator: string): CsvRow[] {
  const rows: CsvRow[] = [];
  let fields: string[] = [];
  let line = 1;
  let rowLine = 1;
  for (let at = text.startsWith('\ufeff') ? 1 : 0; at < text.length;) {
    const { value, next } = text[at] === '"' ? quotedField(text, at, line) : plainField(text, at, separator);
    fields.push(value);
    line += newlines(text.slice(at, next));
    const end = text.startsWith('\r\n', next) ? next + 2 : next + 1;
    if (text[next] === separator) {
      at = end;
      if (at < text.length) continue;
      fields.push(''); // the text ends with a separator
    }
    if (fields.length > 1 || value !== '') rows.push({ fields, line: rowLine }); // blank lines are no rows
    fields = [];
    line += 1;
    rowLine = line;
    at = end;
  }
  return rows;
}

function plainField(text: string, start: number, separator: string): { value: string; next: number } {
  let next = start;
  while (
    next < text.length &&
    text[next] !== separator &&
    text[next] !== '\n' &&
    !text.startsWith('\r\n', next)
  )
    next += 1;
  return { value: text.slice(start, next), next };
}

function quotedField(text: string, start: number, line: number): { value: string; next: number } {
  for (let at = start + 1; at < text.length; at++) {
    if (text[at] !== '"') continue;
    if (text[at + 1] !== '"') return { value: text.slice(start + 1, at).replaceAll('""', '"'), next: at + 1 };
    at += 1;
  }
  throw new Error(`csv: a quote must be closed, got none after line ${line}`);
}

function newlines(text: string): number {
  return text.split('\n').length - 1;
}
