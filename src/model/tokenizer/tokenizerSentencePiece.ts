/**
 * SentencePiece `tokenizer.model` files (a protobuf) as tokenizer.json: BPE models with identity normalisation,
 * as LLaMA's and Vicuna's are.
 */
import { UserError } from '../../errors.js';
import { protobufFields, type ProtobufField } from './tokenizerProtobuf.js';
import { addedToken, beginTemplate, type TokenizerFiles } from './tokenizerFiles.js';

/** Kinds of pieces; the numbers are sentencepiece_model.proto's, and GGUF's `tokenizer.ggml.token_type` too. */
export const PIECE_KIND = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** One entry of the vocabulary; its id is its place. */
export interface Piece {
  readonly text: string;
  /** The larger, the earlier it is merged. */
  readonly score: number;
  /** One of `PIECE_KIND`. */
  readonly kind: number;
}

/** What of a SentencePiece BPE model decides ids and texts. */
export interface SentencePieceModel {
  readonly pieces: readonly Piece[];
  readonly byteFallback: boolean;
  /** A space is put before the text, and taken off when decoding. */
  readonly addDummyPrefix: boolean;
  readonly unkId: number;
  /** Negative: there is none. */
  readonly bosId: number;
  /** Negative: there is none. */
  readonly eosId: number;
}

const MODEL_TYPES: Readonly<Record<number, string>> = { 1: 'unigram', 2: 'bpe', 3: 'word', 4: 'char' };
const SPACE = '▁';

/**
 * Reads a tokenizer.model.
 *
 * @param where the file's name, for messages
 * @throws UserError if it is damaged, is not a BPE model, or rewrites its text before it splits it
 * Source: google/sentencepiece, src/sentencepiece_model.proto
 */
export function parseSentencePiece(bytes: Uint8Array, where: string): SentencePieceModel {
  const parts = [...protobufFields(bytes, where)];
  const pieces = parts.filter((field) => field.number === 1).map((field) => parsePiece(field, where));
  if (pieces.length === 0)
    throw new UserError(`${where}: must be a SentencePiece model, got no pieces (is the download complete?)`);
  const trainer = optionsOf(parts, 2, where);
  const normalizer = optionsOf(parts, 3, where);
  checkSupported(trainer, normalizer, where);
  return {
    pieces,
    byteFallback: numberAt(trainer, 35, 0) !== 0,
    addDummyPrefix: numberAt(normalizer, 3, 1) !== 0,
    unkId: numberAt(trainer, 40, 0),
    bosId: numberAt(trainer, 41, 1),
    eosId: numberAt(trainer, 42, 2),
  };
}

/**
 * The tokenizer.json and tokenizer_config.json of a SentencePiece BPE model.
 *
 * @throws UserError if the ids of unknown, beginning or end lie outside the vocabulary
 * Source: transformers, convert_slow_tokenizer.py, `LlamaConverter` (legacy: every piece of text gets the dummy prefix).
 */
export function sentencePieceTokenizerFiles(model: SentencePieceModel, where: string): TokenizerFiles {
  const text = (id: number) => pieceText(model, id, where);
  const unk = text(model.unkId);
  const bos = model.bosId < 0 ? undefined : text(model.bosId);
  const eos = model.eosId < 0 ? undefined : text(model.eosId);
  const added = model.pieces.flatMap(({ text: content, kind }, id) => {
    const special = kind === PIECE_KIND.unknown || kind === PIECE_KIND.control;
    return special || kind === PIECE_KIND.userDefined ? [addedToken(id, content, special)] : [];
  });
  const json = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: normalizerOf(model.addDummyPrefix),
    pre_tokenizer: null,
    post_processor: bos === undefined ? null : beginTemplate(bos, model.bosId),
    decoder: decoderOf(model.addDummyPrefix),
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: unk,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: model.byteFallback,
      ignore_merges: false,
      vocab: Object.fromEntries(model.pieces.map((piece, id) => [piece.text, id])),
      merges: mergesOf(model.pieces),
    },
  };
  const named = {
    ...(bos === undefined ? {} : { bos_token: bos }),
    ...(eos === undefined ? {} : { eos_token: eos }),
  };
  const config = {
    tokenizer_class: 'LlamaTokenizer',
    add_bos_token: bos !== undefined,
    ...named,
    unk_token: unk,
  };
  return { json, config: { ...config, clean_up_tokenization_spaces: false } };
}

