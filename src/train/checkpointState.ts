/** `state.json` of a checkpoint: where the run stood, and what it stood on. */
import { cpus } from 'node:os';

import { Type, type Static } from '@sinclair/typebox';
import { Ajv } from 'ajv';

import { UserError } from '../errors.js';

const Text = Type.String();

const State = Type.Object({
  seed: Type.Integer(),
  /** SHA-256 of the resolved configuration. */
  configSha256: Text,
  versions: Type.Object({ node: Text, package: Text, tensorflow: Text }),
  /** CPU kind: bits are only promised on the same one. */
  cpu: Text,
  /** Arithmetic of the frozen parts: `float32` or `bfloat16`. */
  precision: Text,
  /** Intra-op threads that TensorFlow ran with; 0 in older checkpoints: all cores. */
  threads: Type.Integer(),
  /** What the guard of the steps compares the next loss with (guard.ts); older checkpoints have none. */
  guard: Type.Optional(
    Type.Object({ losses: Type.Array(Type.Number()), skipped: Type.Integer({ minimum: 0 }) }),
  ),
  /** Samples up to this step that were bad and replaced, for the budget; older checkpoints do not say. */
  replaced: Type.Optional(Type.Integer({ minimum: 0 })),
  /** The evaluation after this step is not done: it is when the run resumes. */
  evaluationDue: Type.Optional(Type.Boolean()),
  /** SHA-256 of what it was trained with: `encoder`, `qformer`, `llm`, `tokenizer`, `prompt` (identity.ts). */
  parts: Type.Record(Text, Text),
});

const Stored = Type.Intersect([
  State,
  Type.Object({
    formatVersion: Type.Literal(1),
    step: Type.Integer({ minimum: 0 }),
    /** SHA-256 of the other files of the checkpoint, by name. */
    sha256: Type.Record(Text, Text),
  }),
]);

/** What the loop records with a checkpoint: seed, versions, machine, hashes of the frozen parts. */
export type CheckpointState = Static<typeof State>;

/** `state.json` as it is stored: the state with format version, step and the hashes of the other files. */
export type StoredState = Static<typeof Stored>;

/** Parses `state.json`. @throws UserError if it is damaged or of an unknown format */
export function parseState(text: string, file: string): StoredState {
  const value = parseJson(text, file);
  const version: unknown =
    typeof value === 'object' && value !== null && 'formatVersion' in value ? value.formatVersion : 0;
  if (version !== 1) {
    const advice = 'it was written by another version of minigpt4-align';
    throw new UserError(`${file}: formatVersion must be 1, got ${JSON.stringify(version)} (${advice})`);
  }
  const ajv = new Ajv();
  const fits = ajv.compile<StoredState>(Stored);
  if (fits(value)) return value;
  throw new UserError(`${file}: is damaged: ${ajv.errorsText(fits.errors, { dataVar: 'state' })}`);
}

/** The CPU kind as the system names it, for `CheckpointState.cpu`. */
export function cpuKind(): string {
  return cpus()[0]?.model ?? 'unknown';
}

/**
 * What differs between the machine and model that a checkpoint was made with and the present ones, a line each; where
 * something does, a resumed run may differ from the unbroken one in its last bits (or, for `parts`, wholly).
 */
export function stateDifferences(saved: CheckpointState, now: CheckpointState): string[] {
  const facts = ({ cpu, precision, threads, versions, parts }: CheckpointState): Record<string, string> => ({
    cpu,
    precision,
    threads: String(threads),
    ...prefixed('version of ', versions),
    ...prefixed('SHA-256 of ', parts),
  });
  const threads = saved.threads || now.threads; // 0 tells nothing of how many there were
  const [before, after] = [facts({ ...saved, threads }), facts(now)];
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])];
  return names
    .filter((name) => before[name] !== after[name])
    .map((name) => `${name}: ${before[name] ?? 'none'} in the checkpoint, ${after[name] ?? 'none'} now`);
}

function prefixed(prefix: string, values: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [prefix + name, value]));
}

function parseJson(text: string, file: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new UserError(`${file}: is damaged: it must be JSON, got ${JSON.stringify(text.slice(0, 40))}`, {
      cause,
    });
  }
}
