/** The reference's caption cleaner. */

/** What Python's `\s` matches; JavaScript's adds U+FEFF and lacks U+001C–001F and U+0085. */
// eslint-disable-next-line no-control-regex -- U+001C–001F are white space to Python
const RUN_OF_SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]{2,}/g;

/**
 * Cleans a caption as MiniGPT-4 does before stage 1: lower case, `. ! " ( ) * # : ; ~` become spaces, runs of white
 * space one space, trimmed, at most `maxWords` words. Commas, apostrophes, hyphens and `?` stay.
 *
 * @returns the text; empty if nothing is left, which the caller treats as a bad sample
 * Reference quirk: only trailing newlines and outer spaces are trimmed, so a leading newline or an inner tab stays.
 * Source: salesforce/LAVIS, lavis/processors/blip_processors.py, `BlipCaptionProcessor.pre_caption`.
 */
export function cleanCaption(caption: string, maxWords = 50): string {
  const spaced = caption
    .toLowerCase()
    .replace(/[.!"()*#:;~]/g, ' ')
    .replace(RUN_OF_SPACE, ' ');
  const trimmed = spaced.replace(/\n+$/, '').replace(/^ +| +$/g, '');
  return trimmed.split(' ').slice(0, maxWords).join(' ');
}
