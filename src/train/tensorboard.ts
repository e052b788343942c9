/** A TensorBoard event file of a run: scalars, histograms, images and texts, appended as they happen. */
import { existsSync, mkdirSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';

import { AppendFile } from '../appendFile.js';
import { fileError } from '../files.js';
import { eventRecord, type EventContent, type PngImage } from './tensorboardEvents.js';

/** Where and when an event file starts. */
export interface EventFileOptions {
  /** First step that will be written: what earlier files of the folder hold from it on is dropped by readers. */
  readonly firstStep: number;
  /** Seconds since 1970; a test gives its own. */
  readonly now?: () => number;
}

/** An open event file. Whoever opened it closes it. */
export class EventFile {
  /** Its path. */
  readonly path: string;
  readonly #file: AppendFile;
  readonly #now: () => number;

  /**
   * Starts a new file `events.out.tfevents.TIME.HOST` in `folder`, which is made if it is missing.
   *
   * @throws UserError if there is no space or no permission
   */
  constructor(folder: string, { firstStep, now = () => Date.now() / 1000 }: EventFileOptions) {
    this.#now = now;
    this.path = freeName(join(folder, `events.out.tfevents.${Math.floor(now())}.${hostname()}`));
    try {
      mkdirSync(folder, { recursive: true });
    } catch (error) {
      throw fileError(folder, error);
    }
    this.#file = new AppendFile(this.path);
    this.#write(0, { kind: 'version' });
    this.#write(firstStep, { kind: 'start' });
  }

  /** Values by tag. */
  scalars(step: number, values: Readonly<Record<string, number>>): void {
    this.#write(step, { kind: 'scalars', values });
  }

  /** Values that are not finite are left out. */
  histogram(step: number, tag: string, values: Float32Array): void {
    this.#write(step, { kind: 'histogram', tag, values });
  }

  /** A picture under a tag. */
  image(step: number, tag: string, image: PngImage): void {
    this.#write(step, { kind: 'image', tag, image });
  }

  /** Shown as Markdown. */
  text(step: number, tag: string, text: string): void {
    this.#write(step, { kind: 'text', tag, text });
  }

  /** Closes the file. */
  close(): void {
    this.#file.close();
  }

  #write(step: number, content: EventContent): void {
    this.#file.write(eventRecord(step, this.#now(), content));
  }
}

/** Two files of one second would be one: the later gets a number, which sorts after it as readers want. */
function freeName(path: string): string {
  if (!existsSync(path)) return path;
  let number = 1;
  while (existsSync(`${path}.${number}`)) number += 1;
  return `${path}.${number}`;
}
