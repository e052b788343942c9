/**
 * The concepts of the default data set: which emoji, what they are called, and which are held out.
 * Names and tags: emojibase-data (MIT). Images: Microsoft's Fluent Emoji as packed in @lobehub/fluent-emoji-3d (MIT).
 */

import { createHash } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

/** One emoji with its image and its words. */
export interface Concept {
  /** Code points in upper case, as emojibase writes them, such as `1F405`. */
  readonly hexcode: string;
  /** What decides the split: the code points without skin tone, gender and variation marks. */
  readonly key: string;
  /** CLDR short name, such as `tiger`; may have capitals (`Statue of Liberty`). */
  readonly label: string;
  readonly tags: readonly string[];
  /** Such as `animals-nature`. */
  readonly group: string;
  /** Such as `animal-mammal`. */
  readonly subgroup: string;
  /** Held-out concepts are never trained on and never used to choose a setting. */
  readonly split: 'train' | 'heldOut';
  /** True for the part of the training concepts on which settings are chosen. */
  readonly validation: boolean;
  /** Path of the WebP image, 256 × 256 RGBA. */
  readonly file: string;
}

/** Where the data comes from, for manifests and reports. */
export interface EmojiOrigin {
  readonly images: string;
  readonly names: string;
}

const IMAGES = '@lobehub/fluent-emoji-3d';
const NAMES = 'emojibase-data';
const GROUPS = [3, 4, 5, 6, 7]; // animals, food, travel, activities, objects; faces and people made results worse
const HELD_OUT_PERCENT = 12;
const VALIDATION_PERCENT = 15;
const DROPPED = /^(FE0F|1F3F[B-F]|2640|2642)$/; // variation mark, skin tones, woman, man
const require = createRequire(import.meta.url);

/** The concepts in emojibase's order: 641 for training (88 of them for validation) and 91 held out. */
export function emojiConcepts(): Concept[] {
  const folder = join(dirname(require.resolve(`${IMAGES}/package.json`)), 'assets');
  const files = new Set(readdirSync(folder));
  const groups = readJson(`${NAMES}/meta/groups.json`) as GroupNames;
  const entries = readJson(`${NAMES}/en/data.json`) as Entry[];
  return entries.flatMap((entry) => {
    const file = fileOf(entry.hexcode, files);
    if (entry.group === undefined || entry.subgroup === undefined) return [];
    if (file === undefined || !GROUPS.includes(entry.group)) return [];
    const key = splitKey(entry.hexcode);
    const heldOut = bucket(key) < HELD_OUT_PERCENT;
    return {
      hexcode: entry.hexcode,
      key,
      label: entry.label,
      tags: entry.tags ?? [],
      group: groups.groups[entry.group] ?? String(entry.group),
      subgroup: groups.subgroups[entry.subgroup] ?? String(entry.subgroup),
      split: heldOut ? 'heldOut' : 'train',
      validation: !heldOut && bucket(`val${key}`) < VALIDATION_PERCENT,
      file: join(folder, file),
    };
  });
}

/** Names and versions of the two packages. */
export function emojiOrigin(): EmojiOrigin {
  const versionOf = (name: string) =>
    `${name}@${(readJson(`${name}/package.json`) as { version: string }).version}`;
  return { images: versionOf(IMAGES), names: versionOf(NAMES) };
}

/**
 * The code points that name the concept, so that variants of one thing fall on the same side of the split.
 *
 * @param hexcode code points joined by `-`
 */
export function splitKey(hexcode: string): string {
  const points = hexcode
    .toUpperCase()
    .split('-')
    .filter((point) => !DROPPED.test(point))
    .map((point) => (point === '1F468' || point === '1F469' ? '1F9D1' : point)); // man, woman → person
  while (points.at(-1) === '200D') points.pop(); // a joiner with nothing left to join
  return points.join('-');
}

/** An entry of emojibase-data's en/data.json, as far as it is used. */
interface Entry {
  readonly hexcode: string;
  readonly label: string;
  readonly tags?: readonly string[];
  readonly group?: number;
  readonly subgroup?: number;
}

interface GroupNames {
  readonly groups: Readonly<Record<string, string>>;
  readonly subgroups: Readonly<Record<string, string>>;
}

/** 0 to 99, evenly spread over texts. */
function bucket(text: string): number {
  return parseInt(createHash('sha1').update(text).digest('hex').slice(0, 8), 16) % 100;
}

function fileOf(hexcode: string, files: ReadonlySet<string>): string | undefined {
  const whole = hexcode.toLowerCase();
  const plain = whole
    .split('-')
    .filter((point) => point !== 'fe0f')
    .join('-');
  return [`${whole}.webp`, `${plain}.webp`].find((name) => files.has(name));
}

/** A file of one of the default set's packages, whose versions are pinned: its shape is known. */
export function readJson(path: string): unknown {
  return JSON.parse(readFileSync(require.resolve(path), 'utf8'));
}
