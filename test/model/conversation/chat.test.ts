/** A session's answers against those of `reply`, which reads everything anew, and what a turn costs. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { UserError } from '../../../src/errors.js';
import { ChatSession } from '../../../src/model/conversation/chat.js';
import { ask } from '../../../src/model/conversation/conversation.js';
import {
  reply,
  type Assistant,
  type Reply,
  type ReplyOptions,
} from '../../../src/model/conversation/reply.js';
import {
  promptTemplate,
  TEMPLATES,
  type ConversationTemplate,
} from '../../../src/model/conversation/template.js';
import { tinyAssistant } from '../../helpers/tinyAssistant.js';
import { TensorFlow } from '../../../src/tensorflow/session.js';
import { countPositions, type PositionCount } from '../../helpers/positions.js';
import { mulberry32, randomNormal } from '../../helpers/random.js';
import { TINY_FEATURES, TINY_LLAMA } from '../../helpers/tinyModels.js';

const { channels: C, queries: Q } = TINY_FEATURES;
const OPTIONS = { kind: 'linear', standardise: true, layerNorm: true } as const;
/** Rows for the fixture's tokenizer, and positions for several turns in single letters. */
const LLAMA = { ...TINY_LLAMA, vocabSize: 601, maxPositions: 400 };

let tensorflow: TensorFlow;
let assistant: Assistant;
let counted: PositionCount;
beforeAll(async () => {
  tensorflow = await TensorFlow.open();
  assistant = await tinyAssistant(tensorflow, LLAMA, OPTIONS);
  counted = countPositions(assistant.model);
});
afterAll(() => tensorflow.close());

const image = (seed: number): Float32Array => randomNormal(Q * C, seed);
const CONFIGURED = promptTemplate({
  bos: 'tokenizer',
  template: '###Human: {} ###Assistant: ',
  captionPrefix: '',
  endSymbol: '###',
  questions: ['<Img><ImageHere></Img> What?'],
});

/** All of a reply but what it cost, and a score, whose last bits another batch shape changes. */
function comparable({ context: { length }, generated: { ids, end, ended }, ...rest }: Reply): unknown {
  return { ...rest, ids, end, ended, length };
}

/** A session and its twin that reads everything anew: every turn of both must be the same. */
class Twins {
  readonly session: ChatSession;
  #images: Float32Array[] = [];

  constructor(template: ConversationTemplate) {
    this.session = new ChatSession(assistant, template);
  }

  show(features: Float32Array): void {
    this.session.show(features);
    this.#images.push(features);
  }

  restart(): void {
    this.session.restart();
    this.#images = [];
  }

