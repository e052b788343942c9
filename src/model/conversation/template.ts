/** The text around the messages of a conversation: the reference's templates, and the one that a stage was trained with. */
import { UserError } from '../../errors.js';
import { IMAGE_PLACE, type PromptFormat } from './prompt.js';

/** The text around the messages. */
export interface ConversationTemplate {
  /** What opens the sequence, as in `prompt.bos`; left out: the tokenizer's BOS, if it has one. */
  readonly bos?: string;
  readonly system: string;
  /** Before a message. */
  readonly human: string;
  readonly assistant: string;
  /** Before an answer that is still to come. */
  readonly pending: string;
  /** After the system text and after each question. */
  readonly separator: string;
  /** After each answer. */
  readonly answerEnd: string;
  /** Around an image, and between it and a question; whether it stands before the question or after it. */
  readonly image: {
    readonly before: string;
    readonly after: string;
    readonly gap: string;
    readonly place: 'before question' | 'after question';
  };
  /** Ends an answer, beside the tokenizer's end token; empty = nothing else does. */
  readonly stop: string;
  /** How the answer is found in what was generated: as the demo does it, or all before `stop`. */
  readonly answer: 'demo' | 'plain';
}

const SYSTEM =
  'Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. Please answer my questions.';
const DEMO = {
  system: SYSTEM,
  image: { before: '<Img>', after: '</Img>', gap: ' ', place: 'before question' },
  answer: 'demo',
} as const;
const VICUNA = {
  ...DEMO,
  human: 'Human: ',
  assistant: 'Assistant: ',
  separator: '###',
  answerEnd: '###',
  stop: '###',
} as const;

/**
 * The reference's templates.
 *
 * `vicuna-v0`: with a blank after the last `Assistant:`, as in training and, since August 2023, in the demo.
 * `vicuna-v0-first`: of the first releases, without it. `llama2`: of the Llama-2 release, whose `<s>` is the BOS token.
 * Source: Vision-CAIR/MiniGPT-4, minigpt4/conversation/conversation.py, `CONV_VISION_Vicuna0`, `CONV_VISION_LLama2`.
 */
export const TEMPLATES = {
  'vicuna-v0': { ...VICUNA, pending: 'Assistant: ' },
  'vicuna-v0-first': { ...VICUNA, pending: 'Assistant:' },
  llama2: {
    ...DEMO,
    human: '<s>[INST] ',
    assistant: ' [/INST] ',
    pending: ' [/INST] ',
    separator: '',
    answerEnd: '',
    stop: '',
  },
} as const satisfies Record<string, ConversationTemplate>;

/** A template of the reference. */
export type TemplateName = keyof typeof TEMPLATES;

/** What the template of a configuration is made of: its `prompt` section. */
export type PromptSection = Omit<PromptFormat, 'maxTargetTokens'> & { readonly questions: readonly string[] };

/**
 * The conversation that a finetuned projection knows: its first question stands exactly where the questions of training
 * stood, and an answer is followed by its end symbol, unless the next turn begins with that.
 *
 * @throws UserError if the section has no template with a place for questions
 */
export function promptTemplate(prompt: PromptSection): ConversationTemplate {
  const { bos, template, captionPrefix, endSymbol, questions } = prompt;
  const [human = '', pending, ...rest] = template.split('{}');
  if (pending === undefined || rest.length)
    throw new UserError(
      `prompt.template: must hold {} once for a conversation, got ${JSON.stringify(template)} (take a configuration of stage 2, or name a template)`,
    );
  return {
    bos,
    system: '',
    human,
    assistant: pending + captionPrefix,
    pending,
    separator: '',
    answerEnd: human.startsWith(endSymbol) ? '' : endSymbol,
    image: imageFrame(questions),
    stop: endSymbol,
    answer: 'plain',
  };
}

/** What stands around the image in the first question that begins with it, or else ends with it: a tag, and the blanks between. */
function imageFrame(questions: readonly string[]): ConversationTemplate['image'] {
  const first = questions.map(frameAtStart).find(Boolean) ?? questions.map(frameAtEnd).find(Boolean);
  return first ?? { before: '', after: '', gap: ' ', place: 'before question' };
}

function frameAtStart(question: string): ConversationTemplate['image'] | undefined {
  const [before = '', said] = question.split(IMAGE_PLACE);
  if (said === undefined || !/^(<[^>]*>)?$/.test(before)) return undefined;
  const [, after = '', gap = ''] = /^(<\/[^>]*>)?(\s*)/.exec(said) ?? [];
  return { before, after, gap, place: 'before question' };
}

function frameAtEnd(question: string): ConversationTemplate['image'] | undefined {
  const [said = '', after] = question.split(IMAGE_PLACE);
  if (after === undefined || !/^(<\/[^>]*>)?$/.test(after)) return undefined;
  const [, gap = '', before = ''] = /(\s*)(<[^>]*>)?$/.exec(said) ?? [];
  return { before, after, gap, place: 'after question' };
}
