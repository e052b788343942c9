/** Reads a whole source for a test. */
import { createHash } from 'node:crypto';
import { problemText, readPairs, type Source } from '../../src/data/importers/source.js';
import type { ImageTextPair } from '../../src/data/pairs.js';

/** All pairs of a source, and its problems as `where: what`. */
export async function collect(
  source: Source | Promise<Source>,
): Promise<{ pairs: ImageTextPair[]; problems: string[] }> {
  const pairs: ImageTextPair[] = [];
  const problems: string[] = [];
  const onProblem = (problem: Parameters<typeof problemText>[0]) =>
    problems.push(`${problem.where}: ${problemText(problem)}`);
  for await (const pair of readPairs(await source, { onProblem })) pairs.push(pair);
  return { pairs, problems };
}

/** SHA-256 in hex. */
export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
