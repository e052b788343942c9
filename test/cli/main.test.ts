import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { verbs } from '../../src/cli/main.js';
import { isBuilt, minigpt4 } from './builtCli.js';

const names = Object.keys(verbs);
const dataUrl = (code: string) => `data:text/javascript,${encodeURIComponent(code)}`;

describe('verbs', () => {
  it.each(names)('%s says what it does in one sentence and shows an example of itself', async (name) => {
    const verb = await verbs[name]?.();
    expect(verb?.describe).toMatch(/^[A-Z][^\n]*\.$/);
    expect(verb?.example.split(' ')[0]).toBe(name);
    for (const option of Object.values(verb?.options ?? {})) expect(option.describe).toMatch(/\S/);
  });

  it('show examples whose configuration files exist', async () => {
    const all = await Promise.all(Object.values(verbs).map((load) => load()));
    const files = all.flatMap(({ example }) => /--config (\S+)/.exec(example)?.[1] ?? []);
    expect(files).toHaveLength(4);
    for (const file of files) expect(existsSync(file)).toBe(true);
  });
});

describe.skipIf(!isBuilt)('the built command', () => {
  let scratch: string;
  beforeAll(async () => {
    scratch = await mkdtemp(join(tmpdir(), 'cli-'));
  });
  afterAll(() => rm(scratch, { recursive: true }));

  it.each([['--help'], ...names.map((name) => [name, '--help'])])(
    '%s %s takes under 0.3 s of one core (the best of 3)', // not of the clock: other tests share the cores
    async (...args) => {
      const meter = join(scratch, 'meter.cjs');
      await writeFile(
        meter,
        `process.on('exit', () => process._rawDebug(JSON.stringify(process.cpuUsage())));`,
      );
      const measure = (): number => {
        const { code, stdout, stderr } = minigpt4(args, { NODE_OPTIONS: `--require ${meter}` });
        expect(code).toBe(0);
        expect(stdout).toContain(args.length === 1 ? 'pretrain' : 'Example: minigpt4');
        const { user, system } = JSON.parse(stderr) as NodeJS.CpuUsage; // microseconds, by the meter
        return (user + system) / 1e6;
      };
      let best = measure();
      for (let again = 0; again < 2 && best >= 0.3; again++) best = Math.min(best, measure());
      expect(best).toBeLessThan(0.3);
    },
  );

  it('--help of a verb loads that verb and no package at all', () => {
    const hook = `export async function load(url, context, next) { process._rawDebug(url); return next(url, context); }`;
    const register = `import { register } from 'node:module'; register(${JSON.stringify(dataUrl(hook))});`;
    const { stderr } = minigpt4(['pretrain', '--help'], { NODE_OPTIONS: `--import ${dataUrl(register)}` });
    expect(stderr).toContain('/dist/cli/pretrain.js');
    expect(stderr).not.toContain('/dist/cli/pack.js');
    expect(stderr).not.toContain('node_modules');
  });

  it('--version prints the version of package.json', () => {
    expect(minigpt4(['--version'])).toMatchObject({ code: 0, stdout: '0.1.0\n', stderr: '' });
  });

  it.each([
    [['pretran'], 'minigpt4: unknown verb "pretran", did you mean "pretrain"?\n'],
    [['--fast'], 'minigpt4: the verb must come first, got "--fast" (minigpt4 --help)\n'],
    [
      ['pretrain', '--config', 'x', '--sett', 'y'],
      'minigpt4 pretrain: unknown option or argument "sett", did you mean --set? (minigpt4 pretrain --help)\n',
    ],
    [['pretrain'], 'minigpt4 pretrain: needs --config (minigpt4 pretrain --help)\n'],
    [
      ['pretrain', '--config'],
      'minigpt4 pretrain: --config must have a value, got none (minigpt4 pretrain --help)\n',
    ],
    [
      ['pretrain', '--config', 'a', '--config', 'b'],
      'minigpt4 pretrain: --config must be given once, got a and b (minigpt4 pretrain --help)\n',
    ],
    [
      ['pack', 'emoji', '--out', 'x', '--views', 'abc'],
      'minigpt4 pack: --views must be a whole number of at least 1, got "abc" (minigpt4 pack --help)\n',
    ],
    [
      ['setup', '--device', 'tpu'],
      'minigpt4 setup: --device must be one of "cpu", "gpu", got "tpu" (minigpt4 setup --help)\n',
    ],
    [['pack', '--out', 'x'], 'minigpt4 pack: needs <source> (minigpt4 pack --help)\n'],
    [['inspect', 'nowhere'], 'nowhere: no such file or folder (check the path)\n'],
  ])('%j is the user’s to mend: one message, exit code 2', (args, message) => {
    expect(minigpt4(args)).toEqual({ code: 2, stdout: '', stderr: message });
  });

  it('no verb at all lists them', () => {
    const { code, stderr } = minigpt4([]);
    expect(code).toBe(2);
    for (const name of names) expect(stderr).toContain(name);
  });

  it('names file, line and the nearest key where the configuration has an unknown one', async () => {
    const file = join(scratch, 'typo.yaml');
    await writeFile(file, 'train:\n  stage: pretrain\n  stepz: 3\n');
    const { code, stderr } = minigpt4(['pretrain', '--config', file]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/typo\.yaml:3:3: train\.stepz: unknown key, did you mean steps\?/);
    expect(stderr).not.toContain('    at ');
  });

  it('finetune refuses the configuration of the other stage', () => {
    const { code, stderr } = minigpt4(['finetune', '--config', 'configs/quickstart/stage1.yaml']);
    expect(code).toBe(2);
    expect(stderr).toMatch(/train\.stage: must be "finetune" for minigpt4 finetune, got "pretrain"/);
  });

  it('says to run set-up where the models are not there', () => {
    const { code, stderr } = minigpt4(['pretrain', '--config', 'configs/quickstart/stage1.yaml'], {
      MINIGPT4_CACHE: join(scratch, 'empty'),
    });
    expect(code).toBe(2);
    expect(stderr).toMatch(/vit-s14-focus must be set up first.*minigpt4 setup/);
  });

  it('doctor reports what is missing with exit code 2', () => {
    const { code, stdout } = minigpt4(['doctor'], { MINIGPT4_CACHE: join(scratch, 'empty') });
    expect(code).toBe(2);
    expect(stdout).toMatch(/^TensorFlow +not set up$/m);
    expect(stdout).toMatch(/^ {2}TensorFlow: run minigpt4 setup$/m);
  });

  it('config describes every field, and a reader that leaves early is no error', () => {
    expect(minigpt4(['config']).stdout).toMatch(/^train\.schedule\.peak {2}\(number > 0; required\)$/m);
    const command = `("${process.execPath}" bin/minigpt4.js config; echo "exit $?" >&2) | true`;
    expect(spawnSync('sh', ['-c', command], { encoding: 'utf8' }).stderr).toBe('exit 0\n');
  });
});
