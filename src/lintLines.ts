/** What `minigpt4 inspect --lint` found, in lines of text. */
import { LISTED, PARTS, type LintReport } from './lint.js';

/** The report in lines of text. @param maxBadFraction that a run would allow, to compare with */
export function lintLines(report: LintReport, maxBadFraction: number): string[] {
  const { rows, bad, byReason, worstShard, first, sizes, duplicateIds } = report;
  const lines = [
    `${rows} rows, ${bad} bad: ${percent(bad / rows)} (data.maxBadFraction allows ${percent(maxBadFraction)})`,
    ...byReason.slice(0, LISTED).map(([reason, count]) => `  ${count} ${reason}`),
  ];
  if (byReason.length > LISTED) lines.push(`  and ${byReason.length - LISTED} reasons more`);
  if (worstShard) lines.push(`worst shard: ${worstShard.shard} with ${worstShard.bad}`);
  if (first.length > 0) {
    lines.push(`bad rows${bad > first.length ? `, the first ${first.length}` : ''}:`);
    lines.push(...first.map(({ shard, row, id, reason }) => `  ${shard} row ${row}, ${id}: ${reason}`));
  }
  if (bad < rows) {
    const header = ['good rows', ...PARTS.map((part) => percentileName(part))];
    const body = Object.entries(sizes).map(([measure, values]) => [measure, ...values.map(String)]);
    lines.push(...alignRight([header, ...body]));
  }
  lines.push(
    duplicateIds.rows === 0
      ? 'no id comes twice'
      : `${duplicateIds.rows} rows have an id that came before: ${duplicateIds.first.slice(0, 5).join(', ')}${duplicateIds.rows > 5 ? ' …' : ''}`,
  );
  return lines;
}

function percent(part: number): string {
  return `${Number((part * 100).toPrecision(2))} %`;
}

function percentileName(part: number): string {
  if (part === 0) return 'least';
  if (part === 1) return 'most';
  return part === 0.5 ? 'median' : `${part * 100} %`;
}

function alignRight(table: readonly (readonly string[])[]): string[] {
  const widths = (table[0] ?? []).map((_, i) => Math.max(...table.map((cells) => cells[i]?.length ?? 0)));
  return table.map((cells) =>
    cells
      .map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
      .join('  '),
  );
}
