/**
 * What a projection was trained with: SHA-256 of encoder, Q-Former, LLM, tokenizer and prompt template. It means nothing
 * beside other ones, even where the widths fit.
 */
import { createHash } from 'node:crypto';
import type { Config } from '../config/schema.js';
import { UserError } from '../errors.js';
import type { MiniGpt4 } from '../model/miniGpt4.js';
import { stateBeside } from './checkpoint.js';
import { projectionMetadata } from './projectionFiles.js';

/** SHA-256 by part; a part that there is not, or that an older file does not name, is missing. */
export type Identity = Readonly<Record<string, string>>;

/** The parts, and what a message calls them. */
const PARTS = {
  encoder: 'vision encoder',
  qformer: 'Q-Former',
  llm: 'LLM',
  tokenizer: 'tokenizer',
  prompt: 'prompt template',
} as const;

/** A part that an identity may name. */
export type Part = keyof typeof PARTS;

/** All parts: what may not change when a run resumes or its projection is evaluated. */
export const ALL_PARTS = Object.keys(PARTS) as readonly Part[]; // the keys of the constant above
/** What may not change from stage 1 to stage 2: everything but the prompt, which stage 1 does not have. */
export const FROZEN_PARTS = ALL_PARTS.filter((part) => part !== 'prompt');

/** The identity of a configuration's model. */
export function identityOf({ prompt }: Config, { hashes }: Pick<MiniGpt4, 'hashes'>): Identity {
  const { bos, template, captionPrefix, endSymbol } = prompt;
  const text = JSON.stringify({ bos, template, captionPrefix, endSymbol });
  return { ...hashes, prompt: createHash('sha256').update(text).digest('hex') };
}

/** What a projection's file says it was trained with; empty where it says nothing, as official checkpoints do. */
export async function recordedIdentity(file: string): Promise<Identity> {
  const state = await stateBeside(file);
  if (state) return state.parts;
  const metadata = await projectionMetadata(file);
  return Object.fromEntries(
    ALL_PARTS.flatMap((part) => {
      const sha256 = metadata[`sha256.${part}`];
      return sha256 === undefined ? [] : [[part, sha256]];
    }),
  );
}

/**
 * Refuses a projection beside parts that it was not trained with.
 *
 * @param parts those that are compared; one that either side does not name is not
 * @param advice what the user can do about it
 * @throws UserError naming the part and both hashes
 */
export function requireIdentity(
  file: string,
  recorded: Identity,
  present: Identity,
  parts: readonly Part[],
  advice: string,
): void {
  const changed = parts.find(
    (part) => recorded[part] !== undefined && present[part] !== undefined && recorded[part] !== present[part],
  );
  if (changed === undefined) return;
  throw new UserError(
    `${file}: was trained with the ${PARTS[changed]} of SHA-256 ${recorded[changed] ?? ''}, got ${present[changed] ?? ''} (${advice})`,
  );
}
