/**
 * The two files of a Hugging Face tokenizer, `tokenizer.json` and `tokenizer_config.json`, as objects: every other
 * tokenizer format is turned into these. Field names are the files' own.
 */
import { readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

import { UserError } from '../../errors.js';
import { fileError, writeFileWhole, hasCode } from '../../files.js';

/** A token that is matched in the text before the model sees it. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly single_word: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  readonly normalized: boolean;
  /** A control token (beginning, end, role marks): decoding can skip it, literal encoding does not match it. */
  readonly special: boolean;
}

/** The `model` part: BPE has `vocab` as token → id and `merges` as pairs (or as strings with one space, in old files). */
export interface TokenizerModelJson {
  readonly type?: string;
  readonly vocab: Readonly<Record<string, number>> | readonly (readonly [string, number])[];
  readonly merges?: readonly (string | readonly [string, string])[];
  readonly [option: string]: unknown;
}

/** `tokenizer.json`. The parts left `unknown` are the tokenizer library's to read. */
export interface TokenizerJson {
  readonly version: string;
  readonly truncation: unknown;
  readonly padding: unknown;
  readonly added_tokens: readonly AddedToken[];
  readonly normalizer: unknown;
  readonly pre_tokenizer: unknown;
  readonly post_processor: unknown;
  readonly decoder: unknown;
  readonly model: TokenizerModelJson;
}

/** `tokenizer_config.json`, as far as it is used here; other fields are kept as they are. */
export interface TokenizerConfig {
  readonly bos_token?: string;
  readonly eos_token?: string;
  readonly unk_token?: string;
  readonly pad_token?: string;
  /** Whether the model was trained with a beginning token; `encode` never adds one. */
  readonly add_bos_token?: boolean;
  /** Jinja template of a conversation. */
  readonly chat_template?: string;
  readonly [option: string]: unknown;
}

/** A whole tokenizer as data. */
export interface TokenizerFiles {
  readonly json: TokenizerJson;
  readonly config: TokenizerConfig;
}

const NAMED_TOKENS = ['bos_token', 'eos_token', 'unk_token', 'pad_token'] as const;

/** An added token that is matched exactly as it is written. */
export function addedToken(id: number, content: string, special: boolean): AddedToken {
  return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special };
}

/** A `post_processor` that puts one token before the text, for tools that ask their tokenizer to add it. */
export function beginTemplate(token: string, id: number): unknown {
  const begin = { SpecialToken: { id: token, type_id: 0 } };
  const text = (name: string) => ({ Sequence: { id: name, type_id: 0 } });
  return {
    type: 'TemplateProcessing',
    single: [begin, text('A')],
    pair: [begin, text('A'), begin, text('B')],
    special_tokens: { [token]: { id: token, ids: [id], tokens: [token] } },
  };
}

/**
 * Reads a tokenizer.json and, where they lie beside it, tokenizer_config.json and special_tokens_map.json.
 *
 * @throws UserError if a file is missing, is not JSON or is not a tokenizer
 */
export async function readTokenizerFiles(path: string): Promise<TokenizerFiles> {
  const json = checkTokenizerJson(await readJson(path), path);
  return { json, config: await readTokenizerConfig(dirname(path)) };
}

/** The tokens named in a folder's tokenizer_config.json, else in its special_tokens_map.json; empty if it has neither. */
export async function readTokenizerConfig(folder: string): Promise<TokenizerConfig> {
  const map = await readObject(join(folder, 'special_tokens_map.json'));
  const config = await readObject(join(folder, 'tokenizer_config.json'));
  const named = NAMED_TOKENS.map((name) => [name, tokenText(config[name]) ?? tokenText(map[name])] as const);
  const others = Object.entries(config).filter(([name]) => !NAMED_TOKENS.some((known) => known === name));
  return Object.fromEntries([...others, ...named.filter(([, text]) => text !== undefined)]);
}

/**
 * Writes tokenizer.json and tokenizer_config.json into a folder.
 *
 * @throws UserError if the folder is missing or full
 */
export async function writeTokenizerFiles(folder: string, { json, config }: TokenizerFiles): Promise<void> {
  await writeFileWhole(join(folder, 'tokenizer.json'), `${JSON.stringify(json, null, 1)}\n`);
  await writeFileWhole(join(folder, 'tokenizer_config.json'), `${JSON.stringify(config, null, 2)}\n`);
}

async function readJson(path: string): Promise<unknown> {
  try {
    const value: unknown = JSON.parse(await readFile(path, 'utf8'));
    return value;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw fileError(path, error);
    throw new UserError(`${path}: must be JSON, got ${error.message} (is the download complete?)`, {
      cause: error,
    });
  }
}

async function readObject(path: string): Promise<Readonly<Record<string, unknown>>> {
  try {
    const value = await readJson(path);
    if (isRecord(value)) return value;
  } catch (error) {
    if (error instanceof UserError && hasCode(error.cause, 'ENOENT')) return {};
    throw error;
  }
  throw new UserError(`${path}: must be a JSON object`);
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A token is written as its text, or as an object with `content`; an empty text names no token. */
function tokenText(value: unknown): string | undefined {
  const text = isRecord(value) ? value.content : value;
  return typeof text === 'string' && text !== '' ? text : undefined;
}

function checkTokenizerJson(value: unknown, path: string): TokenizerJson {
  const where = basename(path);
  if (!isRecord(value) || !isRecord(value.model)) {
    throw new UserError(`${where}: must be a Hugging Face tokenizer with a "model", got none in ${path}`);
  }
  const { vocab } = value.model;
  if (!isRecord(vocab) && !Array.isArray(vocab)) {
    throw new UserError(`${where}: model.vocab must be an object or a list, got ${typeof vocab} in ${path}`);
  }
  const added = value.added_tokens ?? [];
  if (!Array.isArray(added) || !added.every(isAddedToken)) {
    throw new UserError(`${where}: added_tokens must be a list of {id, content, …} in ${path}`);
  }
  const parts = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null };
  // The border: what is read here was checked above, the rest is `unknown` to us and parsed by the library.
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    ...parts,
    ...value,
    added_tokens: added,
  } as unknown as TokenizerJson;
}

function isAddedToken(value: unknown): boolean {
  return isRecord(value) && Number.isInteger(value.id) && typeof value.content === 'string';
}
