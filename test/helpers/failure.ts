/** What a piece of work says when the user is to mend something. */
import { expect } from 'vitest';
import { UserError } from '../../src/errors.js';

/** The message of the `UserError` that the work ends with; anything else fails the test. */
export async function failure(work: Promise<unknown>): Promise<string> {
  const error: unknown = await work.then(
    () => 'no error',
    (caught: unknown) => caught,
  );
  expect(error).toBeInstanceOf(UserError);
  return (error as UserError).message;
}
