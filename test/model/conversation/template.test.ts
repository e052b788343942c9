import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadConfig } from '../../../src/config/load.js';
import { UserError } from '../../../src/errors.js';
import {
  answer,
  ask,
  conversationPrefix,
  conversationText,
  showImage,
  startConversation,
  type Conversation,
} from '../../../src/model/conversation/conversation.js';
import { Prompter } from '../../../src/model/conversation/prompt.js';
import { promptTemplate } from '../../../src/model/conversation/template.js';
import { loadTokenizer } from '../../../src/model/tokenizer/tokenizer.js';
import { modelFolder } from '../../../src/setup/models.js';

const LLAMA = join(import.meta.dirname, '../../fixtures/tokenizers/tiny-llama');

async function configured(name: string): Promise<{ prompt: PromptConfig; conversation: Conversation }> {
  const { prompt } = await loadConfig(`configs/${name}.yaml`);
  return { prompt, conversation: startConversation(promptTemplate(prompt)) };
}
type PromptConfig = Awaited<ReturnType<typeof loadConfig>>['prompt'];

describe('the template of a configuration', () => {
  it.each([
    ['quickstart/stage2', () => modelFolder('smollm2-135m-instruct')], // needs `minigpt4 setup`
    ['minigpt4/vicuna-7b-stage2', () => Promise.resolve(LLAMA)],
    ['minigpt4/vicuna-13b-stage2', () => Promise.resolve(LLAMA)],
  ])(
    '%s: a first question is what the projection was trained with, token for token',
    async (name, folder) => {
      const { prompt, conversation } = await configured(name);
      const tokenizer = await loadTokenizer(await folder());
      const prompter = new Prompter(tokenizer, prompt);
      expect(prompt.questions.length).toBeGreaterThan(1);
      for (const question of prompt.questions) {
        const said = question.replace(/^(<Img>)?<ImageHere>(<\/Img>)?\s|\s<ImageHere>$/, '');
        expect(said).not.toContain('<ImageHere>');
        const prefix = conversationPrefix(ask(showImage(conversation), said), tokenizer);
        expect(prefix).toEqual(prompter.prefix(question));
      }
    },
  );

  it.each([
    [
      'minigpt4/vicuna-7b-stage2',
      '###Human: <Img><ImageHere></Img> What? ###Assistant: a dog.###Human: Sure? ###Assistant: ',
    ],
    [
      'quickstart/stage2',
      'Name, colors, category, related words. What?\n<ImageHere> a dog.<|im_end|>' +
        'Name, colors, category, related words. Sure?',
    ],
  ])('%s: the next turn follows the end symbol, which stands there once', async (name, text) => {
    const { conversation } = await configured(name);
    const again = ask(answer(ask(showImage(conversation), 'What?'), 'a dog.'), 'Sure?');
    expect(conversationText(again)).toBe(text);
  });

  const prompt = { bos: 'none', template: 'Q {} A', captionPrefix: '', endSymbol: '\n' };
  it.each([
    [['<ImageHere>\n\nWhat?'], 'Q <ImageHere>\n\nYes? A'],
    [['See <ImageHere>.', '<i><ImageHere></i> What?'], 'Q <i><ImageHere></i> Yes? A'],
    [['See <ImageHere>.'], 'Q <ImageHere> Yes? A'],
    [['What?\n<ImageHere>'], 'Q Yes?\n<ImageHere> A'],
    [['See <ImageHere>.', 'What is this: <i><ImageHere></i>'], 'Q Yes? <i><ImageHere></i> A'],
    [['What?\n<ImageHere>', '<ImageHere> What?'], 'Q <ImageHere> Yes? A'],
    [[], 'Q <ImageHere> Yes? A'],
  ])('of the questions %j takes what stands around their image', (questions, text) => {
    const template = promptTemplate({ ...prompt, questions });
    expect(conversationText(ask(showImage(startConversation(template)), 'Yes?'))).toBe(text);
  });

  it.each(['', 'no place', '{} and {}'])('refuses the template %j', (template) => {
    const make = (): unknown => promptTemplate({ ...prompt, template, questions: [] });
    expect(make).toThrow(UserError);
    expect(make).toThrow(`prompt.template: must hold {} once for a conversation, got "${template}"`);
  });

  it('opens with the token that the configuration names, and with none where it says so', async () => {
    const tokenizer = await loadTokenizer(LLAMA);
    const first = (bos: string): unknown =>
      conversationPrefix(
        showImage(startConversation(promptTemplate({ ...prompt, template: '{}', bos, questions: [] }))),
        tokenizer,
      )[0];
    expect(first('none')).toEqual({ kind: 'text', ids: [] });
    expect(first('</s>')).toEqual({ kind: 'text', ids: [tokenizer.eosId] });
    expect(() => first('<|no such|>')).toThrow('prompt.bos: must name a token');
  });
});
