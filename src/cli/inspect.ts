/** `minigpt4 inspect` */
import { CHUNK_ROWS } from '../data/order/order.js';
import { UserError } from '../errors.js';
import { onStopSignals, SIGNAL_CODES, type StopSignal } from './signals.js';
import { decimal, flag, requiredText, text, verb, wholeNumber } from './verb.js';

/** Shows what is inside a file or folder. */
export const inspect = verb({
  command: 'inspect <path>',
  describe:
    'Shows what a shard, weights file, model folder, checkpoint or run holds, and verifies its checksums.',
  options: {
    path: requiredText(
      'path',
      'an .arrow, .safetensors or .gguf file, a folder of shards, a model, checkpoint or run, or the http(s) address of a shard or of a folder with manifest.json',
    ),
    samples: wholeNumber('samples', 'pairs of a shard that are shown; 3 if not given', 0),
    verify: { type: 'boolean', default: true, describe: 'do not read all data of shards to verify it' },
    lint: flag(
      'instead: decode every image of shards and look at every caption as training would, and say what is bad; ends with code 2 where more of the rows is bad than data.maxBadFraction, or a row cannot be read',
    ),
    shuffle: flag(
      'instead: measure how well the orders of data.order mix the shards, beside a full shuffle of the same rows',
    ),
    window: wholeNumber('window', 'with --shuffle: as data.window; its default if not given', CHUNK_ROWS),
    'batch-size': wholeNumber('batch-size', 'with --shuffle: samples of a batch; 64 if not given', 1),
    workers: wholeNumber(
      'workers',
      'with --lint: images decoded at the same time; as many as there are cores if not given',
      1,
    ),
    captions: {
      describe: 'with --lint: as data.captions; clean if not given',
      requiresArg: true,
      choices: ['clean', 'verbatim'] as const,
    },
    report: text('report', 'with --lint: a file for all bad rows, a line of JSON each, as in ledger.jsonl'),
    'max-bad': decimal(
      'max-bad',
      'with --lint: part of the rows that may be bad, as data.maxBadFraction; its default if not given',
      { atLeast: 0, atMost: 1 },
    ),
  },
  example: 'inspect shards/quickstart/stage1-train',
  async run({ path, samples, verify, lint, shuffle, ...options }) {
    const { workers, captions, report, 'max-bad': maxBad, window, 'batch-size': batchSize } = options;
    if (lint && shuffle) throw new UserError('--lint and --shuffle must not be given together (take one)');
    if (!lint) refuse('goes with --lint only', { workers, captions, report, 'max-bad': maxBad });
    if (!shuffle) refuse('goes with --shuffle only', { window, 'batch-size': batchSize });
    const described = { samples, 'no-verify': verify ? undefined : true };
    if (lint || shuffle) refuse(`does not go with ${lint ? '--lint' : '--shuffle'}`, described);
    if (shuffle) return measureShuffle(path, window, batchSize);
    if (lint) return untilSignal((signal) => lintPath(path, { workers, captions, report, maxBad }, signal));
    return describePath(path, { samples, verify });
  },
});

/** @throws UserError if an option is given that would do nothing */
function refuse(rule: string, options: Readonly<Record<string, unknown>>): void {
  const given = Object.entries(options).find(([, value]) => value !== undefined)?.[0];
  if (given !== undefined) throw new UserError(`--${given} ${rule}`);
}

async function measureShuffle(
  path: string,
  window: number | undefined,
  batchSize: number | undefined,
): Promise<void> {
  const { Data } = await import('../config/dataSchema.js');
  const { shuffleLines } = await import('../shuffle.js');
  const usual = Data.properties.window.default as number; // a number's default is a number
  console.log((await shuffleLines(path, { window: window ?? usual, batchSize: batchSize ?? 64 })).join('\n'));
}

async function describePath(
  path: string,
  { samples, verify }: { readonly samples: number | undefined; readonly verify: boolean },
): Promise<void> {
  const { inspectPath } = await import('../inspect.js');
  const { Display } = await import('./display.js');
  const display = new Display();
  const onProgress = (done: number, total: number): void =>
    display.show('verifying, MB', Math.round(done / 1e6), Math.max(1, Math.round(total / 1e6)));
  try {
    const lines = await inspectPath(path, { verify, onProgress, ...(samples !== undefined && { samples }) });
    display.stop();
    console.log(lines.join('\n'));
  } finally {
    display.stop();
  }
}

interface LintArguments {
  readonly workers: number | undefined;
  readonly captions: 'clean' | 'verbatim' | undefined;
  readonly report: string | undefined;
  readonly maxBad: number | undefined;
}

/** Does work until a signal ends it and the process, when what it left half done is cleared away. */
async function untilSignal(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const end = new AbortController();
  const close = onStopSignals((name) => end.abort(name));
  try {
    await work(end.signal);
  } catch (error) {
    if (!end.signal.aborted) throw error;
    const name = end.signal.reason as StopSignal; // given above
    process.stderr.write(`${name}: ended before all rows were looked at; no report is written\n`);
    process.exit(SIGNAL_CODES[name]);
  } finally {
    close();
  }
}

async function lintPath(
  path: string,
  { workers, captions, report, maxBad }: LintArguments,
  signal: AbortSignal,
): Promise<void> {
  const { Data } = await import('../config/dataSchema.js');
  const { checkLint, lintShards } = await import('../lint.js');
  const { lintLines } = await import('../lintLines.js');
  const { Display } = await import('./display.js');
  const allowed = maxBad ?? (Data.properties.maxBadFraction.default as number); // a number's default is a number
  const display = new Display();
  try {
    const found = await lintShards(path, {
      signal,
      ...(workers !== undefined && { workers }),
      ...(captions !== undefined && { captions }),
      ...(report !== undefined && { report }),
      onProgress: (done, total, bad) => display.show('lint', done, total, bad > 0 ? `${bad} bad` : ''),
    });
    display.stop();
    console.log(lintLines(found, allowed).join('\n'));
    checkLint(found, allowed);
  } finally {
    display.stop();
  }
}
