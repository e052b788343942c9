/**
 * `metrics.jsonl` and its like: one flat JSON object a line, appended as it happens. When a run resumes, the lines of
 * steps that will be done again are cut.
 */
import { existsSync, readFileSync } from 'node:fs';

import { AppendFile } from '../appendFile.js';
import { UserError } from '../errors.js';
import { writeFileWhole } from '../files.js';

/** Values of one line by flat keys such as `train/loss`, `train/lr`, `time/step_ms`, `speed/samples_per_s`, `eval/loss`. */
export type Metrics = Readonly<Record<string, number>>;

/** A file of JSON lines that is open for appending. Whoever opened it closes it. */
export class JsonLines {
  readonly #file: AppendFile;

  private constructor(path: string) {
    this.#file = new AppendFile(path);
    this.#file.write(new Uint8Array()); // makes the file, or tells at once that it cannot be
  }

  /**
   * Opens a file for appending, after cutting every line whose `step` is above `lastStep`.
   *
   * @param lastStep step of the checkpoint that is resumed from; -1 cuts all
   * @param redone of the lines of `lastStep`, those with a key that begins so are cut too, as they come again
   * @throws UserError if a line that was finished is no object with a step
   */
  static async open(file: string, lastStep: number, redone?: string): Promise<JsonLines> {
    await cutLines(file, lastStep, redone);
    return new JsonLines(file);
  }

  /** Appends one line; numbers that JSON cannot write become the texts "NaN", "Infinity", "-Infinity". */
  append(record: Readonly<{ step: number }> & Readonly<Record<string, unknown>>): void {
    this.#file.write(Buffer.from(`${JSON.stringify(record, finite)}\n`));
  }

  /** Puts what was appended on disk, so that it survives a power cut. @throws UserError if there is no space */
  sync(): void {
    this.#file.sync();
  }

  /** Closes the file. */
  close(): void {
    this.#file.close();
  }
}

async function cutLines(file: string, lastStep: number, redone: string | undefined): Promise<void> {
  if (!existsSync(file)) return;
  const text = readFileSync(file, 'utf8');
  const lines = text.split('\n');
  lines.pop(); // empty, or what a killed process had not finished
  const isKept = (line: string, index: number): boolean => {
    const record = recordOf(line, `${file}:${index + 1}`);
    const comesAgain = redone !== undefined && Object.keys(record).some((key) => key.startsWith(redone));
    return record.step < lastStep || (record.step === lastStep && !comesAgain);
  };
  const kept = lastStep < 0 ? [] : lines.filter(isKept);
  const result = kept.map((line) => `${line}\n`).join('');
  if (result !== text) await writeFileWhole(file, result);
}

function recordOf(line: string, place: string): { readonly step: number } {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    value = undefined;
  }
  if (typeof value === 'object' && value !== null && 'step' in value && typeof value.step === 'number')
    return { ...value, step: value.step };
  throw new UserError(
    `${place}: must be a JSON object with a "step", got ${line.slice(0, 60)} (delete that line)`,
  );
}

function finite(_key: string, value: unknown): unknown {
  return typeof value === 'number' && !Number.isFinite(value) ? String(value) : value;
}
