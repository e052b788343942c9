/**
 * Text ↔ token ids, by @huggingface/tokenizers, from any of the formats a language model comes with:
 * tokenizer.json, a GGUF's own vocabulary, or a SentencePiece tokenizer.model.
 */
import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

import { UserError } from '../../errors.js';
import { fileError } from '../../files.js';
import { openGguf } from '../weights/gguf.js';
import {
  readTokenizerConfig,
  readTokenizerFiles,
  type TokenizerFiles,
  type TokenizerJson,
} from './tokenizerFiles.js';
import { ggufTokenizerFiles } from './tokenizerGguf.js';
import { libraryTokenizer, type LibraryTokenizer } from './tokenizerLibrary.js';
import { parseSentencePiece, sentencePieceTokenizerFiles } from './tokenizerSentencePiece.js';

/** Text ↔ token ids. */
export interface Tokenizer {
  /** One more than the largest id; a model's embedding may have more rows. */
  readonly vocabSize: number;
  /** Id of the token that begins a text, if the tokenizer names one; `encode` does not add it. */
  readonly bosId: number | undefined;
  /** Id of the token that ends a text, if the tokenizer names one; `encode` does not add it. */
  readonly eosId: number | undefined;
  /** SHA-256 (hex) of everything that decides ids and texts; equal for a GGUF and the tokenizer.json written from it. */
  readonly sha256: string;
  /** Ids of `text`; the text of a special token in it becomes that token's id. For prompts written by us. */
  encode(text: string): number[];
  /** Ids of `text`, with the text of special tokens as plain text. For text from elsewhere: it cannot inject control tokens. */
  encodeLiteral(text: string): number[];
  /**
   * Text of `ids`, with every space as it is. Ids that the tokenizer does not have (an embedding may have more rows)
   * give no text, as in Hugging Face's tokenizers.
   *
   * Each byte of a broken UTF-8 sequence of byte tokens is one U+FFFD, as SentencePiece has it.
   */
  decode(ids: readonly number[], options?: DecodeOptions): string;
  /** Id of the token written exactly so in the vocabulary (`▁the`, `<|im_end|>`). */
  tokenId(text: string): number | undefined;
}

/** Options of `Tokenizer.decode`. */
export interface DecodeOptions {
  /** Leave special tokens out of the text; default false. */
  readonly skipSpecial?: boolean;
}

/**
 * Loads a tokenizer from a folder (tokenizer.json, else tokenizer.model), a tokenizer.json, a .gguf or a SentencePiece .model.
 *
 * @throws UserError if there is none, it is damaged, or of a kind that is not supported
 */
export async function loadTokenizer(path: string): Promise<Tokenizer> {
  const file = (await isFolder(path)) ? await tokenizerFileIn(path) : path;
  return createTokenizer(await readAnyFormat(file));
}

/** A tokenizer of the two files' content. */
export function createTokenizer({ json, config }: TokenizerFiles): Tokenizer {
  const whole = libraryTokenizer(json, config);
  const { tokenId, vocabSize } = vocabulary(json);
  const bosId = namedId(config.bos_token, 'bos_token', tokenId);
  const eosId = namedId(config.eos_token, 'eos_token', tokenId);
  let literal: LibraryTokenizer | undefined; // made when first asked for: many runs never encode foreign text
  return {
    vocabSize,
    bosId,
    eosId,
    sha256: hashOf(json, bosId, eosId),
    tokenId,
    encode: (text) => idsOf(whole, text),
    encodeLiteral: (text) => idsOf((literal ??= libraryTokenizer(withoutSpecialTokens(json), config)), text),
    decode: (ids, { skipSpecial = false } = {}) => textOf(whole, ids, skipSpecial),
  };
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    throw fileError(path, error);
  }
}

async function tokenizerFileIn(folder: string): Promise<string> {
  for (const name of ['tokenizer.json', 'tokenizer.model']) {
    const path = join(folder, name);
    const there = await stat(path).catch(() => undefined); // missing or not ours to read: the next name decides
    if (there?.isFile()) return path;
  }
  throw new UserError(
    `tokenizer: ${folder} must hold tokenizer.json or tokenizer.model, got neither (copy it beside the weights)`,
  );
}

