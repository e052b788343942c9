/** The per-user cache: TensorFlow, converted models, wheels while they are unpacked. Safe to delete; set-up fills it again. */
import { homedir } from 'node:os';
import { join } from 'node:path';

/** `$MINIGPT4_CACHE`, else `$XDG_CACHE_HOME/minigpt4-align`, else `~/.cache/minigpt4-align`. */
export function cacheFolder(): string {
  const { MINIGPT4_CACHE, XDG_CACHE_HOME } = process.env;
  return MINIGPT4_CACHE || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'minigpt4-align');
}
