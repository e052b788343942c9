/** The report page: one HTML file that holds everything, pictures included, and asks nothing of a network. */
import sharp from 'sharp';
import type { Config } from '../config/schema.js';
import { writeFileWhole } from '../files.js';
import type { HeldOutSet } from './heldOut.js';
import type { Evaluation } from './evaluation.js';
import { failureRate } from './summary.js';

/** Edge of a picture on the page, device pixels at double density. */
const THUMBNAIL = 192;

/**
 * Writes the page: every figure with what chance gives beside it, then all captioned pictures, the best retrieved first,
 * so that good and bad are both in sight.
 *
 * @throws UserError if the file cannot be written
 */
export async function writeReport(
  file: string,
  config: Config,
  evaluation: Evaluation,
  heldOut: HeldOutSet,
): Promise<void> {
  const pictures = await Promise.all(
    heldOut.items.slice(0, evaluation.captions.length).map(({ pair }) => thumbnail(pair.image)),
  );
  await writeFileWhole(file, page(config, evaluation, heldOut, pictures));
}

function page(
  config: Config,
  evaluation: Evaluation,
  heldOut: HeldOutSet,
  pictures: readonly string[],
): string {
  const title = evaluation.stage === 'pretrain' ? 'Stage 1: captions' : 'Stage 2: descriptions';
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title} · minigpt4-align</title>
<style>${STYLE}</style>
<header><h1>${title}</h1>
<p>${evaluation.items} held-out pairs that no training step has seen${evaluation.skipped ? ` (${evaluation.skipped} unreadable)` : ''} · projection from <code>${escape(evaluation.from)}</code> · encoder <code>${escape(config.model.encoder)}</code> → LLM <code>${escape(config.model.llm)}</code>, frozen in ${evaluation.precision}</p></header>
<main>
<section><h2>Figures</h2>
<table><thead><tr><th>measure</th><th>value</th><th>chance, or what it means</th></tr></thead><tbody>
${figures(evaluation)
  .map(
    ([name, value, beside]) =>
      `<tr><td>${escape(name)}</td><td class="number">${value}</td><td>${escape(beside)}</td></tr>`,
  )
  .join('\n')}
</tbody></table></section>
<section><h2>Captions written for pictures never seen</h2>
<p>Ordered by how well the picture finds its own caption among all ${evaluation.items}; the last ones are the worst.</p>
<div class="gallery">
${orderOf(evaluation)
  .map((item) => card(evaluation, heldOut, pictures, item))
  .join('\n')}
</div></section>
</main>
</html>
`;
}

/** Rows of the table: name, value, chance or meaning. */
function figures(evaluation: Evaluation): [string, string, string][] {
  const { gap, retrieval, sharesWordByChance, captions } = evaluation;
  const number = (value: number): string => value.toFixed(3);
  const rows: [string, string, string][] = [
    ['loss with the own image', number(gap.loss), 'mean cross-entropy per target token, nats'],
    ['loss with exchanged images', number(gap.lossExchanged), 'same texts, images rotated through the set'],
    ['image gap', number(gap.gap), '0 = the image is not used'],
  ];
  if (gap.contentGap)
    rows.push([
      'image gap on content words',
      number(gap.contentGap.mean),
      `label, colours, tags; 95 % interval ${number(gap.contentGap.low)} to ${number(gap.contentGap.high)}`,
    ]);
  for (const { correction, recallAt, groupAccuracy } of retrieval?.results ?? []) {
    for (const k of [1, 5, 10] as const)
      rows.push([
        `R@${k}, ${CORRECTIONS[correction]}`,
        number(recallAt[k]),
        `chance ${number(retrieval?.chance.recallAt[k] ?? 0)}`,
      ]);
    if (groupAccuracy !== undefined)
      rows.push([
        `group of the best caption, ${CORRECTIONS[correction]}`,
        number(groupAccuracy),
        `chance ${number(retrieval?.chance.groupAccuracy ?? 0)}`,
      ]);
  }
  const failures = failureRate(evaluation);
  if (failures !== undefined)
    rows.push([
      'failures of the descriptions',
      number(failures),
      'empty, repetitive, unfinished or off the prompt',
    ]);
  if (sharesWordByChance !== undefined) {
    const share = captions.filter(({ sharesWord }) => sharesWord).length / captions.length;
    rows.push([
      'captions that share a word with label or tags',
      number(share),
      `chance ${number(sharesWordByChance)} (words of other pictures)`,
    ]);
  }
  return rows;
}

const CORRECTIONS = {
  none: 'by likelihood per token',
  pmi: 'likelihood minus that under the mean training image (PMI)',
  centred: 'likelihood minus its mean over the pictures (transductive)',
} as const;

function card(
  { captions, retrieval }: Evaluation,
  { items }: HeldOutSet,
  pictures: readonly string[],
  item: number,
): string {
  const caption = captions[item];
  if (!caption) return '';
  const ranked = centred(retrieval);
  const found = ranked ? items[ranked.best[item] ?? 0]?.caption : undefined;
  const notes = [
    ranked && `own caption ranked ${ranked.ranks[item] ?? '?'} of ${items.length}`,
    found !== undefined && `best retrieved: ${found}`,
    caption.failures.length > 0 && caption.failures.join(', '),
  ].filter((note) => typeof note === 'string');
  return `<figure class="${caption.failures.length ? 'failed' : ''}"><img src="${pictures[item] ?? ''}" alt="${escape(caption.truth)}" width="96" height="96">
<figcaption><b>${escape(caption.written) || '<i>nothing</i>'}</b><span>truth: ${escape(caption.truth)}</span>${notes.map((note) => `<small>${escape(note)}</small>`).join('')}</figcaption></figure>`;
}

function orderOf({ captions, retrieval }: Evaluation): number[] {
  const ranks = centred(retrieval)?.ranks;
  const cost = (item: number): number => ranks?.[item] ?? captions[item]?.failures.length ?? 0;
  return [...captions.keys()].sort((a, b) => cost(a) - cost(b) || a - b);
}

function centred(
  retrieval: Evaluation['retrieval'],
): NonNullable<Evaluation['retrieval']>['results'][number] | undefined {
  return retrieval?.results.find(({ correction }) => correction === 'centred');
}

async function thumbnail(image: Uint8Array): Promise<string> {
  const webp = await sharp(image, { limitInputPixels: 5e7 })
    .resize(THUMBNAIL, THUMBNAIL, { fit: 'inside' })
    .webp({ quality: 80 })
    .toBuffer();
  return `data:image/webp;base64,${webp.toString('base64')}`;
}

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
}

const STYLE = `
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1.5rem; }
h1 { margin: 0; } header p { margin: .3rem 0 1.5rem; opacity: .8; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; }
td, th { border-bottom: 1px solid var(--line); padding: .3rem .6rem; vertical-align: top; }
.number { font-variant-numeric: tabular-nums; text-align: right; font-weight: 600; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: .8rem; }
figure { display: flex; gap: .8rem; margin: 0; padding: .7rem; background: var(--soft); border-radius: .6rem; }
figure.failed { outline: 2px solid #c66; }
figure img { flex: none; border-radius: .4rem; background: #fff; object-fit: contain; }
figcaption { display: flex; flex-direction: column; gap: .2rem; min-width: 0; overflow-wrap: anywhere; }
small { opacity: .75; }
`;
