/** `minigpt4 chat` on the tiny models: in this process where that is enough, built and through a pipe where it is not. */
import { spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { Chat } from '../../src/chat.js';
import { main } from '../../src/cli/main.js';
import { TEMPLATES } from '../../src/model/conversation/template.js';
import { writeSafetensors } from '../../src/model/weights/safetensors.js';
import { randomNormal } from '../helpers/random.js';
import { tinyConfig, tinyPicture, writeTinyModels } from '../helpers/tinyFolders.js';
import { TINY_LLAMA, TINY_VIT } from '../helpers/tinyModels.js';
import { isBuilt, minigpt4 } from '../cli/builtCli.js';

let root: string;
let common: string[];
let picture: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'chat-'));
  const config = join(root, 'stage2.yaml');
  await writeFile(config, tinyConfig('finetune', await writeTinyModels(root), root));
  picture = join(root, 'picture.png');
  await writeFile(picture, await tinyPicture(3));
  const projection = join(root, 'projection.safetensors');
  await writeProjection(projection);
  const plain = ['standardise', 'layerNorm'].flatMap((key) => ['--set', `model.projection.${key}=false`]);
  common = ['chat', '--config', config, '--from', projection, ...plain, '--max-new-tokens', '6'];
});
afterAll(() => rm(root, { recursive: true }));
afterEach(() => vi.restoreAllMocks());

/** A random projection between the tiny models. */
async function writeProjection(file: string): Promise<void> {
  const [C, D] = [TINY_VIT.hiddenSize, TINY_LLAMA.hiddenSize];
  const tensor = (name: string, shape: number[], seed: number) => ({
    name: `llama_proj.${name}`,
    shape,
    dtype: 'float32' as const,
    read: () =>
      Promise.resolve(
        new Uint8Array(
          randomNormal(
            shape.reduce((a, b) => a * b, 1),
            seed,
          ).buffer,
        ),
      ),
  });
  await writeSafetensors(file, [tensor('weight', [D, C], 1), tensor('bias', [D], 2)]);
}

interface Line {
  readonly question: string;
  readonly answer: string;
  readonly context: number;
  readonly reused: number;
}

/** Runs the verb in this process; what it printed on stdout. */
async function chat(...args: string[]): Promise<string> {
  const printed = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
  vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  vi.spyOn(console, 'error').mockReturnValue(undefined);
  await main([...common, ...args]);
  return printed.mock.calls.map(([part]) => String(part)).join('');
}

describe('chat --ask', () => {
  it('answers each question in turn and reads only what is new', async () => {
    const text = await chat('--json', '--image', picture, '--ask', 'What is it?', '--ask', 'Are you sure?');
    const [first, second, ...rest] = text
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Line); // the verb's own
    expect(rest).toEqual([]);
    expect(first).toMatchObject({ question: 'What is it?', tokens: 6, finish: 'length', reused: 0 });
    expect(second).toMatchObject({ question: 'Are you sure?' });
    expect(second?.reused).toBeGreaterThan(5); // BOS and the image's five soft tokens
    expect(second?.context).toBeGreaterThan((first?.context ?? NaN) + 6);
    expect(process.exitCode).toBeUndefined();
  });

  it('hands on what was asked for, and closes the chat', async () => {
    const ask = vi.fn().mockResolvedValue({ text: 'yes', finish: 'end' });
    const [show, close] = [vi.fn(), vi.fn()];
    // Nothing else of a chat is used by this command line
    const open = vi.spyOn(Chat, 'open').mockResolvedValue({ ask, show, close } as unknown as Chat);
    const drawing = [
      '--temperature',
      '0.7',
      '--top-k',
      '9',
      '--top-p',
      '0.8',
      '--repetition-penalty',
      '1.05',
    ];
    const beams = ['--beams', '4', '--length-penalty=-1', '--template', 'llama2', '--image', picture];
    const text = await chat(...drawing, ...beams, '--ask', 'One?', '--ask', 'Two?');
    expect(text).toBe('yes\nyes\n');
    expect(open.mock.calls[0]?.[1]).toMatchObject({
      from: join(root, 'projection.safetensors'),
      template: TEMPLATES.llama2,
    });
    expect(show.mock.calls).toEqual([[await readFile(picture)]]);
    expect(ask.mock.calls.map(([question]) => question as string)).toEqual(['One?', 'Two?']);
    expect(ask.mock.calls[0]?.[1]).toMatchObject({
      temperature: 0.7,
      topK: 9,
      topP: 0.8,
      repetitionPenalty: 1.05,
      beams: 4,
      lengthPenalty: -1,
      maxNewTokens: 6,
    });
    expect(close).toHaveBeenCalledOnce();
  });
});

describe.skipIf(!isBuilt)('the built command', () => {
  it('answers the lines of a pipe and ends with them', () => {
    const input = `/help\n/image ${picture}\nWhat is it?\n\nAre you sure?\n`;
    const { status, stdout, stderr } = spawnSync(process.execPath, ['bin/minigpt4.js', ...common], {
      encoding: 'utf8',
      input,
      env: { ...process.env, NODE_OPTIONS: '' },
    });
    expect(status).toBe(0);
    expect(stdout).not.toContain('> ');
    expect(stdout.split('\n').length).toBeGreaterThanOrEqual(3);
    expect(stderr).toContain(`${picture}: shown\n`);
    expect(stderr).toContain('an empty line asks nothing');
  });

  it.each([
    [['--ask', 'What?', '--image', 'nowhere.png'], 'nowhere.png: no such file or folder (check the path)\n'],
    [
      ['--temperature', 'hot'],
      'minigpt4 chat: --temperature must be a number above 0, got "hot" (minigpt4 chat --help)\n',
    ],
  ])('%j is the user’s to mend, before any model is loaded', (args, message) => {
    expect(minigpt4([...common, ...args])).toEqual({ code: 2, stdout: '', stderr: message });
  });
});
