/** Our addon: what Node does not offer, and the resizing of images, compiled by set-up (runtime/native.cc). */
import { createRequire } from 'node:module';
import { UserError } from './errors.js';
import { requireRuntime } from './runtimeFolder.js';

/** An image to be resized; numbers are whole, in pixels. */
export interface ResizeJob {
  /** Samples row by row. Neither to be changed nor transferred before the promise settles. */
  readonly data: Uint8Array;
  /** Up to 65,535, as `height`. */
  readonly width: number;
  readonly height: number;
  /** 0: RGB, 3 bytes a pixel; 1: CMYK, 4 bytes, 255 = full ink; 2: 16-bit grey, 2 bytes in this machine's order. */
  readonly layout: 0 | 1 | 2;
  /** The part to take. */
  readonly left: number;
  readonly top: number;
  readonly boxWidth: number;
  readonly boxHeight: number;
  /** Height and width of the result, up to 4096. */
  readonly size: number;
  /** float32[3, 256]: what each byte becomes in each channel. */
  readonly levels: Float32Array;
  /** Whether AVX2 may be used; the bits are the same. */
  readonly wide: boolean;
}

/** The addon's functions. */
export interface Native {
  /** Ends the process at once, whatever other threads do. */
  exitNow(code: number): never;
  /** Points file descriptor 2 at /dev/null, and back. */
  muteStderr(on: boolean): void;
  /**
   * Crops, resizes by Pillow's bicubic and looks up the levels, in one of libuv's threads. Throws RangeError at once where
   * the job's numbers do not fit together.
   *
   * @returns float32[3, size, size]; the caller owns it
   */
  resizeNormalise(job: ResizeJob): Promise<Float32Array>;
  /** Whether this CPU has AVX2, which `wide` asks for. */
  hasWideKernel(): boolean;
}

let found: Native | undefined;

/**
 * Loads the addon; a millisecond the first time.
 *
 * @throws UserError if set-up has not run
 */
export function loadNative(): Native {
  found ??= createRequire(import.meta.url)(requireRuntime().native) as Native; // the file that set-up compiled and checked
  return found;
}

/** The addon, or undefined where set-up has not run: for work that is only slower without it. */
export function findNative(): Native | undefined {
  try {
    return loadNative();
  } catch (error) {
    if (error instanceof UserError) return undefined;
    throw error;
  }
}
