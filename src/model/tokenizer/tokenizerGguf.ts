/** The tokenizer that a GGUF file carries in its key-values (`tokenizer.ggml.*`), as tokenizer.json. */
import { UserError } from '../../errors.js';
import {
  addedToken,
  beginTemplate,
  type TokenizerConfig,
  type TokenizerFiles,
  type TokenizerJson,
} from './tokenizerFiles.js';
import { PIECE_KIND, sentencePieceTokenizerFiles } from './tokenizerSentencePiece.js';

/** Key-values of a GGUF file by name, as `openGguf` gives them; anything may stand there, so that each is checked. */
export type GgufKeyValues = ReadonlyMap<string, unknown>;

const BYTE_LEVEL = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
const DIGIT_BY_DIGIT = { type: 'Digits', individual_digits: true };

/**
 * Pre-tokenizers by `tokenizer.ggml.pre`.
 * Source: ggml-org/llama.cpp, src/llama-vocab.cpp (`LLAMA_VOCAB_PRE_TYPE_*`); `default` is taken as plain GPT-2, which is
 * what files without the key were made for.
 */
const PRE_TOKENIZERS: Readonly<Record<string, unknown>> = {
  default: BYTE_LEVEL,
  'gpt-2': BYTE_LEVEL,
  smollm: { type: 'Sequence', pretokenizers: [DIGIT_BY_DIGIT, BYTE_LEVEL] },
};

/**
 * The tokenizer.json and tokenizer_config.json of a GGUF file.
 *
 * @param where the file's name, for messages
 * @throws UserError if the file has no tokenizer, a damaged one, or one of a kind that is not supported
 */
export function ggufTokenizerFiles(keyValues: GgufKeyValues, where = 'gguf'): TokenizerFiles {
  return { json: ggufTokenizerJson(keyValues, where), config: ggufTokenizerConfig(keyValues, where) };
}

/**
 * The tokenizer.json of a GGUF file: `gpt2` (byte-level BPE) or `llama` (SentencePiece BPE).
 *
 * @throws UserError as `ggufTokenizerFiles`
 */
export function ggufTokenizerJson(keyValues: GgufKeyValues, where = 'gguf'): TokenizerJson {
  const model = keyValues.get('tokenizer.ggml.model');
  if (model === 'gpt2') return byteLevelJson(keyValues, where);
  if (model === 'llama') return sentencePieceJson(keyValues, where);
  throw new UserError(
    `${where}: tokenizer.ggml.model must be gpt2 or llama, got ${shown(model)} (use the model's tokenizer.json)`,
  );
}

/**
 * The tokenizer_config.json of a GGUF file: its beginning, end, unknown and padding tokens and its chat template.
 *
 * @throws UserError if an id lies outside the vocabulary
 */
export function ggufTokenizerConfig(keyValues: GgufKeyValues, where = 'gguf'): TokenizerConfig {
  const tokens = texts(keyValues, 'tokenizer.ggml.tokens', where);
  const named = { bos_token: 'bos', eos_token: 'eos', unk_token: 'unknown', pad_token: 'padding' };
  const found = Object.entries(named).map(
    ([name, key]) => [name, tokenAt(keyValues, key, tokens, where)?.content] as const,
  );
  const template = keyValues.get('tokenizer.chat_template');
  return {
    add_bos_token: addsBos(keyValues),
    ...Object.fromEntries(found.filter(([, content]) => content !== undefined)),
    ...(typeof template === 'string' ? { chat_template: template } : {}),
    clean_up_tokenization_spaces: false,
  };
}

function byteLevelJson(keyValues: GgufKeyValues, where: string): TokenizerJson {
  const tokens = texts(keyValues, 'tokenizer.ggml.tokens', where);
  const merges = texts(keyValues, 'tokenizer.ggml.merges', where);
  const bos = tokenAt(keyValues, 'bos', tokens, where);
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: addedTokens(tokens, kinds(keyValues, tokens.length, where)),
    normalizer: null,
    pre_tokenizer: preTokenizer(keyValues, where),
    post_processor: addsBos(keyValues) && bos !== undefined ? beginTemplate(bos.content, bos.id) : null,
    decoder: BYTE_LEVEL,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: merges.map((merge) => mergePair(merge, where)),
    },
  };
}

