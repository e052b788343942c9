/**
 * The README's commands on a clean checkout: nothing in any cache, an empty user configuration of npm; a second time
 * without node_modules and without a network; and the packed package in an empty project elsewhere.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ROOT, run } from '../commands.js';

const MINUTES = 60_000;
let root: string;
let clone: string;
let env: NodeJS.ProcessEnv;

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'minigpt4-fresh-'));
  clone = join(root, 'clone');
  mkdirSync(join(root, 'home'));
  writeFileSync(join(root, 'home', '.npmrc'), '');
  // The working tree as git would hand it out, so that the test sees what is about to be committed.
  execFileSync(
    'bash',
    [
      '-c',
      `mkdir -p "${clone}" && git ls-files -z -co --exclude-standard | xargs -0 cp --parents -t "${clone}"`,
    ],
    { cwd: ROOT },
  );
  const ours = /^(npm_|VITEST|NODE_ENV|MINIGPT4_CACHE|XDG_CACHE_HOME)/i;
  const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !ours.test(name)));
  env = {
    ...inherited,
    HOME: join(root, 'home'),
    npm_config_userconfig: join(root, 'home', '.npmrc'),
    npm_config_cache: join(root, 'npm-cache'),
  };
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** The command in a network namespace of its own, which has no way out; else behind proxies that do not exist. */
function withoutNetwork(command: string, args: readonly string[]): [string, string[], NodeJS.ProcessEnv] {
  if (spawnSync('unshare', ['--net', 'true']).status === 0)
    return ['unshare', ['--net', command, ...args], env];
  const nowhere = 'http://127.0.0.1:9';
  return [
    command,
    [...args],
    { ...env, HTTP_PROXY: nowhere, HTTPS_PROXY: nowhere, http_proxy: nowhere, https_proxy: nowhere },
  ];
}

describe('a fresh clone', () => {
  it(
    'npm ci && npm run quickstart: sets everything up, trains, exports, evaluates, inside the band',
    async () => {
      await run('npm', ['ci'], { cwd: clone, env });
      const { stdout, stderr, seconds } = await run('npm', ['run', 'quickstart'], { cwd: clone, env });
      expect(stdout).toMatch(/pretrain: \d+ held-out|stage 1 on 91 held-out/);
      console.log(
        `quickstart in a fresh clone, downloads and compilation included: ${Math.round(seconds)} s\n${stdout.slice(-4000)}`,
      );
      const waits = [...stderr.matchAll(/waited for data: ([\d.]+) %/g)].map(([, percent]) =>
        Number(percent),
      );
      console.log(`time of the steps spent waiting for data: ${waits.join(' % and ')} %`);
      expect(waits).toHaveLength(2);
      expect(Math.max(...waits)).toBeLessThan(2);
      const minutes = Number(/without set-up +([\d.]+)/.exec(stdout)?.[1]);
      // The aim is 8 where bfloat16 is native; float32 on two busy AVX2-only cores took 11, and neighbours may take a quarter
      expect(minutes).toBeLessThan(stdout.includes('(bfloat16)') ? 8 : 15);
      for (const stage of ['stage1', 'stage2']) {
        const report = readFileSync(
          join(clone, 'runs', 'quickstart', stage, 'evaluation', 'report.html'),
          'utf8',
        );
        expect(report.match(/<img src="data:image\/webp;base64,/g)?.length).toBe(91);
        expect(report).not.toMatch(/https?:\/\//);
      }
      expect(existsSync(join(clone, 'runs', 'quickstart', 'projection.safetensors'))).toBe(true);
    },
    40 * MINUTES,
  );

  it(
    'does it again without node_modules and without a network, and finds the work done',
    async () => {
      for (const folder of ['node_modules', 'dist']) rmSync(join(clone, folder), { recursive: true });
      for (const args of [
        ['ci'],
        ['run', 'setup'],
        ['run', '-s', 'minigpt4', '--', 'pretrain', '--config', 'configs/quickstart/stage1.yaml'],
      ]) {
        const [command, rest, offline] = withoutNetwork('npm', args);
        await run(command, rest, { cwd: clone, env: offline });
      }
    },
    10 * MINUTES,
  );

  it(
    'installs as a package in an empty project, sets up, packs and trains there',
    async () => {
      const project = join(root, 'project');
      mkdirSync(project);
      await run('npm', ['pack', '--pack-destination', project], { cwd: clone, env });
      const [tarball = ''] = readdirSync(project);
      writeFileSync(
        join(project, 'package.json'),
        '{ "name": "elsewhere", "private": true, "type": "module" }',
      );
      await run('npm', ['install', `./${tarball}`], { cwd: project, env });
      const minigpt4 = (...args: string[]): ReturnType<typeof run> =>
        run('npx', ['--no-install', 'minigpt4', ...args], { cwd: project, env });
      await minigpt4('setup');
      await minigpt4('pack', 'emoji', '--out', 'shards/quickstart', '--views', '1');
      const config = join('node_modules', 'minigpt4-align', 'configs', 'quickstart', 'stage1.yaml');
      const short = [
        'train.steps=2',
        'train.schedule.warmupSteps=1',
        'data.train.0.maxRows=8',
        'train.batchSize=4',
        'train.microBatchSize=4',
      ];
      await minigpt4('pretrain', '--config', config, ...short.flatMap((value) => ['--set', value]));
      expect(
        existsSync(
          join(
            project,
            'runs',
            'quickstart',
            'stage1',
            'checkpoints',
            'step-00000002',
            'projection.safetensors',
          ),
        ),
      ).toBe(true);
      await run(
        'node',
        [
          '--input-type=module',
          '-e',
          "import { loadConfig } from 'minigpt4-align'; const c = await loadConfig(process.argv[1]); if (c.train.stage !== 'pretrain') process.exit(1)",
          config,
        ],
        { cwd: project, env },
      );
    },
    10 * MINUTES,
  );
});
