/**
 * The one error class of the project: what the user can fix. The CLI prints its message alone and exits with 2;
 * any other error is our bug and shows its stack (exit 1).
 */
export class UserError extends Error {
  override readonly name = 'UserError';
}
