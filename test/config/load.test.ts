import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { describeConfig, fields, resolvedYaml } from '../../src/config/describe.js';
import { loadConfig, parseConfig, type ConfigOptions } from '../../src/config/load.js';
import { UserError } from '../../src/errors.js';

const small = `data:
  train:
    - shards: shards/a
train:
  stage: pretrain
  steps: 100
  batchSize: 8
  microBatchSize: 4
  schedule:
    peak: 1e-3
run:
  folder: runs/a
`;

function messageOf(text: string, options?: ConfigOptions): string {
  try {
    parseConfig(text, 'c.yaml', options);
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return error instanceof Error ? error.message : '';
  }
  return 'no error';
}

describe('a configuration file', () => {
  it('fills every default', () => {
    const config = parseConfig(small, 'c.yaml');
    expect(config.model).toEqual({
      encoder: 'vit-s14-focus',
      imageSize: 224,
      tokens: { kind: 'grid', grid: 2, cls: true, concat: 1 },
      llm: 'smollm2-135m-instruct',
      precision: 'auto',
      identity: 'strict',
      threads: 0,
      concurrency: 1,
      projection: { kind: 'linear', standardise: false, layerNorm: false, init: 'torch', initialScale: 1 },
    });
    expect(config.data).toEqual({
      train: [{ shards: 'shards/a', weight: 1, prompt: 'none' }],
      draw: 'sample',
      captions: 'clean',
      transform: 'resize',
      maxBadFraction: 0.01,
      prefetch: 4,
      workers: 2,
      featureCache: true,
      featureCacheGB: 50,
      verifyCache: 0,
      order: 'shuffle',
      window: 4096,
    });
    expect(config.train.optimizer).toEqual({ beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.05 });
    expect(config.train.schedule).toEqual({ kind: 'cosine', peak: 1e-3, floor: 0, start: 0, warmupSteps: 0 });
    expect(config.prompt.endSymbol).toBe('\n');
    expect(config.run).toEqual({ folder: 'runs/a', seed: 0 });
  });

  it('asks instructions in stage finetune unless a source says otherwise', () => {
    const text = small
      .replace('stage: pretrain', 'stage: finetune\n  initFrom: runs/b')
      .replace(
        '- shards: shards/a',
        '- shards: shards/a\n    - { shards: shards/b, prompt: none, weight: 0.5 }',
      )
      .concat('prompt: { template: "Q {} A", questions: ["<ImageHere> what?"] }\n');
    expect(parseConfig(text, 'c.yaml').data.train).toEqual([
      { shards: 'shards/a', weight: 1, prompt: 'instruction' },
      { shards: 'shards/b', weight: 0.5, prompt: 'none' },
    ]);
  });

  it('written resolved and read again is the same, in the order of the schema', () => {
    const config = parseConfig(small, 'c.yaml', { set: ['prompt.template=a {} "b"\\n', 'run.seed=7'] });
    const yaml = resolvedYaml(config);
    expect(parseConfig(yaml, 'config.yaml')).toEqual(config);
    expect(yaml.split('\n').filter((line) => /^\w/.test(line))).toEqual([
      'model:',
      'data:',
      'prompt:',
      'train:',
      'evaluate:',
      'run:',
    ]);
  });
});

