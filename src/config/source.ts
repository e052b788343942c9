/** Where the values of a configuration stand: line and column of its YAML file, or the `--set` that gave them. */
import { isAlias, isCollection, isMap, isScalar, LineCounter, parseDocument, type Document } from 'yaml';

import type { Path, Problem } from './rules.js';

/** A YAML text, parsed with positions. */
export interface Source {
  readonly file: string;
  readonly document: Document;
  readonly lines: LineCounter;
}

/** One `--set a.b=value`. */
export interface Setting {
  readonly path: Path;
  readonly value: unknown;
  /** As it was written, without `--set`. */
  readonly text: string;
}

/** Parses YAML; its errors, one a line as `file:line:column: …`, are in `errors`. */
export function parseSource(text: string, file: string): { source: Source; errors: string[] } {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, merge: true });
  const errors = [...document.errors, ...document.warnings].map(
    (error) => `${file}:${position(lines, error.pos[0])}: YAML: ${error.message}`,
  );
  return { source: { file, document, lines }, errors };
}

/** Parses `a.b=value` (the value as YAML; nothing after `=` is the empty text); a string is what is wrong with it. */
export function parseSetting(text: string): Setting | string {
  const equals = text.indexOf('=');
  const keys = text.slice(0, equals).split('.');
  if (equals < 1 || keys.some((key) => key.trim() === '')) return `--set ${text}: must look like a.b=value`;
  const path = keys.map((key) => (/^\d+$/.test(key) ? Number(key) : key.trim()));
  const value = text.slice(equals + 1);
  if (value.trim() === '') return { path, value: '', text };
  const document = parseDocument(value, { prettyErrors: false });
  const error = document.errors[0];
  if (error) return `--set ${text}: YAML: ${error.message}`;
  return { path, value: document.toJS(), text };
}

/** `file:line:column` of a problem, or the `--set …` that caused it. */
export function placeOf(problem: Problem, source: Source, settings: readonly Setting[]): string {
  const { offset, complete } = find(problem, source.document);
  const inFile = complete || problem.at === 'missing';
  const setting = settings.findLast(
    ({ path }) => startsWith(problem.path, path) || (!inFile && startsWith(path, problem.path)),
  );
  return setting ? `--set ${setting.text}` : `${source.file}:${position(source.lines, offset)}`;
}

/** Walks along the path as far as the document goes; `complete` when the whole path is in it. */
function find({ path, at }: Problem, document: Document): { offset: number; complete: boolean } {
  let node: unknown = document.contents;
  let offset = startOf(node) ?? 0;
  for (const [depth, key] of path.entries()) {
    if (isAlias(node)) node = node.resolve(document);
    if (!isCollection(node)) return { offset, complete: false };
    const last = depth === path.length - 1;
    const next: unknown = node.get(key, true);
    const keyStart = isMap(node) ? startOf(keyNode(node.items, key)) : undefined;
    if (next === undefined && keyStart === undefined) return { offset, complete: false };
    const valueStart = startOf(next);
    offset = (last && at === 'value' ? (valueStart ?? keyStart) : (keyStart ?? valueStart)) ?? offset;
    node = next;
  }
  return { offset, complete: true };
}

function keyNode(items: readonly { key: unknown }[], key: string | number): unknown {
  return items.find((pair) => isScalar(pair.key) && String(pair.key.value) === String(key))?.key;
}

function startOf(node: unknown): number | undefined {
  if (isScalar(node) || isCollection(node) || isAlias(node)) return node.range?.[0];
  return undefined;
}

function startsWith(path: Path, head: Path): boolean {
  return head.length <= path.length && head.every((key, index) => String(key) === String(path[index]));
}

function position(lines: LineCounter, offset: number): string {
  const { line, col } = lines.linePos(offset);
  return `${Math.max(line, 1)}:${Math.max(col, 1)}`;
}
