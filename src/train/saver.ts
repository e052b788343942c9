/** Saving checkpoints beside the steps: a step never waits for the disk, and one failed save does not end a run. */
import { UserError } from '../errors.js';

/** Writes one checkpoint after the other. */
export class Saver<Contents> {
  #last: Promise<unknown> = Promise.resolve();
  #bug: unknown;

  /**
   * @param write puts the contents on disk and returns the checkpoint's folder
   * @param onFailure told of a save in the background that failed for a reason the user can mend, such as a full disk
   */
  constructor(
    private readonly write: (contents: Contents) => Promise<string>,
    private readonly onFailure: (error: UserError) => void,
  ) {}

  /**
   * Saves after those before, and waits for it.
   *
   * @throws UserError if it cannot be written; what a save in the background failed with, if nobody can mend it: a bug
   */
  async save(contents: Contents): Promise<string> {
    const saving = this.#last.then(() => this.write(contents));
    this.#last = saving.catch(() => undefined); // the caller's to see
    const folder = await saving; // whatever failed before: first what can be saved is
    this.#throwBug();
    return folder;
  }

  /**
   * Saves in the background; waits only while the save before is still under way, so that memory holds two at most.
   *
   * @param contents belong to the saver from now on
   * @throws what a save before this one failed with, if nobody can mend it: a bug
   */
  async saveBeside(contents: Contents): Promise<void> {
    await this.#last;
    this.#throwBug();
    this.#last = this.#last // another one by now, if `save` was called meanwhile
      .then(() => this.write(contents))
      .then(
        () => undefined,
        (error: unknown) => {
          if (error instanceof UserError) this.onFailure(error);
          else this.#bug = error;
        },
      );
  }

  /** Resolves when nothing is being saved. */
  async idle(): Promise<void> {
    await this.#last;
  }

  #throwBug(): void {
    const bug = this.#bug;
    this.#bug = undefined;
    if (bug !== undefined) throw bug as Error; // whatever was thrown, as it came
  }
}
