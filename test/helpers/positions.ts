/** Counts the positions that a language model computes, by what its session is given. */
import { vi } from 'vitest';
import type { LanguageModel } from '../../src/model/language/languageModel.js';

/** Positions computed since the last `reset`. */
export interface PositionCount {
  /** In contexts, common beginnings among them. */
  readonly read: number;
  /** Token by token, in answers. */
  readonly written: number;
  reset(): void;
}

/** Counts from now on. */
export function countPositions({ session }: LanguageModel): PositionCount {
  const spy = vi.spyOn(session, 'runKeeping');
  const sizes = (entry: string, input: string, axis: number): number =>
    spy.mock.calls
      .filter(([name]) => name === entry)
      .reduce((sum, [, inputs]) => sum + (inputs[input]?.shape[axis] ?? NaN), 0);
  return {
    get read() {
      return sizes('stem', 'ids', 1) + sizes('sequence', 'positions', 0);
    },
    get written() {
      return sizes('decode', 'ids', 0);
    },
    reset: () => spy.mockClear(),
  };
}
