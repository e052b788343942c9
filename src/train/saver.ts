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

  /** Saves and waits for it, and for those before. @throws UserError if it cannot be written */
  save(contents: Contents): Promise<string> {
    const saving = this.settled().then(() => this.write(contents));
    this.#last = saving.catch(() => undefined); // the caller's to see
    return saving;
  }

  /**
   * Saves in the background; waits only while the save before is still under way, so that memory holds two at most.
   *
   * @param contents belong to the saver from now on
   * @throws what a save before this one failed with, if nobody can mend it: a bug
   */
  async saveBeside(contents: Contents): Promise<void> {
    await this.settled();
    this.#last = this.write(contents).then(
      () => undefined,
      (error: unknown) => {
        if (error instanceof UserError) this.onFailure(error);
        else this.#bug = error;
      },
    );
  }

  /** Resolves when nothing is being saved. @throws a bug in a save before */
  async settled(): Promise<void> {
    await this.#last;
    const bug = this.#bug;
    this.#bug = undefined;
    if (bug !== undefined) throw bug as Error; // whatever was thrown, as it came
  }
}