/**
 * The merges that build the pieces: every split of a piece into two others, best score first, then the longer left part.
 *
 * Pieces that text never forms (control, byte, unknown) are left out, as SentencePiece itself does.
 * Source: transformers, convert_slow_tokenizer.py, `generate_merges`.
 */
function mergesOf(pieces: readonly Piece[]): [string, string][] {
  const formed = pieces.filter(({ kind }) => kind === PIECE_KIND.normal || kind === PIECE_KIND.userDefined);
  const ids = new Map(formed.map((piece, order) => [piece.text, order]));
  const merges = formed.flatMap(({ text, score }) =>
    splitsOf(Array.from(text))
      .filter(([left, right]) => ids.has(left) && ids.has(right))
      .map(([left, right, leftLength, rightLength]) => ({ left, right, score, leftLength, rightLength })),
  );
  merges.sort((a, b) => b.score - a.score || b.leftLength - a.leftLength || b.rightLength - a.rightLength);
  return merges.map(({ left, right }) => [left, right]);
}

/** Every [left, right, length of left, length of right]; lengths in code points. */
function splitsOf(characters: readonly string[]): [string, string, number, number][] {
  return characters.slice(1).map((_, index) => {
    const [left, right] = [characters.slice(0, index + 1), characters.slice(index + 1)];
    return [left.join(''), right.join(''), left.length, right.length];
  });
}

function normalizerOf(addDummyPrefix: boolean): unknown {
  const spaces = { type: 'Replace', pattern: { String: ' ' }, content: SPACE };
  const steps = addDummyPrefix ? [{ type: 'Prepend', prepend: SPACE }, spaces] : [spaces];
  return { type: 'Sequence', normalizers: steps };
}

function decoderOf(addDummyPrefix: boolean): unknown {
  const spaces = { type: 'Replace', pattern: { String: SPACE }, content: ' ' };
  const steps = [spaces, { type: 'ByteFallback' }, { type: 'Fuse' }];
  const strip = { type: 'Strip', content: ' ', start: 1, stop: 0 };
  return { type: 'Sequence', decoders: addDummyPrefix ? [...steps, strip] : steps };
}

function pieceText(model: SentencePieceModel, id: number, where: string): string {
  const piece = model.pieces[id];
  if (piece === undefined)
    throw new UserError(`${where}: special ids must be below ${model.pieces.length}, got ${id}`);
  return piece.text;
}

function parsePiece(field: ProtobufField, where: string): Piece {
  const options = [...protobufFields(bytesOf(field, where), where)];
  const text = options.find((option) => option.number === 1);
  if (text === undefined) throw new UserError(`${where}: every piece must have a text`);
  return {
    text: Buffer.from(bytesOf(text, where)).toString('utf8'),
    score: numberAt(options, 2, 0),
    kind: numberAt(options, 3, PIECE_KIND.normal),
  };
}

function optionsOf(parts: readonly ProtobufField[], number: number, where: string): ProtobufField[] {
  const field = parts.find((part) => part.number === number);
  return field === undefined ? [] : [...protobufFields(bytesOf(field, where), where)];
}

function numberAt(options: readonly ProtobufField[], number: number, missing: number): number {
  const value = options.findLast((option) => option.number === number)?.value;
  return typeof value === 'number' ? value : missing;
}

function bytesOf(field: ProtobufField, where: string): Uint8Array {
  if (typeof field.value !== 'number') return field.value;
  throw new UserError(
    `${where}: field ${field.number} must hold bytes, got a number (is it a SentencePiece model?)`,
  );
}

/** What this file can turn into a tokenizer.json without changing an id. */
function checkSupported(
  trainer: readonly ProtobufField[],
  normalizer: readonly ProtobufField[],
  where: string,
): void {
  const type = numberAt(trainer, 3, 1);
  if (type !== 2) {
    const name = MODEL_TYPES[type] ?? `type ${type}`;
    throw new UserError(
      `${where}: must be a SentencePiece BPE model, got ${name} (convert it to tokenizer.json with transformers)`,
    );
  }
  const charsmap = normalizer.find((option) => option.number === 2)?.value;
  const rewrites = typeof charsmap === 'object' && charsmap.length > 0;
  const asIs =
    numberAt(normalizer, 4, 1) === 0 && numberAt(normalizer, 5, 1) !== 0 && numberAt(trainer, 24, 0) === 0;
  if (rewrites || !asIs) {
    const found = rewrites ? 'a character map' : 'changed white space';
    throw new UserError(
      `${where}: must leave the text as it is, got ${found} (convert it to tokenizer.json with transformers)`,
    );
  }
}
