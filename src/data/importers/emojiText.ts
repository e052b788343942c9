/**
 * Stage-2 texts of the default set: a sentence template filled with what is known of an emoji. They are templated,
 * not written by people, and must be called so wherever they appear.
 */

import type { Concept } from './emojiConcepts.js';

/** A description and the words in it that depend on the image, as they stand in the text. */
export interface Description {
  readonly text: string;
  readonly label: string;
  readonly colors: readonly string[];
  readonly category: string;
  readonly tags: readonly string[];
}

const MAX_TAGS = 2; // of three the model makes lists that do not end: "bear, bear, bear, …"

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
 * Describes an emoji: `tiger: the image shows a 3D icon in orange and black. Its category is mammal. Related words are …`.
 * The text begins with the label in lower case, which is what stage 1 taught the model to say first, and has one form:
 * all that differs between two texts can be seen in the image.
 *
 * @param colors at most two, as `dominantColors` measures them
 */
export function describe(concept: Concept, colors: readonly string[]): Description {
  const label = concept.label.toLowerCase();
  const category = categoryOf(concept.subgroup);
  const tags = relatedTags(concept);
  const sentences = [
    `${label}: the image shows a 3D icon${colors.length > 0 ? ` in ${join(colors)}` : ''}.`,
    `Its category is ${category}.`,
    tags.length > 0 && `Related words are ${join(tags)}.`,
  ];
  return {
    text: sentences.filter((sentence) => sentence !== false).join(' '),
    label,
    colors,
    category,
    tags,
  };
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
