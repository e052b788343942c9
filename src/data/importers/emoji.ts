/** Packs the default data set: emoji pictures with their names (stage 1) and templated descriptions (stage 2), as shards. */

import { createHash } from 'node:crypto';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { UserError } from '../../errors.js';
import { writeFileWhole } from '../../files.js';
import { namesIn } from '../packing/outputPlace.js';
import { readManifest } from '../shards/manifest.js';
import type { ImageTextPair } from '../pairs.js';
import { writeShards } from '../shards/shardWriter.js';
import { emojiConcepts, emojiOrigin, type Concept } from './emojiConcepts.js';
import { describe, type Description } from './emojiText.js';
import { openStyle, styleOrigin, styleText, type DrawingStyle, type EmojiStyle } from './emojiStyles.js';
import { dominantColors, readPixels, renderView } from './emojiViews.js';

/** Names of the shard folders that are made. */
export type EmojiSet =
  | 'stage1-train'
  | 'stage1-fit'
  | 'stage1-validation'
  | 'stage1-held-out'
  | 'stage2-train'
  | 'stage2-fit'
  | 'stage2-validation'
  | 'stage2-held-out';

/** How the set is packed. */
export interface PackEmojiOptions {
  /** Pictures of each training concept, the plain one included: 1 to 16. */
  readonly views?: number;
  /** Other drawing styles of which each training concept has a picture besides, in stage 1; none if left out. */
  readonly styles?: readonly EmojiStyle[];
  /** Write into a folder with other things, and over those that have the names of the set's. */
  readonly overwrite?: boolean;
  /** Called with the concepts rendered so far and their number. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** What `packEmoji` made or found. */
export interface PackedEmoji {
  /** Rows of each set. */
  readonly rows: Readonly<Record<EmojiSet, number>>;
  /** False if everything was there already. */
  readonly packed: boolean;
}

/** A concept with all its pictures and its words. */
interface Rendered {
  readonly concept: Concept;
  /** The plain picture first. */
  readonly pictures: readonly Picture[];
  readonly description: Description;
}

interface Picture {
  /** Number of a 3D picture's view, or the style it is drawn in. */
  readonly view: string;
  readonly image: Uint8Array;
  /** Name and version of the package. */
  readonly source: string;
  /** What descriptions say of colours and of an icon in 3D holds for it. */
  readonly isDescribed: boolean;
}

const FORMAT = 3; // raise when pictures or texts change, so that old packs are made again
const MAX_VIEWS = 16;
const CONCURRENCY = 4; // sharp decodes and encodes in its own threads
const MARKER = 'emoji.json';
const README = 'README.md';
const UNDER_WAY = '{}\n';

/** `fit` and `validation` are the two parts of `train`; settings are chosen on them, never on `held-out`. */
const PARTS: Readonly<
  Record<
    'train' | 'fit' | 'validation' | 'held-out',
    { wanted: (c: Concept) => boolean; allPictures: boolean }
  >
> = {
  train: { wanted: (c) => c.split === 'train', allPictures: true },
  fit: { wanted: (c) => c.split === 'train' && !c.validation, allPictures: true },
  validation: { wanted: (c) => c.validation, allPictures: false },
  'held-out': { wanted: (c) => c.split === 'heldOut', allPictures: false },
};

/**
 * Makes the shard folders of `EmojiSet` in `folder`. A second call with the same options returns at once.
 *
 * Every row has the extra columns label, tags, group, subgroup, hexcode, colors, view and, for scoring, content: the
 * words of the caption that depend on the image, joined by commas.
 *
 * @throws UserError if `views` is out of range, or the folder cannot be written or has other things in it
 */
export async function packEmoji(
  folder: string,
  { views = 4, styles = [], overwrite = false, onProgress }: PackEmojiOptions = {},
): Promise<PackedEmoji> {
  if (!Number.isInteger(views) || views < 1 || views > MAX_VIEWS) {
    throw new UserError(`packEmoji: views must be from 1 to ${MAX_VIEWS}, got ${views}`);
  }
  const marker = markerText(views, styles);
  const found = await packedRows(folder, marker);
  if (found !== null) return { rows: found, packed: false };

  const names = await namesIn(folder);
  if (!overwrite) requireOwn(folder, names);
  await mkdir(folder, { recursive: true });
  for (const name of names.filter(isHalfWritten))
    await rm(join(folder, name), { recursive: true, force: true });
  await writeFileWhole(join(folder, MARKER), UNDER_WAY); // while the sets change, the folder is ours and not done
  const wanted = { views, styles: styles.map(openStyle), source: emojiOrigin().images };
  const rendered = await renderAll(emojiConcepts(), wanted, onProgress);
  const about = aboutText(styles);
  for (const name of setNames())
    await writeShards(join(folder, name), pairsOf(name, rendered), { overwrite: true, about });
  await writeFileWhole(join(folder, README), `# Emoji with their names\n\n${about}\n`);
  await writeFileWhole(join(folder, MARKER), marker);
  const rows = await packedRows(folder, marker);
  if (rows === null) throw new Error(`packEmoji: the sets must be in ${folder} after packing`);
  return { rows, packed: true };
}

/** @throws UserError if other things are there than an earlier call made */
function requireOwn(folder: string, names: readonly string[]): void {
  if (names.every(isHalfWritten) || names.includes(MARKER)) return;
  throw new UserError(
    `${folder}: exists already, is not empty and has no ${MARKER} of an earlier packing (choose another place, or --force to write into it)`,
  );
}

/** The pictures of a training concept. */
interface Wanted {
  readonly views: number;
  readonly styles: readonly DrawingStyle[];
  /** Name and version of the package of the 3D pictures. */
  readonly source: string;
}

/** Whether a name is a temporary one, as `src/files.ts` makes them, of what is written here: a kill leaves it. */
function isHalfWritten(name: string): boolean {
  const [, whole = ''] = /^\.(.+)\.[0-9a-f]{8}\.tmp$/.exec(name) ?? [];
  return [MARKER, README, ...setNames()].includes(whole);
}

/** Rows of each set, if the marker says that this very pack is done; else null. */
async function packedRows(folder: string, marker: string): Promise<Record<EmojiSet, number> | null> {
  const found = await readFile(join(folder, MARKER), 'utf8').catch(() => ''); // none yet: pack
  if (found !== marker) return null;
  const rows: [EmojiSet, number][] = [];
  for (const name of setNames()) {
    const manifest = await readManifest(join(folder, name));
    if (manifest === null) return null;
    rows.push([name, manifest.rows]);
  }
  return Object.fromEntries(rows) as Record<EmojiSet, number>; // one entry a name, by the loop
}

async function renderAll(
  concepts: readonly Concept[],
  wanted: Wanted,
  onProgress: PackEmojiOptions['onProgress'],
): Promise<Rendered[]> {
  const rendered: Rendered[] = [];
  const queue = concepts.entries();
  let done = 0;
  let failed = false;
  const work = async () => {
    for (const [i, concept] of queue) {
      if (failed) return; // the first error is thrown below; nobody works on after it
      try {
        rendered[i] = await render(
          concept,
          concept.split === 'train' ? wanted : { ...wanted, views: 1, styles: [] },
        );
        onProgress?.(++done, concepts.length);
      } catch (cause) {
        failed = true;
        throw cause;
      }
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, work));
  return rendered;
}

async function render(concept: Concept, { views, styles, source }: Wanted): Promise<Rendered> {
  const pixels = await readPixels(concept);
  const pictures: Picture[] = [];
  for (let view = 0; view < views; view++) {
    const image = await renderView(concept, view, pixels);
    pictures.push({ view: String(view), image, source, isDescribed: true });
  }
  for (const { style, source, draw } of styles) {
    const image = await draw(concept);
    if (image) pictures.push({ view: style, image, source, isDescribed: false });
  }
  return { concept, pictures, description: describe(concept, dominantColors(pixels)) };
}

function* pairsOf(name: EmojiSet, rendered: readonly Rendered[]): Generator<ImageTextPair> {
  const [stage, ...rest] = name.split('-');
  const part = PARTS[rest.join('-') as keyof typeof PARTS]; // EmojiSet spells them so
  for (const { concept, pictures, description } of rendered) {
    if (!part.wanted(concept)) continue;
    const shown = part.allPictures ? pictures : pictures.slice(0, 1);
    for (const picture of shown)
      if (stage === 'stage1') yield pairOf(concept, picture, description, true);
      else if (picture.isDescribed) yield pairOf(concept, picture, description, false);
  }
}

function pairOf(
  concept: Concept,
  { view, image, source }: Picture,
  { text, label, colors, tags }: Description,
  nameOnly: boolean,
): ImageTextPair {
  const content = nameOnly ? [label] : [label, ...colors, ...tags];
  const { group, subgroup, hexcode } = concept;
  return {
    id: `${hexcode}/${view}`,
    image,
    caption: nameOnly ? label : text,
    source,
    extra: {
      label,
      tags: concept.tags.join(','),
      group,
      subgroup,
      hexcode,
      colors: colors.join(','),
      view,
      content: content.join(','),
    },
  };
}

function setNames(): EmojiSet[] {
  return [
    'stage1-train',
    'stage1-fit',
    'stage1-validation',
    'stage1-held-out',
    'stage2-train',
    'stage2-fit',
    'stage2-validation',
    'stage2-held-out',
  ];
}

function markerText(views: number, styles: readonly EmojiStyle[]): string {
  const drawn = styles.map((style) => styleOrigin(style).source);
  const made = { format: FORMAT, views, styles: drawn, ...emojiOrigin() };
  const hash = createHash('sha256').update(JSON.stringify(made)).digest('hex');
  return `${JSON.stringify({ ...made, hash }, null, 2)}\n`;
}

function aboutText(styles: readonly EmojiStyle[]): string {
  const { images, names } = emojiOrigin();
  const others = styles.map((style) => `, ${styleText(style)}`).join('');
  return (
    `Images: Microsoft Fluent Emoji 3D from ${images} (MIT)${others}. Names, tags and groups: ${names} (MIT). ` +
    'Stage-2 captions are filled templates, not written by people.'
  );
}
