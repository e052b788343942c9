/** The command line: finds the verb, runs it, and turns what goes wrong into a message and an exit code. */
import { nearestName } from '../config/nearest.js';
import { UserError } from '../errors.js';
import { packageVersion } from '../version.js';
import { programHelp, verbHelp } from './help.js';
import type { Verb } from './verb.js';

/** All verbs, in the order in which one meets them. A verb is loaded when it is called, its work only when it runs. */
export const verbs: Readonly<Record<string, () => Promise<Verb>>> = {
  setup: async () => (await import('./setup.js')).setup,
  doctor: async () => (await import('./doctor.js')).doctor,
  pack: async () => (await import('./pack.js')).pack,
  inspect: async () => (await import('./inspect.js')).inspect,
  'merge-delta': async () => (await import('./mergeDelta.js')).mergeDeltaVerb,
  pretrain: async () => (await import('./pretrain.js')).pretrain,
  finetune: async () => (await import('./pretrain.js')).finetune,
  export: async () => (await import('./export.js')).exportVerb,
  evaluate: async () => (await import('./evaluate.js')).evaluate,
  chat: async () => (await import('./chat.js')).chatVerb,
  config: async () => (await import('./config.js')).config,
};

/** Exit codes: 0 done, 1 our bug, 2 the user's to mend; 130 and 143 after a signal (train.ts). */
const EXIT = { bug: 1, user: 2 };

/** Runs a command line (without node and the program's name); failures set the process's exit code. */
export async function main(argv: readonly string[]): Promise<void> {
  outliveBrokenPipes();
  try {
    requireVerb(argv);
    const called = await verbs[argv[0] ?? '']?.();
    if (called === undefined) await answer(argv);
    else if (argv.includes('--help')) console.log(verbHelp(called));
    else await run(called, argv);
  } catch (error) {
    process.exitCode = report(error);
  }
}

/** `minigpt4 --help` and `minigpt4 --version`. */
async function answer([first = '']: readonly string[]): Promise<void> {
  if (first === '--version') console.log(packageVersion);
  else if (first === '--help')
    console.log(programHelp(await Promise.all(Object.values(verbs).map((load) => load()))));
  else throw new UserError(`minigpt4: the verb must come first, got "${first}" (minigpt4 --help)`);
}

async function run(verb: Verb, argv: readonly string[]): Promise<void> {
  const { default: yargs } = await import('yargs');
  await yargs([...argv])
    .command(verb.module)
    .help(false)
    .version(false)
    .locale('en')
    .parserConfiguration({ 'dot-notation': false })
    .exitProcess(false)
    .showHelpOnFail(false)
    .fail((message: string, error: Error | undefined) => {
      // yargs' own words come without an error, or with a YError; a verb's error goes on as it is
      throw error && error.name !== 'YError' ? error : new UserError(usageMessage(message, verb));
    })
    .strict()
    .parseAsync();
}

/** Says what is meant where the first argument is no verb. */
function requireVerb([first]: readonly string[]): void {
  const names = Object.keys(verbs);
  if (first !== undefined && (first.startsWith('-') || names.includes(first))) return;
  const list = `verbs are ${names.join(', ')}`;
  if (first === undefined) throw new UserError(`minigpt4: needs a verb, got none (${list}; minigpt4 --help)`);
  const near = nearestName(first, names);
  throw new UserError(
    `minigpt4: unknown verb "${first}"${near ? `, did you mean "${near}"?` : ` (${list})`}`,
  );
}

function report(error: unknown): number {
  if (error instanceof UserError) {
    console.error(error.message);
    return EXIT.user;
  }
  console.error(error instanceof Error ? error.stack : error);
  for (
    let cause = error instanceof Error ? error.cause : undefined;
    cause instanceof Error;
    cause = cause.cause
  ) {
    console.error(`caused by ${cause.stack ?? cause.message}`);
  }
  return EXIT.bug;
}

/** yargs' words in ours, with the nearest option where one is mistyped. */
function usageMessage(message: string, { name: verb, command, options }: Verb): string {
  const where = `minigpt4 ${verb}`;
  const help = `(${where} --help)`;
  const unknown = /^Unknown arguments?: (.*)$/.exec(message)?.[1]?.split(', ');
  if (unknown) {
    const known = [...Object.keys(options).filter((name) => !command.includes(`<${name}>`)), 'help'];
    const words = unknown.map((name) => {
      const near = nearestName(name, known);
      return `unknown option or argument "${name}"${near ? `, did you mean --${near}?` : ''}`;
    });
    return `${where}: ${words.join('; ')} ${help}`;
  }
  const missing = /^Missing required arguments?: (.*)$/.exec(message)?.[1];
  if (missing) return `${where}: needs --${missing.replaceAll(', ', ' and --')} ${help}`;
  const valueless = /^Not enough arguments following: (.*)$/.exec(message)?.[1];
  if (valueless) return `${where}: --${valueless} must have a value, got none ${help}`;
  if (message.startsWith('Not enough non-option arguments')) {
    return `${where}: needs ${command.slice(verb.length + 1)} ${help}`;
  }
  const choice = /Argument: (\S+), Given: (.*), Choices: (.*)/.exec(message);
  if (choice) return `${where}: --${choice[1]} must be one of ${choice[3]}, got ${choice[2]} ${help}`;
  return `${where}: ${message.replaceAll('\n', ' ')} ${help}`;
}

/** `minigpt4 inspect … | head` ends quietly; a run whose terminal is gone goes on. */
function outliveBrokenPipes(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(); // nobody reads the rest
    throw error;
  });
  process.stderr.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE' && error.code !== 'EIO') throw error;
  });
}
