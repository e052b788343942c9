/**
 * Reads a configuration: YAML, then each `--set`, then the defaults. All that is wrong comes in one `UserError`,
 * a line each: `file:line:column: path: rule, got …, did you mean …?`. Paths in it are relative to the current directory.
 */
import { readFile } from 'node:fs/promises';

import { UserError } from '../errors.js';
import type { Problem } from './rules.js';
import type { Config, Stage } from './schema.js';
import { parseSetting, parseSource, placeOf, type Setting, type Source } from './source.js';
import { validate } from './validate.js';

/** What the command line adds to a configuration file. */
export interface ConfigOptions {
  /** Values as `a.b=value`, the value in YAML, later ones win; `null` puts a field back to its default. */
  readonly set?: readonly string[];
  /** The stage of the verb: a file of the other stage is an error. */
  readonly expectedStage?: Stage;
}

/**
 * Reads, checks and completes a configuration file.
 *
 * @throws UserError that lists everything that is wrong with it
 */
export async function loadConfig(file: string, options: ConfigOptions = {}): Promise<Config> {
  return parseConfig(await readText(file), file, options);
}

/** As `loadConfig`, for text that is already read; `file` only names it in errors. */
export function parseConfig(
  text: string,
  file: string,
  { set = [], expectedStage }: ConfigOptions = {},
): Config {
  const { source, errors } = parseSource(text, file);
  const parsed = set.map(parseSetting);
  const settings = parsed.filter((setting) => typeof setting !== 'string');
  errors.push(...parsed.filter((setting) => typeof setting === 'string'));
  if (errors.length > 0) throw new UserError(errors.join('\n'));

  const value: unknown = source.document.toJS() ?? {};
  errors.push(...settings.flatMap((setting) => applySetting(value, setting)));
  if (errors.length > 0) throw new UserError(errors.join('\n'));

  const checked = validate(value);
  if ('problems' in checked) throw new UserError(report(checked.problems, source, settings));
  const wrongStage = stageProblem(checked.config, expectedStage);
  if (wrongStage) throw new UserError(report([wrongStage], source, settings));
  return checked.config;
}

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new UserError(`${file}: the configuration file must be readable, got ${reason}`, { cause });
  }
}

function report(problems: readonly Problem[], source: Source, settings: readonly Setting[]): string {
  const lines = problems.map((problem) => {
    const path = problem.path.join('.');
    return `${placeOf(problem, source, settings)}: ${path === '' ? '' : `${path}: `}${problem.text}`;
  });
  return lines.sort((a, b) => a.localeCompare(b, 'en', { numeric: true })).join('\n');
}

function stageProblem({ train }: Config, expected: Stage | undefined): Problem | undefined {
  if (expected === undefined || train.stage === expected) return undefined;
  const text = `must be "${expected}" for minigpt4 ${expected}, got "${train.stage}" (run minigpt4 ${train.stage})`;
  return { path: ['train', 'stage'], at: 'value', text };
}

/** Puts the value at its path, making sections and lists on the way; returns what is wrong, if anything. */
function applySetting(root: unknown, { path, value, text }: Setting): string[] {
  let holder: unknown = root;
  for (const [depth, key] of path.entries()) {
    const at = path.slice(0, depth).join('.');
    if (typeof holder !== 'object' || holder === null) {
      return [
        `--set ${text}: ${at === '' ? 'the configuration' : at}: must be a section, got ${JSON.stringify(holder)}`,
      ];
    }
    if (Array.isArray(holder) && !(typeof key === 'number' && key <= holder.length)) {
      return [`--set ${text}: ${at}: must be given a position from 0 to ${holder.length}, got ${key}`];
    }
    const last = depth === path.length - 1;
    if (last && value === null) return clear(holder, key);
    const present: unknown = Object.getOwnPropertyDescriptor(holder, key)?.value;
    const next: unknown = last ? value : (present ?? (typeof path[depth + 1] === 'number' ? [] : {}));
    // defineProperty: a key such as __proto__ must become an (unknown) key, not a prototype
    Object.defineProperty(holder, key, { value: next, writable: true, enumerable: true, configurable: true });
    holder = next;
  }
  return [];
}

function clear(holder: object, key: string | number): string[] {
  if (Array.isArray(holder)) holder.splice(Number(key), 1);
  else Reflect.deleteProperty(holder, key);
  return [];
}
