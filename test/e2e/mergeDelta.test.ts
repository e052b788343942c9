/** `minigpt4 merge-delta` as a user runs it: what it prints, and what signals leave. */
import { spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { open, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { float32ToFloat16 } from '../../src/tensorflow/halfFloats.js';
import { addTokenizer, copyFixture, writeLlama } from '../model/delta/deltaFixture.js';
import { temporaryFolder } from '../model/weights/weightsFixture.js';
import { isBuilt, minigpt4 } from '../cli/builtCli.js';

const command = (base: string, delta: string, out: string): string[] => {
  return ['merge-delta', '--base', base, '--delta', delta, '--out', out];
};

/** Two folders of 260 MB of zeros that take no space on disk, so that merging them takes a second or more. */
async function largeFolders(): Promise<{ root: string; base: string; delta: string; out: string }> {
  const root = await temporaryFolder();
  const [base, delta] = [join(root, 'base'), join(root, 'delta')];
  for (const folder of [base, delta]) {
    await writeLlama(folder, { width: 4, layers: 1 });
    await addTokenizer(folder);
    const table: Record<string, unknown> = {};
    const [rows, width] = [250_000, 256];
    let offset = 0;
    const shapes = { 'model.norm.weight': [width], 'model.embed_tokens.weight': [rows, width] };
    for (const [name, shape] of Object.entries({ ...shapes, 'lm_head.weight': [rows, width] })) {
      const end = offset + 2 * shape.reduce((a, b) => a * b, 1);
      table[name] = { dtype: 'F16', shape, data_offsets: [offset, end] };
      offset = end;
    }
    const json = Buffer.from(JSON.stringify(table));
    const header = Buffer.alloc(8);
    header.writeBigUInt64LE(BigInt(json.length));
    const file = await open(join(folder, 'model.safetensors'), 'w');
    await file.write(Buffer.concat([header, json]));
    if (folder === base) await file.write(float32ToFloat16(new Float32Array(width).fill(1)));
    await file.truncate(8 + json.length + offset);
    await file.close();
    const config = { model_type: 'llama', vocab_size: rows, hidden_size: width, num_hidden_layers: 0 };
    await writeFile(join(folder, 'config.json'), JSON.stringify(config));
  }
  return { root, base, delta, out: join(root, 'vicuna') };
}

/** Starts a merge and waits until it writes. */
async function startMerge(args: readonly string[]): Promise<{ child: ChildProcess; ended: Promise<string> }> {
  const child = spawn(process.execPath, ['bin/minigpt4.js', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  child.stdout.on('data', (text: Buffer) => (said += text.toString()));
  const ended = new Promise<string>((resolve) => {
    child.on('close', (code, signal) => resolve(`${code ?? signal} ${said}`));
  });
  await new Promise<void>((resolve) => {
    child.stderr.on('data', (text: Buffer) => {
      said += text.toString();
      if (said.includes('merging, MB')) resolve();
    });
    void ended.then(() => resolve());
  });
  return { child, ended };
}

describe.skipIf(!isBuilt)('minigpt4 merge-delta', () => {
  it('merges, says what it merged, and gives the SHA-256 of each file', async () => {
    const { base, delta, out } = await copyFixture();
    const { code, stdout, stderr } = minigpt4([...command(base, delta, out), '--shard-size', '1']);
    const file = 'model-00001-of-00001.safetensors';
    const sha256 = createHash('sha256')
      .update(await readFile(join(out, file)))
      .digest('hex');
    expect({ code, stdout }).toEqual({
      code: 0,
      stdout: [
        `${out}: LLaMA (16 wide, 2 layers), 21 tensors, 23664 values, 1 MB`,
        '  rows of the embeddings: 600 of the base, 1 more of the delta',
        `  ${file}  1 MB  sha256 ${sha256}`,
        'read back: all 21 tensors are equal to the sums, by SHA-256',
        '',
      ].join('\n'),
    });
    expect(stderr).toContain('merging, MB [');
    expect(stderr).toContain('reading back, MB [');
    expect(stderr).not.toContain('warning');
  });

  it('warns before it merges', async () => {
    const { base, delta, out } = await copyFixture();
    await writeFile(join(delta, 'special_tokens_map.json'), '{"bos_token": "</s>", "eos_token": "</s>"}');
    const { code, stderr } = minigpt4(command(base, delta, out));
    expect(code).toBe(0);
    expect(stderr).toMatch(/^warning: special_tokens_map\.json says "<\/s>"/);
  });

  it('says in one message what the user can mend, exit code 2', async () => {
    const { base, delta, out } = await copyFixture();
    const exchanged = minigpt4(command(delta, base, out));
    expect(exchanged).toMatchObject({ code: 2, stdout: '' });
    expect(exchanged.stderr).toMatch(
      /^merge-delta: the base must not have more rows.*\(exchange --base and --delta\?\)\n$/,
    );
    await rm(join(base, 'pytorch_model-00003-of-00003.bin'));
    expect(minigpt4(command(base, delta, out))).toMatchObject({
      code: 2,
      stderr: `${base}: must hold all its shards, got none of the name pytorch_model-00003-of-00003.bin (fetch what is missing)\n`,
    });
    expect(minigpt4(['merge-delta', '--base', 'a'])).toMatchObject({
      code: 2,
      stderr: 'minigpt4 merge-delta: needs --delta and --out (minigpt4 merge-delta --help)\n',
    });
  });

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('%s stops it at once with exit code %i and leaves nothing', async (signal, code) => {
    const { root, base, delta, out } = await largeFolders();
    const { child, ended } = await startMerge(command(base, delta, out));
    const sent = performance.now();
    child.kill(signal);
    expect(await ended).toMatch(new RegExp(`^${code} [^]*merge-delta: stopped, nothing was written\\n$`));
    expect(performance.now() - sent).toBeLessThan(2000);
    expect((await readdir(root)).sort()).toEqual(['base', 'delta']);
  });

  it('a killed merge leaves no folder of the name; the next one clears away what it left', async () => {
    const { root, base, delta, out } = await largeFolders();
    const { child, ended } = await startMerge(command(base, delta, out));
    child.kill('SIGKILL');
    await ended;
    const left = (await readdir(root)).filter((name) => name.startsWith('.'));
    expect(left.sort()).toEqual([expect.stringMatching(/^\.vicuna\.[0-9a-f]{8}\.tmp$/), '.vicuna.lock']);
    const small = await copyFixture();
    expect(minigpt4(command(small.base, small.delta, out)).code).toBe(0);
    expect((await readdir(root)).sort()).toEqual(['base', 'delta', 'vicuna']);
  });
});