function sentencePieceJson(keyValues: GgufKeyValues, where: string): TokenizerJson {
  const tokens = texts(keyValues, 'tokenizer.ggml.tokens', where);
  const scores = numbers(keyValues, 'tokenizer.ggml.scores', tokens.length, where);
  const pieceKinds = kinds(keyValues, tokens.length, where);
  const kindAt = (id: number) => pieceKinds[id] ?? PIECE_KIND.normal;
  const idOf = (key: string, missing: number) => tokenAt(keyValues, key, tokens, where)?.id ?? missing;
  const model = {
    pieces: tokens.map((text, id) => ({ text, score: scores[id] ?? 0, kind: kindAt(id) })),
    byteFallback: true,
    addDummyPrefix: keyValues.get('tokenizer.ggml.add_space_prefix') !== false,
    unkId: idOf('unknown', 0),
    bosId: idOf('bos', 1),
    eosId: idOf('eos', 2),
  };
  return sentencePieceTokenizerFiles(model, where).json;
}

/** A GGUF that does not say leaves it to its kind of tokenizer: `llama` begins with BOS, `gpt2` does not. */
function addsBos(keyValues: GgufKeyValues): boolean {
  const stated = keyValues.get('tokenizer.ggml.add_bos_token');
  return typeof stated === 'boolean' ? stated : keyValues.get('tokenizer.ggml.model') === 'llama';
}

function addedTokens(
  tokens: readonly string[],
  tokenKinds: readonly number[],
): TokenizerJson['added_tokens'] {
  return tokens.flatMap((content, id) => {
    const special = tokenKinds[id] === PIECE_KIND.control || tokenKinds[id] === PIECE_KIND.unknown;
    return special || tokenKinds[id] === PIECE_KIND.userDefined ? [addedToken(id, content, special)] : [];
  });
}

function preTokenizer(keyValues: GgufKeyValues, where: string): unknown {
  const name = keyValues.get('tokenizer.ggml.pre') ?? 'default';
  const known =
    typeof name === 'string' && Object.hasOwn(PRE_TOKENIZERS, name) ? PRE_TOKENIZERS[name] : undefined;
  if (known !== undefined) return known;
  const names = Object.keys(PRE_TOKENIZERS).join(', ');
  throw new UserError(
    `${where}: tokenizer.ggml.pre must be one of ${names}, got ${shown(name)} (use the model's tokenizer.json)`,
  );
}

function mergePair(merge: string, where: string): [string, string] {
  const [left, right, ...rest] = merge.split(' ');
  if (left && right && rest.length === 0) return [left, right];
  throw new UserError(`${where}: a merge must be two tokens with one space, got "${merge}"`);
}

function tokenAt(
  keyValues: GgufKeyValues,
  key: string,
  tokens: readonly string[],
  where: string,
): { id: number; content: string } | undefined {
  const id = keyValues.get(`tokenizer.ggml.${key}_token_id`);
  if (id === undefined) return undefined;
  const content = typeof id === 'number' ? tokens[id] : undefined;
  if (typeof id === 'number' && content !== undefined) return { id, content };
  throw new UserError(
    `${where}: tokenizer.ggml.${key}_token_id must be below ${tokens.length}, got ${shown(id)}`,
  );
}

function texts(keyValues: GgufKeyValues, key: string, where: string): readonly string[] {
  const value = keyValues.get(key);
  if (Array.isArray(value) && value.every((text): text is string => typeof text === 'string')) return value;
  throw new UserError(
    `${where}: ${key} must be a list of texts, got ${value === undefined ? 'none' : typeof value}`,
  );
}

/** Kinds of the tokens; a file without them has only normal ones. */
function kinds(keyValues: GgufKeyValues, count: number, where: string): readonly number[] {
  return keyValues.has('tokenizer.ggml.token_type')
    ? numbers(keyValues, 'tokenizer.ggml.token_type', count, where)
    : [];
}

function numbers(keyValues: GgufKeyValues, key: string, count: number, where: string): readonly number[] {
  const value = keyValues.get(key);
  const list: unknown[] = isIterable(value) ? [...value] : [];
  if (list.length === count && list.every((number): number is number => typeof number === 'number'))
    return list;
  throw new UserError(`${where}: ${key} must be a list of ${count} numbers, got ${list.length}`);
}

/** Lists of numbers may be plain or typed arrays. */
function isIterable(value: unknown): value is Iterable<unknown> {
  return Array.isArray(value) || ArrayBuffer.isView(value);
}

function shown(value: unknown): string {
  return typeof value === 'bigint' ? value.toString() : JSON.stringify(value);
}
