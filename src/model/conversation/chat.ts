/** A conversation under way: its messages, its images, and the LLM's memory of what it has read of them. */
import { ask, showImage, startConversation, type Conversation } from './conversation.js';
import { ContextMemory } from '../language/contextMemory.js';
import { replyWith, type Assistant, type Reply, type ReplyOptions } from './reply.js';
import type { ConversationTemplate } from './template.js';

/**
 * Holds a conversation turn by turn. Each turn computes the positions that are new: keys and values of the common beginning
 * with the turn before stay in TensorFlow. The answers are those of `reply`. One turn at a time; whoever made it closes it.
 *
 * ```ts
 * const chat = new ChatSession({ model, projection, tokenizer }, TEMPLATES['vicuna-v0']);
 * chat.show(features);
 * const { text } = await chat.ask('What is in this picture?');
 * await chat.close();
 * ```
 */
export class ChatSession {
  #conversation: Conversation;
  #images: readonly Float32Array[] = [];
  readonly #memory: ContextMemory;

  constructor(
    private readonly assistant: Assistant,
    readonly template: ConversationTemplate,
  ) {
    this.#conversation = startConversation(template);
    this.#memory = new ContextMemory(assistant.model, assistant.projection);
  }

  /** What was said and shown, less what became too long. */
  get conversation(): Conversation {
    return this.#conversation;
  }

  /**
   * Shows an image, beside those shown before; the next question is about it.
   *
   * @param features float32[Q, C], of the same size for all images
   */
  show(features: Float32Array): void {
    this.#images = [...this.#images, features];
    this.#conversation = showImage(this.#conversation);
  }

  /**
   * Asks a question and adds the answer to the conversation, also one that `options.signal` stopped. After an error the
   * conversation is as it was before the question.
   *
   * @throws UserError if the question is empty, or does not fit into the context together with the images
   */
  async ask(question: string, options: ReplyOptions = {}): Promise<Reply> {
    const asked = ask(this.#conversation, question);
    const reply = await replyWith(this.#memory, this.assistant, asked, this.#images, options);
    this.#conversation = reply.conversation;
    return reply;
  }

  /** Begins anew: nothing said, no image. What was read stays in memory for as far as the next turn begins alike. */
  restart(): void {
    this.#images = [];
    this.#conversation = startConversation(this.template);
  }

  /** Frees the keys and values. The model stays open. */
  close(): Promise<void> {
    return this.#memory.forget();
  }
}
