/**
 * The border to @huggingface/tokenizers 0.2.0: what of it is used, typed here because its own types do not resolve under
 * NodeNext (their imports lack extensions), and corrected where it differs from the reference tokenizers.
 */
import { isUtf8 } from 'node:buffer';

import * as untyped from '@huggingface/tokenizers';

import type { TokenizerConfig, TokenizerJson } from './tokenizerFiles.js';

/** The library's tokenizer, as far as it is used. */
export interface LibraryTokenizer {
  readonly pre_tokenizer: unknown;
  readonly decoder: unknown;
  encode(text: string, options: { readonly add_special_tokens: boolean }): { readonly ids: number[] };
  /** Throws on an empty list. */
  decode(ids: readonly number[], options: LibraryDecodeOptions): string;
  id_to_token(id: number): string | undefined;
}

/** Options of the library's `decode`. */
export interface LibraryDecodeOptions {
  readonly skip_special_tokens: boolean;
  readonly clean_up_tokenization_spaces: boolean;
}

type Class<Instance> = new (...args: never[]) => Instance;

interface Library {
  readonly Tokenizer: new (json: TokenizerJson, config: TokenizerConfig) => LibraryTokenizer;
  readonly SequencePreTokenizer: Class<{ readonly tokenizers: readonly unknown[] }>;
  readonly ByteLevelPreTokenizer: Class<{ pattern: RegExp }>;
  readonly DigitsPreTokenizer: Class<{
    pattern: RegExp;
    readonly config: { readonly individual_digits?: boolean };
  }>;
  readonly SequenceDecoder: Class<{ readonly decoders: readonly unknown[] }>;
  readonly ByteFallbackDecoder: Class<{ text_decoder: { decode(bytes: Uint8Array): string } }>;
}

// The border: the version is pinned, and the parity tests run every member named above.
const library = untyped as unknown as Library;

/** Makes the library's tokenizer, splitting and decoding as the reference does. */
export function libraryTokenizer(json: TokenizerJson, config: TokenizerConfig): LibraryTokenizer {
  const tokenizer = new library.Tokenizer(json, config);
  matchReferenceSplits(tokenizer.pre_tokenizer);
  matchReferenceBytes(tokenizer.decoder);
  return tokenizer;
}

/**
 * GPT-2's words, with white space as Unicode and the Rust tokenizers have it: JavaScript's `\s` lacks U+0085 and has U+FEFF.
 * Source: openai/gpt-2, src/encoder.py, `Encoder.pat`.
 */
const GPT2_WORDS =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** Makes the library split as the Rust tokenizers do, where JavaScript's character classes differ. */
function matchReferenceSplits(step: unknown): void {
  if (step instanceof library.SequencePreTokenizer) step.tokenizers.forEach(matchReferenceSplits);
  if (step instanceof library.ByteLevelPreTokenizer) step.pattern = GPT2_WORDS;
  if (step instanceof library.DigitsPreTokenizer) {
    // The library's `\d` is 0-9 alone; the reference's digit is any character of category N (², Ⅳ, ٣)
    step.pattern = step.config.individual_digits ? /\P{N}+|\p{N}/gu : /\P{N}+|\p{N}+/gu;
  }
}

/** Makes byte tokens decode by SentencePiece's rule: the library would drop U+FEFF and merge broken bytes. */
function matchReferenceBytes(step: unknown): void {
  if (step instanceof library.SequenceDecoder) step.decoders.forEach(matchReferenceBytes);
  if (step instanceof library.ByteFallbackDecoder) step.text_decoder = { decode: decodeBytes };
}

/** UTF-8 in which each byte that begins no valid character is one U+FFFD. Source: sentencepiece, string_util::DecodeUTF8. */
function decodeBytes(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length;) {
    const character = bytes.subarray(at, at + characterLength(bytes[at] ?? 0));
    const valid = isUtf8(character);
    text += valid ? Buffer.from(character).toString('utf8') : '\uFFFD';
    at += valid ? character.length : 1;
  }
  return text;
}

/** Bytes of the UTF-8 character that begins with `lead`. */
function characterLength(lead: number): number {
  if (lead < 0x80) return 1;
  if (lead < 0xe0) return 2;
  return lead < 0xf0 ? 3 : 4;
}
