/** What a verb shows on stderr while it works: one progress line at a time, and lines of text above it. */
import type { SetupProgress } from '../setup/progress.js';
import { Progress, type ProgressStream } from '../train/progress.js';

/** Progress lines for tasks that follow one another. Whoever made it calls `stop`. */
export class Display {
  #task = '';
  #shown = '';
  #progress: Progress | undefined;

  constructor(private readonly stream: ProgressStream = process.stderr) {}

  /** A line of its own. */
  note(text: string): void {
    if (this.#progress) this.#progress.print(text);
    else this.stream.write(`${text}\n`);
  }

  /** The state of a task; another task ends the line before. `done` counts from where the task was first shown. */
  show(task: string, done: number, total: number, note = ''): void {
    if (task !== this.#task) {
      this.stop();
      this.#task = task;
      this.#progress = new Progress({ label: task, total, done, stream: this.stream });
    }
    const state = `${done} ${total} ${note}`;
    if (state !== this.#shown) this.#progress?.update(done, note); // bytes by the chunk are the same megabyte many times
    this.#shown = state;
  }

  /** A part that is being loaded, share 0…1. */
  loading(part: string, done: number): void {
    this.show(`loading ${part}`, Math.round(done * 100), 100);
  }

  /** A report of set-up: counted where it has bytes, a line where it has not. */
  setup({ task, doneBytes, totalBytes }: SetupProgress): void {
    if (doneBytes !== undefined && totalBytes !== undefined) {
      this.show(`${task}, MB`, Math.round(doneBytes / 1e6), Math.max(1, Math.round(totalBytes / 1e6)));
    } else if (task !== this.#task) {
      this.stop();
      this.#task = task;
      this.stream.write(`${task}\n`);
    }
  }

  /** Ends the progress line, if there is one. */
  stop(): void {
    this.#progress?.stop();
    this.#progress = undefined;
    this.#task = '';
    this.#shown = '';
  }
}
