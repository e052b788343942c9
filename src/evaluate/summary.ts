/** An evaluation as the lines that a terminal shows, chance beside every figure that has one. */
import type { Failure } from './captions.js';
import type { Evaluation } from './evaluation.js';

const FAILURES: readonly Failure[] = ['empty', 'repetitive', 'unfinished', 'off-prompt'];

/** The lines of the summary, figures to three places. */
export function summaryLines(evaluation: Evaluation): string[] {
  const { stage, items, gap, retrieval, captions } = evaluation;
  const lines = [
    `${stage === 'pretrain' ? 'stage 1' : 'stage 2'} on ${items} held-out pairs (${evaluation.precision})`,
    row('loss, own image', gap.loss),
    row('loss, exchanged images', gap.lossExchanged),
    row('image gap', gap.gap, '0 = the image is not used'),
  ];
  if (gap.contentGap) {
    const { mean, low, high } = gap.contentGap;
    lines.push(
      row('image gap on content words', mean, `95 % interval ${low.toFixed(3)} to ${high.toFixed(3)}`),
    );
  }
  for (const { correction, recallAt, groupAccuracy } of retrieval?.results ?? []) {
    const random = retrieval?.chance;
    for (const k of [1, 5, 10] as const)
      lines.push(row(`R@${k}, ${correction}`, recallAt[k], `chance ${random?.recallAt[k].toFixed(3) ?? ''}`));
    if (groupAccuracy !== undefined)
      lines.push(
        row(
          `group of the best caption, ${correction}`,
          groupAccuracy,
          `chance ${random?.groupAccuracy?.toFixed(3) ?? ''}`,
        ),
      );
  }
  // A few captions as they come, neither the best nor the worst chosen.
  const shown = captions.filter((_, i) => i % Math.ceil(captions.length / 6) === 0);
  return [
    ...lines,
    ...captionLines(evaluation),
    ...shown.map(({ truth, written }) => `  "${truth}" → "${written}"`),
  ];
}

/** Share of captions with at least one failure; undefined where failures are not counted. */
export function failureRate({ stage, captions }: Pick<Evaluation, 'stage' | 'captions'>): number | undefined {
  return stage === 'finetune' && captions.length
    ? captions.filter(({ failures }) => failures.length).length / captions.length
    : undefined;
}

function captionLines(evaluation: Evaluation): string[] {
  const { captions, sharesWordByChance } = evaluation;
  const share = (test: (caption: Evaluation['captions'][number]) => boolean): number =>
    captions.filter(test).length / captions.length;
  const lines: string[] = [];
  const rate = failureRate(evaluation);
  if (rate !== undefined) {
    lines.push(row('failures of the descriptions', rate));
    for (const kind of FAILURES)
      lines.push(
        row(
          `  ${kind}`,
          share(({ failures }) => failures.includes(kind)),
        ),
      );
  }
  if (sharesWordByChance !== undefined) {
    lines.push(
      row(
        'captions that share a word with label or tags',
        share(({ sharesWord }) => sharesWord === true),
        `other images ${sharesWordByChance.toFixed(3)}`,
      ),
    );
  }
  return lines;
}

function row(name: string, value: number, beside = ''): string {
  return `  ${name.padEnd(46)} ${value.toFixed(3)}${beside && `   (${beside})`}`;
}
