/** `minigpt4 chat`: a trained projection and its frozen models, to talk to about images. */
import { readFile } from 'node:fs/promises';
import { nearestName } from './config/nearest.js';
import type { Config } from './config/schema.js';
import { BadImage, decodeImage, preprocess } from './data/images/images.js';
import { randomAt } from './data/order/keyed.js';
import { UserError } from './errors.js';
import { fileError } from './files.js';
import { ChatSession } from './model/conversation/chat.js';
import type { Reply, ReplyOptions } from './model/conversation/reply.js';
import {
  promptTemplate,
  TEMPLATES,
  type ConversationTemplate,
  type TemplateName,
} from './model/conversation/template.js';
import { DEMO_SAMPLING } from './model/language/sampling.js';
import { openMiniGpt4, type MiniGpt4, type ModelFolders } from './model/miniGpt4.js';
import { findProjection } from './train/checkpoint.js';
import { loadProjection } from './train/start.js';

/** How a chat is opened. */
export interface ChatOptions {
  readonly folders: ModelFolders;
  /** Run folder, checkpoint folder or projection file. */
  readonly from: string;
  readonly template: ConversationTemplate;
  readonly note?: (text: string) => void;
  /** Told what is being loaded and the share done, 0…1. */
  readonly loading?: (part: string, done: number) => void;
}

/** How answers are written, as one types it; left out: the demo's settings where it draws, else the likeliest token. */
export interface AnswerSettings {
  readonly temperature?: number | undefined;
  readonly topK?: number | undefined;
  readonly topP?: number | undefined;
  readonly repetitionPenalty?: number | undefined;
  readonly beams?: number | undefined;
  readonly lengthPenalty?: number | undefined;
  readonly maxNewTokens?: number | undefined;
  /** Of the draws. */
  readonly seed?: number | undefined;
}

/** Loaded models and one conversation with them. Whoever opened it closes it. */
export class Chat {
  private constructor(
    private readonly model: MiniGpt4,
    private readonly session: ChatSession,
  ) {}

  /**
   * Loads the models and the projection.
   *
   * @throws UserError as the parts do; before the models are loaded if there is no projection
   */
  static async open(config: Config, { folders, from, template, note, loading }: ChatOptions): Promise<Chat> {
    await findProjection(from);
    const model = await openMiniGpt4(config.model, folders, loading);
    try {
      const projection = await loadProjection(from, config, model, { note });
      const { language, tokenizer } = model;
      return new Chat(model, new ChatSession({ model: language, projection, tokenizer }, template));
    } catch (error) {
      await model.close();
      throw error;
    }
  }

  /**
   * Shows an image, beside those shown before; the next question is about it.
   *
   * @param bytes of a JPEG, PNG, WebP …
   * @throws BadImage if they are none
   */
  async show(bytes: Uint8Array): Promise<void> {
    const { encoder } = this.model;
    const { imageSize: size, imageMean: mean, imageStd: std } = encoder.spec.vit;
    this.session.show(await encoder.encode(await preprocess(bytes, { size, mean, std })));
  }

  /** Asks a question. @throws UserError if it is empty or does not fit into the context */
  ask(question: string, options?: ReplyOptions): Promise<Reply> {
    return this.session.ask(question, options);
  }

  /** Forgets what was shown and said. */
  restart(): void {
    this.session.restart();
  }

  /** Frees everything. */
  async close(): Promise<void> {
    await this.session.close();
    await this.model.close();
  }
}

/**
 * The conversation that a name stands for: `config`, which is made of the configuration's `prompt`, or one of `TEMPLATES`.
 *
 * @throws UserError if there is none of that name, or the configuration has none
 */
export function conversationTemplate(name: string, { prompt }: Pick<Config, 'prompt'>): ConversationTemplate {
  if (name === 'config') return promptTemplate(prompt);
  if (Object.hasOwn(TEMPLATES, name)) return TEMPLATES[name as TemplateName]; // it has that name
  const names = ['config', ...Object.keys(TEMPLATES)];
  const near = nearestName(name, names);
  throw new UserError(
    `chat: the template must be one of ${names.join(', ')}, got "${name}"${near ? `, did you mean "${near}"?` : ''}`,
  );
}

/**
 * Reads an image file.
 *
 * @throws UserError if it cannot be read or is no image
 */
export async function readImage(file: string): Promise<Uint8Array> {
  try {
    const bytes = await readFile(file);
    await decodeImage(bytes);
    return bytes;
  } catch (error) {
    if (error instanceof BadImage)
      throw new UserError(`${file}: must be an image, got ${error.message}`, { cause: error });
    throw fileError(file, error);
  }
}

/**
 * Options of a reply from what was asked for. Each of `temperature`, `topK` and `topP` turns drawing on, with the demo's
 * values for the others.
 *
 * @throws UserError if a setting would have no effect
 */
export function answerOptions(settings: AnswerSettings): ReplyOptions {
  const { seed, ...given } = Object.fromEntries(
    Object.entries(settings).filter(([, value]) => value !== undefined),
  ) as { [Name in keyof AnswerSettings]: number }; // what is left has values
  const draws = ['temperature', 'topK', 'topP'].some((name) => name in given);
  if (seed !== undefined && !draws)
    throw new UserError(
      'chat: a seed is for answers that are drawn, got it without temperature, top-k and top-p (add --temperature 1)',
    );
  if ('lengthPenalty' in given && !((given.beams ?? 1) > 1))
    throw new UserError('chat: a length penalty is for several beams, got it with one (add --beams 5)');
  if (!draws) return given;
  let index = 0;
  return { ...DEMO_SAMPLING, ...given, random: () => randomAt(seed ?? 0, index++, 'answer') };
}