describe('errors of a configuration name the place', () => {
  it('of an unknown key, at the key, with the nearest name', () => {
    expect(messageOf(small.replace('  steps: 100', '  stepz: 100\n  steps: 100'))).toBe(
      'c.yaml:6:3: train.stepz: unknown key, did you mean steps?',
    );
    expect(messageOf(small.replace('  steps: 100', '  batch_size: 4\n  steps: 100'))).toBe(
      'c.yaml:6:3: train.batch_size: unknown key, did you mean batchSize?',
    );
  });

  it('of a known key in the wrong section, with its full path', () => {
    expect(messageOf(`${small}maxGradNorm: 1\n`)).toBe(
      'c.yaml:13:1: maxGradNorm: unknown key, did you mean train.maxGradNorm?',
    );
  });

  it('of a wrong type, at the value', () => {
    expect(messageOf(small.replace('steps: 100', 'steps: many'))).toBe(
      'c.yaml:6:10: train.steps: must be a whole number, got "many"',
    );
    expect(messageOf(small.replace('shards: shards/a', 'shards: 12'))).toBe(
      'c.yaml:3:15: data.train.0.shards: must be text, got 12 (write "12")',
    );
  });

  it('of a number out of range', () => {
    expect(messageOf(small.replace('peak: 1e-3', 'peak: 0'))).toBe(
      'c.yaml:10:11: train.schedule.peak: must be > 0, got 0',
    );
  });

  it('of a choice, with the nearest', () => {
    expect(messageOf(small.replace('stage: pretrain', 'stage: pre-train'))).toBe(
      'c.yaml:5:10: train.stage: must be "pretrain" or "finetune", got "pre-train", did you mean "pretrain"?',
    );
  });

  it('of a missing key, at the section it belongs to', () => {
    expect(messageOf(small.replace('  batchSize: 8\n', ''))).toBe('c.yaml:4:1: train.batchSize: is missing');
    expect(messageOf(small.replace('run:\n  folder: runs/a\n', ''))).toBe('c.yaml:1:1: run: is missing');
    expect(messageOf('')).toContain('c.yaml:1:1: data: is missing');
  });

  it('all at once, in the order of the file', () => {
    const text = small.replace('steps: 100', 'steps: 0').replace('shards: ', 'shard: ');
    expect(messageOf(text).split('\n')).toEqual([
      'c.yaml:3:7: data.train.0.shard: unknown key, did you mean shards?',
      'c.yaml:3:7: data.train.0.shards: is missing',
      'c.yaml:6:10: train.steps: must be >= 1, got 0',
    ]);
  });

  it('of YAML itself', () => {
    expect(messageOf('train: [1, 2\nrun: {}\n')).toMatch(/^c\.yaml:\d+:\d+: YAML: /);
    expect(messageOf(`${small}run: {}\n`)).toMatch(/^c\.yaml:13:1: YAML: Map keys must be unique/);
    expect(messageOf('just text')).toBe('c.yaml:1:1: must be a section (key: value), got "just text"');
  });

  it('of a value behind an alias, where it is used', () => {
    const text = small.replace('  steps: 100', '  steps: &n many').replace('batchSize: 8', 'batchSize: *n');
    expect(messageOf(text).split('\n')).toEqual([
      'c.yaml:6:13: train.steps: must be a whole number, got "many"',
      'c.yaml:7:14: train.batchSize: must be a whole number, got "many"',
    ]);
  });

  it('of a file that is not there', async () => {
    await expect(loadConfig('no/such.yaml')).rejects.toThrow(
      /^no\/such\.yaml: the configuration file must be readable/,
    );
  });
});

describe('rules between fields', () => {
  const cases: [string, string, string, string][] = [
    [
      'micro-batches fill a batch',
      'microBatchSize: 4',
      'microBatchSize: 3',
      'c.yaml:8:19: train.microBatchSize: must divide train.batchSize (8), got 3',
    ],
    [
      'the warm-up ends',
      'peak: 1e-3',
      'warmupSteps: 101\n    peak: 1',
      'c.yaml:10:18: train.schedule.warmupSteps: must be at most the 100 steps of the schedule, got 101',
    ],
    [
      'the floor lies below the peak',
      'peak: 1e-3',
      'peak: 1e-3\n    floor: 1e-2',
      'c.yaml:11:12: train.schedule.floor: must be at most peak (0.001), got 0.01',
    ],
    [
      'the start lies below the peak',
      'peak: 1e-3',
      'peak: 1e-3\n    start: 1e-2',
      'c.yaml:11:12: train.schedule.start: must be at most peak (0.001), got 0.01',
    ],
    [
      'the schedule is as long as the run',
      'peak: 1e-3',
      'peak: 1e-3\n    totalSteps: 9',
      'c.yaml:11:17: train.schedule.totalSteps: must be at least train.steps (100), got 9',
    ],
    [
      'the reference has epochs',
      'peak: 1e-3',
      'peak: 1e-3\n    kind: reference',
      'c.yaml:9:3: train.schedule.stepsPerEpoch: is missing: kind "reference" restarts its warm-up with each epoch',
    ],
    [
      'a cosine has none',
      'peak: 1e-3',
      'peak: 1e-3\n    stepsPerEpoch: 5',
      'c.yaml:11:20: train.schedule.stepsPerEpoch: is for kind "reference" only, got 5',
    ],
    [
      'a template takes a question',
      'run:',
      'prompt: { template: "a" }\nrun:',
      'c.yaml:11:21: prompt.template: must contain {} once, got "a"',
    ],
    [
      'a question shows the image',
      'run:',
      'prompt:\n  questions: ["<ImageHere> a", b]\nrun:',
      'c.yaml:12:32: prompt.questions.1: must contain <ImageHere> once, got "b"',
    ],
    [
      'instructions need questions',
      '- shards: shards/a',
      '- { shards: a, prompt: instruction }',
      'prompt.questions: must not be empty: data.train.0.prompt is "instruction"',
    ],
    [
      'finetune starts from stage 1',
      'stage: pretrain',
      'stage: finetune',
      'c.yaml:4:1: train.initFrom: is missing: stage "finetune" starts from',
    ],
    [
      'a regression gives one linear layer',
      'run:',
      'model: { projection: { init: captions, kind: linear3 } }\nrun:',
      'model.projection.init: must be torch or embedding-rms for kind linear3, got "captions"',
    ],
    [
      'a run does not start from itself',
      'stage: pretrain',
      'stage: pretrain\n  initFrom: runs/a/',
      'c.yaml:6:13: train.initFrom: must be another run than run.folder, got "runs/a/"',
    ],
  ];
  it.each(cases)('%s', (_name, from, to, message) => {
    expect(messageOf(small.replace(from, to))).toContain(message);
  });
});

