/** The schema in words, for `minigpt4 config`, and its order, for the resolved copy in a run folder. */
import { stringify } from 'yaml';

import { ConfigSchema, type Config } from './schema.js';

/** One field of the configuration. */
export interface Field {
  /** Dotted path as in `--set`; `[]` stands for each entry of a list. */
  readonly path: string;
  /** Its type in words. */
  readonly type: string;
  /** Its default in words, or `required` or `optional`. */
  readonly fallback: string;
  readonly description: string;
}

/** What the description reads of a JSON schema. */
interface SchemaNode {
  readonly type?: string;
  readonly properties?: Readonly<Record<string, SchemaNode>>;
  readonly required?: readonly string[];
  readonly items?: SchemaNode;
  readonly enum?: readonly unknown[];
  readonly default?: unknown;
  readonly defaultText?: string;
  readonly description?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly exclusiveMaximum?: number;
}

/** First line of a run's `config.yaml`: by it a run folder is known. */
export const RESOLVED_HEADER = '# The resolved configuration of this run: the file, --set and the defaults.';

/** Every field of the configuration that holds a value, in the schema's order. */
export function fields(): Field[] {
  return fieldsOf(ConfigSchema, '');
}

/** Every field with its type, default and meaning, as `minigpt4 config` prints it. */
export function describeConfig(): string {
  const lines = fields().map(
    ({ path, type, fallback, description }) => `${path}  (${type}; ${fallback})\n    ${description}\n`,
  );
  return [ConfigSchema.description ?? '', '', ...lines].join('\n');
}

/** The whole configuration as YAML, in the schema's order: what a run folder keeps as `config.yaml`. */
export function resolvedYaml(config: Config): string {
  return `${RESOLVED_HEADER}\n` + stringify(inOrder(config, ConfigSchema), { lineWidth: 0 });
}

function fieldsOf(node: SchemaNode, prefix: string): Field[] {
  return Object.entries(node.properties ?? {}).flatMap(([name, child]) => {
    const path = prefix === '' ? name : `${prefix}.${name}`;
    if (child.properties) return fieldsOf(child, path);
    if (child.items?.properties) return fieldsOf(child.items, `${path}[]`);
    const required = node.required?.includes(name) ?? false;
    const description = child.description ?? '';
    return [{ path, type: typeWords(child), fallback: fallbackWords(child, required), description }];
  });
}

function typeWords(node: SchemaNode): string {
  if (node.enum) return node.enum.map(String).join(' | ');
  if (node.type === 'array') return `list of ${node.items ? typeWords(node.items) : 'anything'}`;
  const names: Record<string, string> = { string: 'text', integer: 'whole number', boolean: 'true | false' };
  return [names[node.type ?? ''] ?? node.type ?? '', ...bounds(node)].join(' ');
}

function bounds(node: SchemaNode): string[] {
  const signs = [
    ['≥', node.minimum],
    ['>', node.exclusiveMinimum],
    ['≤', node.maximum],
    ['<', node.exclusiveMaximum],
  ] as const;
  return signs.filter(([, limit]) => limit !== undefined).map(([sign, limit]) => `${sign} ${limit}`);
}

function fallbackWords(node: SchemaNode, required: boolean): string {
  if (node.default !== undefined) return `default ${JSON.stringify(node.default)}`;
  if (node.defaultText !== undefined) return `default ${node.defaultText}`;
  return required ? 'required' : 'optional';
}

function inOrder(value: unknown, node: SchemaNode): unknown {
  if (Array.isArray(value)) {
    const { items } = node;
    return items ? value.map((item: unknown) => inOrder(item, items)) : value;
  }
  const { properties } = node;
  if (typeof value !== 'object' || value === null || properties === undefined) return value;
  const given = new Map<string, unknown>(Object.entries(value));
  const ordered = Object.entries(properties).filter(([name]) => given.get(name) !== undefined);
  return Object.fromEntries(ordered.map(([name, child]) => [name, inOrder(given.get(name), child)]));
}
