/** Schema of `prompt`: the text around the image. */
import { Type } from '@sinclair/typebox';
import { count, section } from './fields.js';

/** The text around the image. */
export const Prompt = section(
  {
    bos: Type.String({
      minLength: 1,
      default: 'tokenizer',
      description:
        "what opens a sequence: tokenizer (the tokenizer's BOS), none, or a token such as <|endoftext|>",
    }),
    template: Type.String({
      default: '',
      description:
        'the conversation around a question, which goes where {} stands; empty: no instruction prompts',
    }),
    questions: Type.Array(
      Type.String({ minLength: 1, description: 'a question; the image goes where <ImageHere> stands' }),
      { default: [], description: 'the questions, one drawn at random per sample' },
    ),
    captionPrefix: Type.String({ default: '', description: 'text put before every caption, e.g. a blank' }),
    endSymbol: Type.String({
      default: '\n',
      description: 'text that ends every caption and is learnt with it',
    }),
    maxTargetTokens: count({
      default: 32,
      description: 'longer targets are cut (and lose their end symbol)',
    }),
  },
  { default: {}, description: 'the text around the image' },
);
