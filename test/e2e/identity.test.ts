/** A projection beside other parts than it was trained with: refused by name and hash, unless told otherwise. */
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseConfig } from '../../src/config/load.js';
import type { Config } from '../../src/config/schema.js';
import { UserError } from '../../src/errors.js';
import { runEvaluation } from '../../src/evaluate/run.js';
import { exportProjection } from '../../src/train/export.js';
import { recordedIdentity, requireIdentity } from '../../src/train/identity.js';
import { train } from '../../src/train/train.js';
import { tinyConfig, writeTinyModels, writeTinyShards } from '../helpers/tinyFolders.js';

let root: string;
let folders: { readonly encoder: string; readonly llm: string };
/** The same weights under another file: as another LLM would be. */
let otherLlm: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'identity-'));
  folders = await writeTinyModels(root);
  await writeTinyShards(join(root, 'shards'), 12);
  await train(configOf('pretrain', ['train.steps=1']), { folders });
  otherLlm = join(root, 'other');
  await cp(folders.llm, otherLlm, { recursive: true });
  const file = join(otherLlm, 'config.json');
  await writeFile(file, (await readFile(file, 'utf8')).replace('{', '{"note":"another",'));
});
afterAll(() => rm(root, { recursive: true }));

function configOf(stage: 'pretrain' | 'finetune', set: string[]): Config {
  return parseConfig(tinyConfig(stage, folders, root), 'tiny.yaml', {
    set: ['train.schedule.warmupSteps=0', ...set],
  });
}

const stage1 = (): string => join(root, 'runs', 'stage1');
const HASH = '[0-9a-f]{64}';

describe('identity', () => {
  it('names five parts in state.json and in exports, an export’s as the run’s', async () => {
    const exported = join(root, 'a.safetensors');
    await exportProjection(stage1(), exported);
    const recorded = await recordedIdentity(exported);
    expect(Object.keys(recorded).sort()).toEqual(['encoder', 'llm', 'prompt', 'tokenizer']); // no Q-Former here
    const checkpoint = join(stage1(), 'checkpoints/step-00000001/projection.safetensors');
    expect(await recordedIdentity(checkpoint)).toEqual(recorded);
    for (const sha256 of Object.values(recorded)) expect(sha256).toMatch(new RegExp(`^${HASH}$`));
  });

  it.each(['a run', 'an exported file'])('another LLM is refused for %s, both hashes named', async (kind) => {
    const from = kind === 'a run' ? stage1() : join(root, 'b.safetensors');
    if (kind !== 'a run') await exportProjection(stage1(), from, { force: true });
    const config = configOf('finetune', ['train.steps=1', `train.initFrom=${from}`]);
    const error: unknown = await train(config, { folders: { ...folders, llm: otherLlm } }).catch(
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(UserError);
    const message = new RegExp(
      `was trained with the LLM of SHA-256 ${HASH}, got ${HASH} \\(name that part, or set model.identity=ignore\\)`,
    );
    expect(error).toHaveProperty('message', expect.stringMatching(message));
  });

  it('is taken all the same where told to, and stage 2 has its own prompt in any case', async () => {
    const told = ['train.steps=1', 'model.identity=ignore', `run.folder=${join(root, 'runs', 'told')}`];
    await train(configOf('finetune', told), { folders: { ...folders, llm: otherLlm } });
    await train(configOf('finetune', ['train.steps=1']), { folders });
  });

  it('another prompt template is refused in an evaluation', async () => {
    const evaluation = (set: string[]): Promise<unknown> =>
      runEvaluation(configOf('pretrain', set), { folders, from: stage1(), out: join(root, 'out') });
    await expect(evaluation(['prompt.endSymbol=" END"'])).rejects.toThrow(
      /was trained with the prompt template of SHA-256/,
    );
    await evaluation(['prompt.maxTargetTokens=8']); // how much is scored is no part of the template
  });

  it('compares only what both sides name', () => {
    const parts = ['encoder', 'qformer', 'llm'] as const;
    requireIdentity('f', { encoder: 'a' }, { encoder: 'a', qformer: 'b', llm: 'c' }, parts, '');
    requireIdentity('f', {}, { encoder: 'a' }, parts, '');
    expect(() => requireIdentity('f', { qformer: 'a' }, { qformer: 'b' }, parts, 'advice')).toThrow(
      'f: was trained with the Q-Former of SHA-256 a, got b (advice)',
    );
  });
});
