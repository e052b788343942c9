/** Runs a stage for the command line: configuration, progress, and signals that save before the process ends. */
import { loadConfig } from '../config/load.js';
import type { Stage } from '../config/schema.js';
import { UserError } from '../errors.js';
import { modelFolders } from '../setup/setup.js';
import { evaluateDuring } from '../evaluate/during.js';
import { loadNative, type Native } from '../native.js';
import { Interrupted, train } from '../train/train.js';
import { Display } from './display.js';
import { onStopSignals, SIGNAL_CODES, type StopSignal } from './signals.js';

/** What the command line says about a training run. */
export interface TrainingArguments {
  readonly config: string;
  readonly set: readonly string[];
  readonly fresh: boolean;
}

/** Trains, or resumes, and prints where the result lies. A signal saves the last whole step and ends the process. */
export async function runTraining(
  stage: Stage,
  { config: file, set, fresh }: TrainingArguments,
): Promise<void> {
  const config = await loadConfig(file, { set, expectedStage: stage });
  const folders = await modelFolders(config);
  const display = new Display();
  const stop = new StopSignals(loadNative(), display);
  try {
    const { checkpoint, step } = await train(config, {
      folders,
      fresh,
      signal: stop.signal,
      ...(config.data.heldOut && { evaluate: evaluateDuring(config) }),
      events: {
        note: (text) => display.note(text),
        loading: (part, done) => display.loading(part, done),
        step: (report) => {
          stop.worthSaving = true;
          display.show(stage, report.step, report.steps, `loss ${report.loss.toFixed(3)}`);
        },
      },
    });
    display.stop();
    console.log(`${stage}: ${step} steps done, saved ${checkpoint}`);
  } catch (error) {
    display.stop();
    if (error instanceof Interrupted) stop.end(`saved ${error.checkpoint}; the same command resumes there`);
    if (stop.signal.aborted && error instanceof UserError)
      stop.end(`not saved: ${error.message}; the same command resumes at the last checkpoint`);
    throw error;
  } finally {
    display.stop();
    stop.close();
  }
}

/**
 * The first signal asks the run to save; the second, or one before any step is done, ends the process at once. It ends by
 * `exitNow`: Node's own exit would wait for the thread that is in the middle of a step.
 */
class StopSignals {
  /** Whether this process has done a step that no checkpoint holds. */
  worthSaving = false;
  readonly #controller = new AbortController();
  /** Lets signals end the process as usual again. */
  readonly close: () => void;
  #code: number = SIGNAL_CODES.SIGINT;

  constructor(
    private readonly native: Native,
    private readonly display: Display,
  ) {
    this.close = onStopSignals((name) => this.#onSignal(name, SIGNAL_CODES[name]));
  }

  /** Aborts at the first signal. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Says a last word and ends the process, whatever its threads are doing. */
  end(lastWord: string): never {
    process.stderr.write(`${lastWord}\n`);
    return this.native.exitNow(this.#code);
  }

  #onSignal(name: StopSignal, code: number): void {
    this.#code = code;
    this.display.stop();
    if (this.signal.aborted) this.end(`${name} again: ends at once, the last checkpoint stays`);
    if (!this.worthSaving) this.end(`${name} before the first step: nothing to save`);
    this.display.note(`${name}: saving the last whole step`);
    this.#controller.abort();
  }
}
