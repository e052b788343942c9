/**
 * Stage-2 texts of the default set: three sentence templates filled with what is known of an emoji. They are templated,
 * not written by people, and must be called so wherever they appear.
 */

import { createHash } from 'node:crypto';
import type { Concept } from './emojiConcepts.js';

/** A description and the words in it that depend on the image, as they stand in the text. */
export interface Description {
  readonly text: string;
  readonly label: string;
  readonly colors: readonly string[];
  readonly category: string;
  readonly tags: readonly string[];
}

const MAX_TAGS = 3;

/** Categories whose words are not simply the subgroup's own. */
const CATEGORIES: Readonly<Record<string, string>> = {
  'place-map': 'maps',
  'place-geographic': 'landscapes',
  'place-building': 'buildings',
  'place-religious': 'religious places',
  'place-other': 'places',
  'transport-ground': 'ground transport',
  'transport-water': 'water transport',
  'transport-air': 'air transport',
  'food-prepared': 'prepared food',
  'food-asian': 'Asian food',
  'food-sweet': 'sweet food',
  'plant-other': 'plants',
  'other-object': 'objects',
  'musical-instrument': 'musical instruments',
};

/**
 * Describes an emoji. Every text begins with the label in lower case, which is what stage 1 taught the model to say first.
 *
 * @param colors at most two, as `dominantColors` measures them
 */
export function describe(concept: Concept, colors: readonly string[]): Description {
  const label = concept.label.toLowerCase();
  const category = categoryOf(concept.subgroup);
  const tags = relatedTags(concept);
  return {
    text: fill(templateOf(concept), label, colors, category, join(tags)),
    label,
    colors,
    category,
    tags,
  };
}

function templateOf(concept: Concept): number {
  return parseInt(createHash('sha1').update(concept.hexcode).digest('hex').slice(0, 8), 16) % 3;
}

function fill(
  template: number,
  label: string,
  colors: readonly string[],
  category: string,
  tags: string,
): string {
  const tones = join(colors);
  const isAre = colors.length > 1 ? 's are' : ' is';
  const sentences = [
    [
      `${label}, shown as a 3D icon.`,
      tones && `The main color${isAre} ${tones}.`,
      `It belongs to the category ${category}${tags && ` and is related to ${tags}`}.`,
    ],
    [
      `${label}: the picture shows it as a 3D drawing${tones && `, mostly in ${tones}`}.`,
      `The category is ${category}.`,
      tags && `Related words are ${tags}.`,
    ],
    [
      `${label} is what this image depicts, a 3D icon from the category ${category}.`,
      tones && `Its color${isAre} ${tones}.`,
      tags && `One may also think of ${tags}.`,
    ],
  ];
  return (sentences[template] ?? []).filter((sentence) => sentence !== '').join(' ');
}

/** `animal-mammal` → `mammal`, `arts-crafts` → `arts and crafts`. */
function categoryOf(subgroup: string): string {
  const named = CATEGORIES[subgroup];
  if (named !== undefined) return named;
  const plain = subgroup.replace(/^(animal|plant|food)-/, '');
  return plain.split('-').join(' and ');
}

/** The first tags that say more than label and category do; `dogs` says no more than `dog`. */
function relatedTags({ label, tags, subgroup }: Concept): string[] {
  const stem = (word: string) => word.toLowerCase().replace(/s$/, '');
  const said = new Set(`${label} ${subgroup} ${categoryOf(subgroup)}`.split(/[^\p{L}\p{N}]+/u).map(stem));
  return tags.filter((tag) => !said.has(stem(tag)) && stem(tag) !== stem(label)).slice(0, MAX_TAGS);
}

/** `a`, `a and b`, `a, b and c`. */
function join(words: readonly string[]): string {
  const last = words.at(-1) ?? '';
  return words.length < 2 ? last : `${words.slice(0, -1).join(', ')} and ${last}`;
}
