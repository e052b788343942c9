/** `minigpt4 chat` */
import type { Talk } from './converse.js';
import { decimal, flag, requiredText, settings, text, texts, verb, wholeNumber } from './verb.js';

/** Talks about images with a trained projection. */
export const chatVerb = verb({
  command: 'chat',
  describe: 'Answers questions about images with a trained projection, asked here or one by one.',
  options: {
    config: requiredText('config', 'configuration file (YAML) that the projection was trained with'),
    set: settings('model.precision=float32'),
    from: text(
      'from',
      "run folder, checkpoint folder, .safetensors or .pth file; the configuration's run if not given",
    ),
    image: texts('an image file to begin with; may be given again'),
    ask: texts('a question; may be given again. Without one, questions are read line by line'),
    json: flag('print one JSON object a line: question, answer, tokens, finish, ms …'),
    template: text(
      'template',
      "text around the questions. config (if not given): the configuration's prompt, as stage 2 trained it; " +
        'vicuna-v0: the conversation of the MiniGPT-4 demo; vicuna-v0-first: of its first releases; llama2: of its Llama-2 release',
    ),
    temperature: decimal(
      'temperature',
      'draw the answers. This, --top-k and --top-p each turn drawing on, the others then as in the demo: 1, 50 and 0.9; with none of them the likeliest token is taken',
      { above: 0 },
    ),
    'top-k': wholeNumber('top-k', 'draw from the k likeliest tokens; 0 = all', 0),
    'top-p': decimal('top-p', 'draw from the likeliest tokens of this mass; 1 = all', {
      above: 0,
      atMost: 1,
    }),
    seed: wholeNumber('seed', 'of the draws; 0 if not given', 0),
    'repetition-penalty': decimal(
      'repetition-penalty',
      'above 1: tokens of the answer become less likely to come again; 1 if not given (the later demo has 1.05)',
      { above: 0 },
    ),
    beams: wholeNumber('beams', 'search the best of so many answers; 1 if not given', 1),
    'length-penalty': decimal('length-penalty', 'for beams: above 0 favours long answers; 1 if not given'),
    'max-new-tokens': wholeNumber('max-new-tokens', 'longest answer; 300 if not given', 1),
  },
  example:
    'chat --config configs/quickstart/stage2.yaml --image node_modules/@lobehub/fluent-emoji-3d/assets/1f34e.webp --ask "Describe this image in detail."',
  async run({ config: file, set, from, image: files, ask: questions, json, template, ...flags }) {
    const { loadConfig } = await import('../config/load.js');
    const config = await loadConfig(file, { set });
    const { answerOptions, Chat, conversationTemplate, readImage } = await import('../chat.js');
    const { ask, startConversation } = await import('../model/conversation/conversation.js');
    const { modelFolders } = await import('../setup/setup.js');
    const options = answerOptions({
      temperature: flags.temperature,
      topK: flags['top-k'],
      topP: flags['top-p'],
      seed: flags.seed,
      repetitionPenalty: flags['repetition-penalty'],
      beams: flags.beams,
      lengthPenalty: flags['length-penalty'],
      maxNewTokens: flags['max-new-tokens'],
    });
    const named = conversationTemplate(template ?? 'config', config);
    for (const question of questions) ask(startConversation(named), question); // refused before the models are loaded
    const images = await Promise.all(files.map(readImage));
    const { Display } = await import('./display.js');
    const display = new Display();
    const chat = await Chat.open(config, {
      folders: await modelFolders(config),
      from: from ?? config.run.folder,
      template: named,
      note: (line) => display.note(line),
      loading: (part, done) => display.loading(part, done),
    }).finally(() => display.stop());
    try {
      for (const bytes of images) await chat.show(bytes);
      await answerAll(
        { chat, options, json, output: process.stdout, note: console.error },
        questions,
        images.length,
      );
    } finally {
      await chat.close();
    }
  },
});

/** Answers the questions that were given, or else those that are read. */
async function answerAll(talk: Talk, questions: readonly string[], images: number): Promise<void> {
  const { askAloud, converse } = await import('./converse.js');
  if (images === 0)
    talk.note(
      questions.length
        ? 'no image is shown: the answer comes from the question alone (--image FILE)'
        : 'no image is shown yet: /image FILE shows one, /help tells more',
    );
  for (const question of questions) {
    if (questions.length > 1) talk.note(`> ${question}`);
    await askAloud(talk, question);
  }
  if (questions.length) return;
  const { loadNative } = await import('../native.js');
  process.exitCode = await converse(talk, {
    input: process.stdin,
    screen: process.stdout,
    signals: process,
    endNow: () => loadNative().exitNow(130),
  });
}
