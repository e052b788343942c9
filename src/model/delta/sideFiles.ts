/** What a model folder holds beside its weights, and goes over into the merged folder as it is: configuration, tokenizer. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

import { UserError } from '../../errors.js';
import { fileError, hasCode } from '../../files.js';

/** Contents by file name. */
export type SideFiles = ReadonlyMap<string, Uint8Array>;

const TOKENIZERS = ['tokenizer.model', 'tokenizer.json'];
const SPECIAL_TOKENS = 'special_tokens_map.json';
const NAMES = [
  'config.json',
  'generation_config.json',
  ...TOKENIZERS,
  'tokenizer_config.json',
  SPECIAL_TOKENS,
  'added_tokens.json',
];

/**
 * Reads those of the files that are there, a few megabytes in all.
 *
 * @throws UserError if there is no tokenizer
 */
export async function readSideFiles(folder: string): Promise<SideFiles> {
  const files = new Map<string, Uint8Array>();
  for (const name of NAMES) {
    const content = await readIfThere(join(folder, name));
    if (content !== undefined) files.set(name, content);
  }
  if (TOKENIZERS.some((name) => files.has(name))) return files;
  throw new UserError(
    `${folder}: must hold the tokenizer, ${TOKENIZERS.join(' or ')}, got neither (fetch all files of the delta)`,
  );
}

/**
 * What the user should know of the tokenizer's files.
 *
 * @throws UserError if special_tokens_map.json is no JSON
 */
export function tokenizerNotes(folder: string, files: SideFiles): string[] {
  const content = files.get(SPECIAL_TOKENS);
  if (content === undefined) return [];
  const { bos_token: bos, eos_token: eos } = parse(join(folder, SPECIAL_TOKENS), content);
  const begin = tokenText(bos);
  if (begin === undefined || begin !== tokenText(eos)) return [];
  // Some commits of the published deltas have it so: project notes, minigpt4-spec.md 1.5
  return [
    `${SPECIAL_TOKENS} says "${begin}" for the beginning and the end of a text; MiniGPT-4 was trained with a tokenizer that begins with "<s>" (mend that file and tokenizer_config.json in the merged folder)`,
  ];
}

/** A token as the file has it: its text, or an object around it. */
function tokenText(token: unknown): string | undefined {
  if (typeof token === 'string') return token;
  if (typeof token !== 'object' || token === null || !('content' in token)) return undefined;
  return typeof token.content === 'string' ? token.content : undefined;
}

function parse(path: string, content: Uint8Array): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(new TextDecoder().decode(content));
    return typeof value === 'object' && value !== null ? { ...value } : {};
  } catch (cause) {
    throw new UserError(`${path}: must be JSON (damaged? fetch it again)`, { cause });
  }
}

async function readIfThere(path: string): Promise<Uint8Array | undefined> {
  try {
    return await readFile(path);
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw fileError(path, error);
  }
}
