/** Progress and the time left: one line that is rewritten on a terminal, a plain line now and then elsewhere. */

/** How far a run is. */
export interface ProgressState {
  readonly done: number;
  /** 0 where it is not known. */
  readonly total: number;
  /** `done` when this process began: a resumed run must not count steps it did not do. */
  readonly startedAt: number;
  readonly elapsedMs: number;
}

/** What a `Progress` writes to; `process.stderr` is one. */
export interface ProgressStream {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

/** How a `Progress` behaves; `now` is for tests. */
export interface ProgressOptions {
  readonly label: string;
  /** 0 where it is not known. */
  readonly total: number;
  /** Steps already done when this process begins. */
  readonly done?: number;
  readonly stream?: ProgressStream;
  /** Between plain lines where the stream is no terminal. */
  readonly plainEveryMs?: number;
  /** Milliseconds of any steady clock. */
  readonly now?: () => number;
}

const TERMINAL_EVERY_MS = 100;
const BAR_WIDTH = 24;

/** `45 s`, `3 min 05 s`, `2 h 07 min`, `3 d 04 h`; `?` for what is not known. */
export function formatDuration(milliseconds: number): string {
  if (!Number.isFinite(milliseconds)) return '?';
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  const two = (value: number) => String(Math.floor(value)).padStart(2, '0');
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${two((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${two((seconds % 86_400) / 3600)} h`;
}

/** Milliseconds left at the pace so far; NaN before the first step of this process. */
export function timeLeft({ done, total, startedAt, elapsedMs }: ProgressState): number {
  if (done >= total) return 0;
  return done > startedAt ? (elapsedMs / (done - startedAt)) * (total - done) : NaN;
}

/** The line of a state: `train [####----] 120/240 50 % · 1 min 10 s left · loss 3.21`; `pack 120 · in 3 s` of no known total. */
export function progressLine(label: string, state: ProgressState, note = ''): string {
  const ending = note === '' ? '' : ` · ${note}`;
  if (state.total === 0) return `${label} ${state.done} · in ${formatDuration(state.elapsedMs)}${ending}`;
  const part = Math.min(1, state.done / state.total);
  const filled = Math.floor(part * BAR_WIDTH);
  const bar = '#'.repeat(filled) + '-'.repeat(BAR_WIDTH - filled);
  const left =
    state.done >= state.total
      ? `in ${formatDuration(state.elapsedMs)}`
      : `${formatDuration(timeLeft(state))} left`;
  const counts = `${state.done}/${state.total} ${Math.floor(part * 100)} %`;
  return `${label} [${bar}] ${counts} · ${left}${ending}`;
}

/** Shows progress on a stream. Whoever made it calls `stop`. */
export class Progress {
  readonly #label: string;
  readonly #total: number;
  readonly #startedAt: number;
  readonly #stream: ProgressStream;
  readonly #everyMs: number;
  readonly #now: () => number;
  readonly #startMs: number;
  #shownMs = -Infinity;
  #line = '';

  constructor({
    label,
    total,
    done = 0,
    stream = process.stderr,
    plainEveryMs = 30_000,
    now = () => performance.now(),
  }: ProgressOptions) {
    this.#label = label;
    this.#total = total;
    this.#startedAt = done;
    this.#stream = stream;
    this.#everyMs = stream.isTTY ? TERMINAL_EVERY_MS : plainEveryMs;
    this.#now = now;
    this.#startMs = now();
  }

  /** Shows the state if it is time to, and always the last one. */
  update(done: number, note = ''): void {
    const now = this.#now();
    const state = { done, total: this.#total, startedAt: this.#startedAt, elapsedMs: now - this.#startMs };
    this.#line = progressLine(this.#label, state, note);
    const last = this.#total > 0 && done >= this.#total;
    if (now - this.#shownMs < this.#everyMs && !last) return;
    this.#shownMs = now;
    this.#show();
  }

  /** Writes a line of its own, above the progress line. */
  print(text: string): void {
    this.#stream.write(this.#stream.isTTY ? `\r\x1b[K${text}\n` : `${text}\n`);
    if (this.#stream.isTTY && this.#line !== '') this.#show();
  }

  /** Ends the line, so that what comes next starts on its own. */
  stop(): void {
    if (this.#stream.isTTY && this.#line !== '') this.#stream.write('\n');
    this.#line = '';
  }

  #show(): void {
    const width = this.#stream.columns ?? 80;
    const text = this.#stream.isTTY ? `\r${this.#line.slice(0, width - 1)}\x1b[K` : `${this.#line}\n`;
    this.#stream.write(text);
  }
}
