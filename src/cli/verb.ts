/** How a verb of the command line is declared: its options typed from one object, its example checked by a test. */
import type { Argv, CommandModule, InferredOptionTypes, Options, PositionalOptions } from 'yargs';

import { UserError } from '../errors.js';

/** A verb's declaration; `run` gets its options by their names as they are typed. */
export interface VerbDeclaration<O extends Record<string, Options>> {
  /** The verb, and the positional arguments after it: `pack <source>`. */
  readonly command: string;
  /** One sentence. */
  readonly describe: string;
  /** Options and positional arguments (those named in `command`). */
  readonly options: O;
  /** A command line without the program's name that works on the quick start's files. */
  readonly example: string;
  run(options: InferredOptionTypes<O>): Promise<void>;
}

/** A verb as yargs takes it, and what the error messages need to know of it. */
export interface Verb {
  readonly name: string;
  /** The verb and its positional arguments. */
  readonly command: string;
  readonly describe: string;
  readonly options: Readonly<Record<string, Options>>;
  readonly example: string;
  readonly module: CommandModule;
}

/** Makes a verb of its declaration. */
export function verb<O extends Record<string, Options>>(declaration: VerbDeclaration<O>): Verb {
  const { command, describe, options, example } = declaration;
  const name = command.split(' ')[0] ?? command;
  const positional = new Set([...command.matchAll(/[<[](\w+)[>\]]/g)].map(([, argument = '']) => argument));
  const builder = (yargs: Argv): Argv => {
    for (const [key, option] of Object.entries(options)) {
      if (positional.has(key)) yargs.positional(key, positionalOf(option));
      else yargs.option(key, option);
    }
    return yargs;
  };
  return {
    name,
    command,
    describe,
    options,
    example,
    module: {
      command,
      describe,
      builder,
      // The border: yargs checked the arguments against the options from which this type is inferred
      handler: (args) => declaration.run(args as unknown as InferredOptionTypes<O>),
    },
  };
}

/** A text option, given at most once and never empty. */
export function text(name: string, describe: string) {
  return {
    type: 'string',
    requiresArg: true,
    describe,
    coerce: (given: unknown) => oneText(name, given),
  } as const;
}

/** A text option that must be given. */
export function requiredText(name: string, describe: string) {
  return { ...text(name, describe), demandOption: true } as const;
}

/** `--set`, for verbs that read a configuration file. */
export function settings(example: string) {
  return texts(`a value in place of the file's, as ${example}; may be given again`);
}

/** An option with a whole number, `minimum` at least. */
export function wholeNumber(name: string, describe: string, minimum: number) {
  return {
    type: 'string', // yargs' own numbers turn "abc" into NaN and say nothing
    requiresArg: true,
    describe,
    coerce: (given: unknown) => {
      const value = oneText(name, given);
      const number = /^\d+$/.test(value) ? Number(value) : NaN;
      if (Number.isSafeInteger(number) && number >= minimum) return number;
      throw new UserError(`--${name} must be a whole number of at least ${minimum}, got "${value}"`);
    },
  } as const;
}

/** An option with a number; `above`, `atLeast` and `atMost` bound it. */
export function decimal(
  name: string,
  describe: string,
  {
    above = -Infinity,
    atLeast = -Infinity,
    atMost = Infinity,
  }: { readonly above?: number; readonly atLeast?: number; readonly atMost?: number } = {},
) {
  const bounds = [
    above > -Infinity ? [`above ${above}`] : [],
    atLeast > -Infinity ? [`of at least ${atLeast}`] : [],
    atMost < Infinity ? [`${atLeast > -Infinity ? '' : 'of '}at most ${atMost}`] : [],
  ].flat();
  const rule = bounds.length > 0 ? ` ${bounds.join(' and ')}` : '';
  return {
    type: 'string', // as for whole numbers
    requiresArg: true,
    describe,
    coerce: (given: unknown) => {
      const value = oneText(name, given);
      const number = Number(value);
      if (Number.isFinite(number) && number > above && number >= atLeast && number <= atMost) return number;
      throw new UserError(`--${name} must be a number${rule}, got "${value}"`);
    },
  } as const;
}

/** A text option that may be given again. */
export function texts(describe: string) {
  return {
    type: 'string',
    array: true,
    nargs: 1,
    default: [] as string[], // yargs' type for a list that may be empty
    describe,
  } as const;
}

/** A switch, off unless given. */
export function flag(describe: string) {
  return { type: 'boolean', default: false, describe } as const;
}

function oneText(name: string, given: unknown): string {
  if (Array.isArray(given)) throw new UserError(`--${name} must be given once, got ${given.join(' and ')}`);
  const value = typeof given === 'number' ? String(given) : given;
  if (typeof value !== 'string' || value === '') throw new UserError(`--${name} must have a value, got none`);
  return value;
}

/** yargs takes fewer settings for a positional argument, and complains of others. */
function positionalOf({ describe = '', coerce = String }: Options): PositionalOptions {
  return { type: 'string', demandOption: true, describe, coerce };
}
