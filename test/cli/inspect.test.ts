import { describe, expect, it } from 'vitest';
import { inspect } from '../../src/cli/inspect.js';
import { failure } from '../helpers/failure.js';

/** What yargs hands over where nothing but the path is given. */
const usual = { path: 'nowhere.arrow', verify: true, lint: false, shuffle: false };
const run = (given: object) =>
  failure(Promise.resolve(inspect.module.handler({ _: [], $0: '', ...usual, ...given })));

describe('minigpt4 inspect', () => {
  it.each([
    [{ lint: true, samples: 3 }, '--samples does not go with --lint'],
    [{ lint: true, verify: false }, '--no-verify does not go with --lint'],
    [{ shuffle: true, verify: false }, '--no-verify does not go with --shuffle'],
    [{ shuffle: true, samples: 0 }, '--samples does not go with --shuffle'],
    [{ report: 'x' }, '--report goes with --lint only'],
    [{ shuffle: true, workers: 1 }, '--workers goes with --lint only'],
    [{ lint: true, window: 512 }, '--window goes with --shuffle only'],
    [{ lint: true, shuffle: true }, '--lint and --shuffle must not be given together (take one)'],
  ])('refuses an option that would do nothing: %j', async (given, message) => {
    expect(await run(given)).toBe(message);
  });

  it.each([
    ['max-bad', '-1', '--max-bad must be a number of at least 0 and at most 1, got "-1"'],
    ['max-bad', '1.5', '--max-bad must be a number of at least 0 and at most 1, got "1.5"'],
    ['window', '255', '--window must be a whole number of at least 256, got "255"'],
  ])('refuses --%s=%s', (name, value, message) => {
    expect(() => inspect.options[name]?.coerce?.(value) as unknown).toThrow(message);
  });

  it('takes --max-bad=0', () => expect(inspect.options['max-bad']?.coerce?.('0')).toBe(0));
});
