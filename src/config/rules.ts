/** Rules between the fields of a configuration that a JSON schema cannot say. */
import type { Config } from './schema.js';

/** A path into a configuration: keys and list positions. */
export type Path = readonly (string | number)[];

/** Something wrong with a configuration: where, and the rule with what came. */
export interface Problem {
  readonly path: Path;
  /** `key`: the key itself is wrong; `value`: its value; `missing`: it is not there. */
  readonly at: 'key' | 'value' | 'missing';
  readonly text: string;
}

/** Every broken rule between fields of a configuration that fits the schema. */
export function brokenRules(config: Config): Problem[] {
  return [
    ...projectionRules(config),
    ...trainRules(config),
    ...scheduleRules(config),
    ...promptRules(config),
  ];
}

function projectionRules({ model: { projection } }: Config): Problem[] {
  if (projection.init !== 'captions' || projection.kind === 'linear') return [];
  const rule = `must be torch or embedding-rms for kind ${projection.kind}, got "captions" (a regression gives one linear layer)`;
  return [wrong(['model', 'projection', 'init'], rule)];
}

function trainRules({ train, run }: Config): Problem[] {
  const problems: Problem[] = [];
  if (train.batchSize % train.microBatchSize !== 0) {
    const rule = `must divide train.batchSize (${train.batchSize}), got ${train.microBatchSize}`;
    problems.push(wrong(['train', 'microBatchSize'], rule));
  }
  if (train.stage === 'finetune' && train.initFrom === undefined) {
    const rule =
      'is missing: stage "finetune" starts from a stage-1 run, checkpoint or projection.safetensors';
    problems.push({ path: ['train', 'initFrom'], at: 'missing', text: rule });
  }
  if (train.initFrom !== undefined && trimSlash(train.initFrom) === trimSlash(run.folder)) {
    problems.push(
      wrong(['train', 'initFrom'], `must be another run than run.folder, got ${quote(train.initFrom)}`),
    );
  }
  return problems;
}

function scheduleRules({ train }: Config): Problem[] {
  const { peak, floor, start, warmupSteps, kind, stepsPerEpoch, totalSteps = train.steps } = train.schedule;
  const problems: Problem[] = [];
  const check = (holds: boolean, field: string, rule: string) => {
    if (!holds) problems.push(wrong(['train', 'schedule', field], rule));
  };
  check(
    warmupSteps <= totalSteps,
    'warmupSteps',
    `must be at most the ${totalSteps} steps of the schedule, got ${warmupSteps}`,
  );
  check(
    totalSteps >= train.steps,
    'totalSteps',
    `must be at least train.steps (${train.steps}), got ${totalSteps}`,
  );
  check(floor <= peak, 'floor', `must be at most peak (${peak}), got ${floor}`);
  check(start <= peak, 'start', `must be at most peak (${peak}), got ${start}`);
  if (kind === 'reference' && stepsPerEpoch === undefined) {
    const text = 'is missing: kind "reference" restarts its warm-up with each epoch';
    problems.push({ path: ['train', 'schedule', 'stepsPerEpoch'], at: 'missing', text });
  }
  check(
    kind === 'reference' || stepsPerEpoch === undefined,
    'stepsPerEpoch',
    `is for kind "reference" only, got ${stepsPerEpoch}`,
  );
  return problems;
}

function promptRules({ prompt, data }: Config): Problem[] {
  const problems: Problem[] = [];
  const once = (text: string, mark: string) => text.split(mark).length === 2;
  if (prompt.template !== '' && !once(prompt.template, '{}')) {
    problems.push(wrong(['prompt', 'template'], `must contain {} once, got ${quote(prompt.template)}`));
  }
  prompt.questions.forEach((question, index) => {
    if (once(question, '<ImageHere>')) return;
    problems.push(
      wrong(['prompt', 'questions', index], `must contain <ImageHere> once, got ${quote(question)}`),
    );
  });
  const asking = data.train.findIndex((source) => source.prompt === 'instruction');
  if (asking < 0) return problems;
  const why = `data.train.${asking}.prompt is "instruction" (the default of stage "finetune")`;
  if (prompt.template === '') problems.push(wrong(['prompt', 'template'], `must not be empty: ${why}`));
  if (prompt.questions.length === 0)
    problems.push(wrong(['prompt', 'questions'], `must not be empty: ${why}`));
  return problems;
}

function wrong(path: Path, text: string): Problem {
  return { path, at: 'value', text };
}

const quote = (text: string) => JSON.stringify(text);

const trimSlash = (path: string) => path.replace(/\/+$/, '');
