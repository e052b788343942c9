/** Checks a plain value against the schema, fills in the defaults, and says in plain words what is wrong. */
import { Ajv, type ErrorObject } from 'ajv';

import { fields } from './describe.js';
import { nearestName } from './nearest.js';
import { brokenRules, type Path, type Problem } from './rules.js';
import { ConfigSchema, type Config } from './schema.js';

/** A checked configuration, or everything that is wrong with it. */
export type Checked = { readonly config: Config } | { readonly problems: readonly Problem[] };

/** Checks `value` and fills its defaults in place. Rules between fields are only looked at when each field is right. */
export function validate(value: unknown): Checked {
  fillStageDefaults(value);
  const ajv = new Ajv({ allErrors: true, useDefaults: true, verbose: true, keywords: ['defaultText'] });
  const check = ajv.compile<Config>(ConfigSchema);
  if (!check(value)) return { problems: oneEach((check.errors ?? []).map(asProblem)) };
  const problems = brokenRules(value);
  return problems.length > 0 ? { problems } : { config: value };
}

/** `data.train[].prompt` defaults by stage: captions alone in `pretrain`, instructions in `finetune`. */
function fillStageDefaults(value: unknown): void {
  if (!isRecord(value) || !isRecord(value['data']) || !isRecord(value['train'])) return;
  const sources = value['data']['train'];
  if (!Array.isArray(sources)) return;
  const prompt = value['train']['stage'] === 'finetune' ? 'instruction' : 'none';
  for (const source of sources) if (isRecord(source)) source['prompt'] ??= prompt;
}

/** The first problem of each place: 0.5 for a whole number ≥ 1 is one mistake, not two. */
function oneEach(problems: readonly Problem[]): Problem[] {
  return [
    ...new Map(problems.toReversed().map((problem) => [problem.path.join('.'), problem])).values(),
  ].reverse();
}

function asProblem(error: ErrorObject): Problem {
  const path = pointerPath(error.instancePath);
  const params: Record<string, unknown> = error.params;
  if (error.keyword === 'additionalProperties')
    return unknownKey(path, String(params['additionalProperty']), error);
  if (error.keyword === 'required') {
    return { path: [...path, String(params['missingProperty'])], at: 'missing', text: 'is missing' };
  }
  return {
    path,
    at: 'value',
    text: `${ruleText(error.keyword, params)}, got ${show(error.data)}${hint(error)}`,
  };
}

function unknownKey(parent: Path, key: string, error: ErrorObject): Problem {
  const siblings = Object.keys(record(error.parentSchema)['properties'] ?? {});
  const elsewhere = fields().map(({ path }) => path);
  const meant = nearestName(key, siblings) ?? elsewhere.find((path) => path.split('.').at(-1) === key);
  const suggestion = meant === undefined ? `: known are ${siblings.join(', ')}` : `, did you mean ${meant}?`;
  return { path: [...parent, key], at: 'key', text: `unknown key${suggestion}` };
}

function ruleText(keyword: string, params: Record<string, unknown>): string {
  switch (keyword) {
    case 'type':
      return `must be ${typeName(String(params['type']))}`;
    case 'enum':
      return `must be ${list(params['allowedValues']).map(show).join(' or ')}`;
    case 'minLength':
      return 'must not be empty';
    case 'minItems':
      return 'must have at least one entry';
    default:
      return `must be ${String(params['comparison'])} ${String(params['limit'])}`;
  }
}

function typeName(type: string): string {
  const names: Record<string, string> = {
    string: 'text',
    integer: 'a whole number',
    number: 'a number',
    boolean: 'true or false',
    array: 'a list',
    object: 'a section (key: value)',
  };
  return names[type] ?? type;
}

/** What to do: the nearest choice, or quotes for text that YAML reads as a number, true or null. */
function hint(error: ErrorObject): string {
  const data: unknown = error.data;
  if (error.keyword === 'enum') {
    const meant = nearestName(String(data), list(record(error.params)['allowedValues']).map(String));
    return meant === undefined ? '' : `, did you mean ${show(meant)}?`;
  }
  const wantsText = error.keyword === 'type' && record(error.params)['type'] === 'string';
  if (wantsText && (typeof data === 'number' || typeof data === 'boolean')) return ` (write "${data}")`;
  return '';
}

function show(value: unknown): string {
  if (typeof value === 'number') return String(value);
  const text = JSON.stringify(value);
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/** `/data/train/0/weight` → data, train, 0, weight. */
function pointerPath(pointer: string): Path {
  const keys = pointer.split('/').slice(1);
  return keys.map((key) =>
    /^\d+$/.test(key) ? Number(key) : key.replaceAll('~1', '/').replaceAll('~0', '~'),
  );
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

const record = (value: unknown): Record<string, unknown> => (isRecord(value) ? value : {});

const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);