async function readAnyFormat(path: string): Promise<TokenizerFiles> {
  if (path.endsWith('.json')) return readTokenizerFiles(path);
  if (path.endsWith('.gguf')) return readGgufTokenizer(path);
  if (path.endsWith('.model')) return readSentencePieceTokenizer(path);
  throw new UserError(
    `tokenizer: must be a folder, a tokenizer.json, a .gguf or a .model, got ${basename(path)} (${path})`,
  );
}

async function readGgufTokenizer(path: string): Promise<TokenizerFiles> {
  const file = await openGguf(path);
  try {
    return ggufTokenizerFiles(file.keyValues, path);
  } finally {
    await file.close();
  }
}

async function readSentencePieceTokenizer(path: string): Promise<TokenizerFiles> {
  const bytes = await readFile(path).catch((error: unknown) => {
    throw fileError(path, error);
  });
  const { json, config } = sentencePieceTokenizerFiles(parseSentencePiece(bytes, path), path);
  return { json, config: { ...config, ...(await readTokenizerConfig(dirname(path))) } };
}

function vocabulary(json: TokenizerJson): Pick<Tokenizer, 'tokenId' | 'vocabSize'> {
  const { vocab } = json.model;
  const entries: Iterable<readonly [string, number]> = isList(vocab)
    ? vocab.map(([token], id) => [token, id] as const) // Unigram: the second is a score
    : Object.entries(vocab);
  const ids = new Map<string, number>(entries);
  for (const { content, id } of json.added_tokens) ids.set(content, id);
  let vocabSize = 0;
  for (const id of ids.values()) vocabSize = Math.max(vocabSize, id + 1);
  return { tokenId: (text) => ids.get(text), vocabSize };
}

function isList<T>(value: Readonly<Record<string, number>> | readonly T[]): value is readonly T[] {
  return Array.isArray(value);
}

function namedId(text: string | undefined, name: string, tokenId: Tokenizer['tokenId']): number | undefined {
  if (text === undefined) return undefined;
  const id = tokenId(text);
  if (id === undefined) {
    throw new UserError(
      `tokenizer: ${name} must be in the vocabulary, got "${text}" (do tokenizer_config.json and tokenizer.json belong together?)`,
    );
  }
  return id;
}

function hashOf(json: TokenizerJson, bosId: number | undefined, eosId: number | undefined): string {
  const { added_tokens, normalizer, pre_tokenizer, decoder, model } = json;
  const parts = [added_tokens, normalizer, pre_tokenizer, decoder, model, bosId ?? null, eosId ?? null];
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
}

/** The same tokenizer with no special token matched in the text, and no merge that would build one from its letters. */
function withoutSpecialTokens(json: TokenizerJson): TokenizerJson {
  const special = new Set(json.added_tokens.filter((token) => token.special).map((token) => token.content));
  const merges = json.model.merges?.filter((merge) => {
    const pair: readonly string[] = typeof merge === 'string' ? merge.split(' ', 2) : merge;
    return !special.has(pair.join(''));
  });
  const model = merges === undefined ? json.model : { ...json.model, merges };
  return { ...json, added_tokens: json.added_tokens.filter((token) => !token.special), model };
}

function idsOf(tokenizer: LibraryTokenizer, text: string): number[] {
  return tokenizer.encode(text, { add_special_tokens: false }).ids;
}

function textOf(tokenizer: LibraryTokenizer, ids: readonly number[], skipSpecial: boolean): string {
  const known = ids.filter((id) => tokenizer.id_to_token(id) !== undefined);
  if (known.length === 0) return '';
  // clean_up_tokenization_spaces would remove spaces before punctuation: the text would not be the ids' own
  return tokenizer.decode(known, { skip_special_tokens: skipSpecial, clean_up_tokenization_spaces: false });
}
