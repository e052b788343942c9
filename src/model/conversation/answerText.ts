/**
 * The text of an answer in generated ids, as the demo finds it and as plain text.
 * Source: Vision-CAIR/MiniGPT-4, minigpt4/conversation/conversation.py, `Chat.answer`.
 */
import type { StopRule } from '../language/generate.js';
import { stopSequences } from './prompt.js';
import type { ConversationTemplate } from './template.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';

/** What ends an answer: the tokenizer's end token, and the template's separator however it is encoded. */
export function answerStops(
  { stop }: ConversationTemplate,
  tokenizer: Tokenizer,
): Pick<StopRule, 'endId' | 'stopSequences'> {
  return { endId: tokenizer.eosId, stopSequences: stop ? stopSequences(tokenizer, stop) : [] };
}

/** White space to Python's `str.strip`; JavaScript's `trim` also takes U+FEFF, and leaves U+001C–001F and U+0085. */
const BLANK = '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]';
const OUTER_BLANKS = new RegExp(`^${BLANK}+|${BLANK}+$`, 'g');

/** The answer in generated ids, as the template finds it. */
export function readAnswer(
  { answer, stop }: ConversationTemplate,
  ids: readonly number[],
  tokenizer: Tokenizer,
): string {
  return answer === 'demo' ? answerText(ids, tokenizer) : plainText(ids, tokenizer, stop);
}

/**
 * The part of an unfinished answer that more tokens will not change: without a last letter of which bytes are missing, and
 * without what may be the beginning of `stop`.
 */
export function steadyText(text: string, stop: string): string {
  const whole = text.replace(/\uFFFD+$/, '');
  const begun = Array.from(stop, (_, i) => stop.slice(0, i + 1)).findLast((start) => whole.endsWith(start));
  return begun === undefined ? whole : whole.slice(0, -begun.length).trimEnd();
}

/** The text before `stop`, without special tokens and outer blanks. */
function plainText(ids: readonly number[], tokenizer: Tokenizer, stop: string): string {
  const text = tokenizer.decode(ids, { skipSpecial: true });
  return (stop ? (text.split(stop)[0] ?? '') : text).trim();
}

/**
 * The answer in generated ids: at most one leading id 0 and then one leading id 1 dropped, decoded, cut at the first `###`,
 * what follows the last `Assistant:`, trimmed.
 *
 * Source: MiniGPT-4, minigpt4/conversation/conversation.py, `Chat.answer`.
 */
export function answerText(ids: readonly number[], tokenizer: Tokenizer): string {
  const begun = ids[0] === 0 ? ids.slice(1) : ids;
  const text = decodeGenerated(begun[0] === 1 ? begun.slice(1) : begun, tokenizer);
  const [first = ''] = text.split('###');
  return (first.split('Assistant:').at(-1) ?? '').replace(OUTER_BLANKS, '');
}

/**
 * The text of generated ids, special tokens included.
 *
 * Reference quirk: ids between special tokens are decoded on their own, each run losing its dummy blank, and a run before a
 * special token gets a blank in front unless it is empty and another special token stands there.
 * Source: transformers 4.28, models/llama/tokenization_llama.py, `LlamaTokenizer.convert_tokens_to_string`.
 */
export function decodeGenerated(ids: readonly number[], tokenizer: Tokenizer): string {
  let text = '';
  let run: number[] = [];
  let afterSpecial = false;
  ids.forEach((id, i) => {
    const special = isSpecial(id, tokenizer);
    if (special) {
      text += (i > 0 && !afterSpecial ? ' ' : '') + tokenizer.decode(run) + tokenizer.decode([id]);
      run = [];
    } else run.push(id);
    afterSpecial = special;
  });
  return text + tokenizer.decode(run);
}

function isSpecial(id: number, tokenizer: Tokenizer): boolean {
  return tokenizer.decode([id]) !== '' && tokenizer.decode([id], { skipSpecial: true }) === '';
}