describe('--set', () => {
  it('overrides the file with YAML values, the last one winning', () => {
    const set = [
      'train.steps=7',
      'train.steps=9',
      'data.train.0.weight=0.5',
      'model.tokens={kind: all, cls: false}',
      'prompt.endSymbol="###"',
      'prompt.captionPrefix=',
    ];
    const config = parseConfig(small, 'c.yaml', { set });
    expect(config.train.steps).toBe(9);
    expect(config.data.train[0]?.weight).toBe(0.5);
    expect(config.model.tokens).toEqual({ kind: 'all', grid: 2, cls: false, concat: 1 });
    expect(config.prompt.endSymbol).toBe('###');
    expect(config.prompt.captionPrefix).toBe('');
  });

  it('appends to a list, and null puts a field back to its default', () => {
    const set = ['data.train.1.shards=shards/b', 'train.schedule.floor=1e-4', 'train.schedule.floor=null'];
    const config = parseConfig(small, 'c.yaml', { set });
    expect(config.data.train.map(({ shards }) => shards)).toEqual(['shards/a', 'shards/b']);
    expect(config.train.schedule.floor).toBe(0);
  });

  const cases: [string, string][] = [
    ['train.stepz=3', '--set train.stepz=3: train.stepz: unknown key, did you mean steps?'],
    ['train.steps=x', '--set train.steps=x: train.steps: must be a whole number, got "x"'],
    [
      'train.microBatchSize=3',
      '--set train.microBatchSize=3: train.microBatchSize: must divide train.batchSize (8), got 3',
    ],
    ['trian.steps=3', '--set trian.steps=3: trian: unknown key, did you mean train?'],
    ['train', '--set train: must look like a.b=value'],
    ['train.=3', '--set train.=3: must look like a.b=value'],
    ['run.seed.x=3', '--set run.seed.x=3: run.seed: must be a whole number, got {"x":3}'],
    ['train.steps.x=3', '--set train.steps.x=3: train.steps: must be a section, got 100'],
    [
      'data.train.5.shards=x',
      '--set data.train.5.shards=x: data.train: must be given a position from 0 to 1, got 5',
    ],
    ['__proto__.x=3', '--set __proto__.x=3: __proto__: unknown key'],
    ['run.folder=12', '--set run.folder=12: run.folder: must be text, got 12 (write "12")'],
  ];
  it.each(cases)('%s is refused with its own text as the place', (set, message) => {
    expect(messageOf(small, { set: [set] })).toContain(message);
    expect(({} as Record<string, unknown>)['x']).toBeUndefined();
  });

  it('of broken YAML is refused', () => {
    expect(messageOf(small, { set: ['train=[1'] })).toMatch(/^--set train=\[1: YAML: /);
  });
});

describe('the stage of the verb', () => {
  it('must be the one of the file', () => {
    expect(messageOf(small, { expectedStage: 'finetune' })).toBe(
      'c.yaml:5:10: train.stage: must be "finetune" for minigpt4 finetune, got "pretrain" (run minigpt4 pretrain)',
    );
    expect(parseConfig(small, 'c.yaml', { expectedStage: 'pretrain' }).train.stage).toBe('pretrain');
  });
});

describe('the description', () => {
  it('has a sentence for every field', () => {
    expect(fields().filter(({ description }) => description.length < 4)).toEqual([]);
    expect(fields().length).toBeGreaterThan(50);
  });

  it('shows type, default and meaning', () => {
    const text = describeConfig();
    expect(text).toContain(
      'model.precision  (auto | bfloat16 | float32; default "auto")\n    of the frozen weights',
    );
    expect(text).toContain('data.train[].weight  (number > 0; default 1)');
    expect(text).toContain('train.steps  (whole number ≥ 1; required)');
    expect(text).toContain(
      'data.train[].prompt  (none | instruction; default none in stage pretrain, instruction in stage',
    );
  });
});

describe('the shipped configurations', () => {
  const folder = join(import.meta.dirname, '../../configs/quickstart');
  it.each(readdirSync(folder))('%s is valid', (name) => {
    const config = parseConfig(readFileSync(join(folder, name), 'utf8'), name);
    expect(config.train.stage).toBe(name === 'stage1.yaml' ? 'pretrain' : 'finetune');
    expect(config.run.folder).toBe(`runs/quickstart/${name.replace('.yaml', '')}`);
  });
});