  /** The session's reply, and the positions that it computed of the context. */
  async ask(
    question: string,
    options: (twin: 0 | 1) => ReplyOptions = () => ({ maxNewTokens: 8 }),
  ): Promise<Reply & { read: number }> {
    const before = this.session.conversation;
    counted.reset();
    const answer = await this.session.ask(question, options(0));
    const { read } = counted;
    const fresh = await reply(assistant, ask(before, question), this.#images, options(1));
    expect(comparable(answer)).toEqual(comparable(fresh));
    return { ...answer, read };
  }
}

describe.each([
  ['vicuna-v0', TEMPLATES['vicuna-v0']],
  ['vicuna-v0-first', TEMPLATES['vicuna-v0-first']],
  ['llama2', TEMPLATES.llama2],
  ['a configuration', CONFIGURED],
] as const)('a session with the template of %s', (_, template) => {
  it('answers as if it read everything anew, and computes only what is new', async () => {
    const twins = new Twins(template);
    twins.show(image(1));
    const first = await twins.ask('What is in this picture?');
    expect(first.context.reused).toBe(0);
    let before = first.context.length;
    for (const question of ['Is it large?', 'Are you sure?', 'Say it again.']) {
      const { context, read } = await twins.ask(question);
      expect(read).toBe(context.length - context.reused);
      // All of the last context but what its end, `Assistant:` with a blank, becomes when a text follows
      expect(context.reused).toBeGreaterThanOrEqual(before - 2);
      before = context.length;
    }
    await twins.session.close();
  });
});

describe.each([1, 2, 3])('a conversation of chance, %i', (seed) => {
  it('has the answers of reading everything anew', async () => {
    const random = mulberry32(seed);
    const pick = <T>(...from: T[]): T => from[Math.floor(random() * from.length)] as T; // one of them
    const twins = new Twins(pick<ConversationTemplate>(...Object.values(TEMPLATES), CONFIGURED));
    let saved = 0;
    for (let turn = 0; turn < 8; turn++) {
      if (random() < 0.1) twins.restart();
      while (random() < 0.4) twins.show(image(pick(1, 2, 3)));
      const question = pick('What is it?', 'Why?', 'Is it a dog, or is it a cat?', 'Ça va? 你好');
      const maxNewTokens = pick(1, 5, 12);
      const { context, read } = await twins.ask(question, () => ({ maxNewTokens, maxLength: 250 }));
      expect(read).toBe(context.length - context.reused);
      saved += context.reused;
    }
    expect(saved).toBeGreaterThan(0);
    await twins.session.close();
  });
});

describe('a session', () => {
  let twins: Twins;
  beforeEach(() => {
    twins = new Twins(TEMPLATES['vicuna-v0']);
    twins.show(image(1));
  });

  it('computes again an answer that is another in tokens when it is read as text', async () => {
    const first = await twins.ask('What?');
    const { tokenizer } = assistant;
    expect(tokenizer.encode(first.text)).not.toEqual(first.generated.ids); // a random model's
    const second = await twins.ask('Sure?');
    expect(second.context.reused).toBeLessThan(first.context.length + first.generated.ids.length - 1);
    expect(second.read).toBeGreaterThan(tokenizer.encode(first.text).length);
  });

  it('keeps what it has read when an image comes in a later turn', async () => {
    const first = await twins.ask('What?');
    twins.show(image(2));
    const second = await twins.ask('And this?');
    expect(second.context.reused).toBeGreaterThanOrEqual(first.context.length - 2);
    twins.show(image(3));
    twins.show(image(1));
    await twins.ask('And these?');
    await twins.ask('All of them?');
  });

  it('reads on from where a shortened context still begins alike, and says that it was shortened', async () => {
    const options = { maxNewTokens: 8, maxLength: 110 };
    const replies: (Reply & { read: number })[] = [];
    for (const question of ['What is it?', 'Is it large?', 'Are you sure?', 'Say it again.', 'And now?'])
      replies.push(await twins.ask(question, () => options));
    const shortened = replies.filter((one) => one.shortened);
    expect(shortened.length).toBeGreaterThan(0);
    expect(replies[0]?.shortened).toBe(false);
    for (const { context, read } of shortened) {
      expect(context.reused).toBeGreaterThanOrEqual(Q); // system text and image at least
      expect(read).toBe(context.length - context.reused);
    }
    await expect(twins.session.ask('x'.repeat(90), options)).rejects.toThrow(UserError);
    await twins.ask('Still there?', () => options); // as if that question had not been asked
  });

  it('begins anew with what is the same again: the system text and the image', async () => {
    const first = await twins.ask('What?');
    twins.restart();
    twins.show(image(1));
    expect((await twins.ask('What?')).context.reused).toBe(first.context.length - 1);
    twins.restart();
    twins.show(image(9));
    const other = await twins.ask('What?');
    expect(other.context.reused).toBeGreaterThan(0);
    expect(other.context.reused).toBeLessThan(first.context.length - Q);
    twins.restart();
    await twins.ask('Without an image?');
  });

  it('draws, penalises and searches as `reply` does', async () => {
    for (const [turn, options] of [
      { temperature: 1, topK: 50, topP: 0.9 },
      { repetitionPenalty: 1.5 },
      { beams: 3 },
      { beams: 2, lengthPenalty: 0.5 },
      {},
    ].entries()) {
      const { context } = await twins.ask(`Question ${turn}?`, () => ({
        maxNewTokens: 8,
        random: mulberry32(turn), // the same deviates for both
        ...options,
      }));
      expect(context.reused > 0).toBe(turn > 0);
    }
  });

  it('tells the answer as it grows', async () => {
    const told: string[] = [];
    const { text } = await twins.session.ask('What?', {
      maxNewTokens: 8,
      onText: (part) => told.push(part),
    });
    expect(told.length).toBeGreaterThan(3);
    expect(told).toEqual([...told].sort((a, b) => a.length - b.length));
    expect(text.startsWith(told.at(-1) ?? '-')).toBe(true);
  });

  it.each([{}, { beams: 2 }])('keeps an answer that was stopped (%j), and goes on after it', async (more) => {
    const stopped = new AbortController();
    let steps = 0;
    const session = twins.session;
    const { model } = assistant;
    const decode = model.decode.bind(model);
    model.decode = (...given) => {
      if (++steps === 3) stopped.abort();
      return decode(...given);
    };
    const options = { maxNewTokens: 100, signal: stopped.signal, ...more };
    const { finish, generated, text } = await session.ask('What?', options);
    model.decode = decode;
    expect(finish).toBe('stopped');
    expect(generated.ids).toHaveLength(4);
    expect(session.conversation.messages.at(-1)).toMatchObject({ role: 'assistant', text });
    await twins.ask('Go on.');
  });

  it('leaves the conversation as it was where a question is refused', async () => {
    const before = twins.session.conversation;
    await expect(twins.session.ask('  ')).rejects.toThrow('a question must not be empty');
    expect(twins.session.conversation).toBe(before);
  });

  it('frees all it holds', async () => {
    await twins.ask('What?');
    await twins.session.close();
    const before = await tensorflow.tensorCount();
    await twins.ask('What?');
    await twins.ask('Sure?', () => ({ maxNewTokens: 4, beams: 2 }));
    await expect(
      twins.session.ask('x', {
        maxNewTokens: 4,
        temperature: 1,
        random: () => {
          throw new Error('a bug');
        },
      }),
    ).rejects.toThrow('a bug');
    await twins.session.close();
    expect(await tensorflow.tensorCount()).toBe(before);
  });
});
