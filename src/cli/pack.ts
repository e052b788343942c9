/** `minigpt4 pack` */
import { join } from 'node:path';

import type { PackProgress } from '../data/packing/packPairs.js';
import { UserError } from '../errors.js';
import type { PackOptions } from '../pack.js';
import type { Display } from './display.js';
import { onStopSignals, SIGNAL_CODES } from './signals.js';
import { flag, requiredText, text, verb, wholeNumber } from './verb.js';

const SHOWN_PROBLEMS = 20;
const UNITS: Readonly<Record<string, number>> = { kB: 1e3, MB: 1e6, GB: 1e9 };

/** Packs pairs into shards. */
export const pack = verb({
  command: 'pack <source>',
  describe:
    "Packs images with captions into Arrow shards (folders, lists, webdataset tars, Hugging Face data sets, COCO captions, MiniGPT-4's own data), and goes on where it was if it is stopped or killed.",
  options: {
    source: requiredText(
      'source',
      'a folder of images with .txt files beside them; a .jsonl, .csv or .tsv list; a .tar, or a folder with tars, as img2dataset writes them; an .arrow or .parquet file, or a folder of them, as Hugging Face datasets has them; a COCO captions .json; a folder with filter_cap.json and image/ (cc_sbu_align); or the word emoji for the default set',
    ),
    out: requiredText('out', 'folder of the shards (with emoji: of its shard folders)'),
    'image-column': text(
      'image-column',
      'with lists and tables: the column with the image; image (in tables also jpg, img) if not given',
    ),
    'caption-column': text(
      'caption-column',
      'with lists and tables: the column with the caption; caption (in tables also text, captions, txt) if not given. Several captions of an image make a pair each',
    ),
    images: text(
      'images',
      'with COCO and lists: the folder of the images; looked for beside the file if not given',
    ),
    split: text(
      'split',
      'with a folder of Arrow or Parquet files of several splits: the one to pack, as train',
    ),
    'rows-per-shard': wholeNumber('rows-per-shard', 'pairs of a shard at most; 4096 if no limit is given', 1),
    'shard-size': shardSize(),
    'max-side': wholeNumber(
      'max-side',
      'scale images down whose longer side has more pixels; others keep their bytes',
      1,
    ),
    quality: wholeNumber(
      'quality',
      'JPEG quality, 1 to 100, to store images anew with where that makes them smaller; without it, scaled images are JPEGs of 95, or PNGs if they were lossless',
      1,
    ),
    dedup: {
      choices: ['image', 'pair'],
      requiresArg: true,
      describe: 'leave out pairs whose image, or image and caption, came before byte for byte',
    } as const,
    workers: wholeNumber(
      'workers',
      'pairs read and encoded at the same time; the number of cores if not given. The shards are the same',
      1,
    ),
    views: wholeNumber('views', 'with emoji: pictures of each training concept, 1 to 16; 4 if not given', 1),
    styles: {
      type: 'string',
      array: true,
      choices: ['noto', 'flat'],
      requiresArg: true,
      describe:
        'with emoji: other drawing styles (Noto Emoji, Fluent Emoji Flat) of which each training concept has a picture besides, in stage 1',
    } as const,
    about: text('about', 'origin and licence of the data, kept in manifest.json'),
    force: flag(
      'replace shards that are there, or what was begun of them with other options; with emoji: write into a folder with other things',
    ),
  },
  example: 'pack emoji --out shards/quickstart',
  async run(given) {
    const { source, out, views, styles, about, force, images, split, quality, dedup, workers } = given;
    const options = {
      views,
      styles,
      about,
      images,
      split,
      quality,
      dedup,
      workers,
      imageColumn: given['image-column'],
      captionColumn: given['caption-column'],
      rowsPerShard: given['rows-per-shard'],
      bytesPerShard: given['shard-size'],
      maxSide: given['max-side'],
      overwrite: force,
    };
    await packAndTell(source, out, options);
  },
});

/** What the command line gave; options that were not given are undefined. */
type Given = { readonly [K in keyof PackOptions]: PackOptions[K] | undefined };

async function packAndTell(source: string, out: string, given: Given): Promise<void> {
  const { DEFAULT_SET, packSource } = await import('../pack.js');
  const { Display } = await import('./display.js');
  const { problemText } = await import('../data/importers/source.js');
  const display = new Display();
  const { onProgress, end } = progressShown(display);
  const listed = join(out, 'problems.jsonl');
  const leave = endOnSignals(
    () => display.stop(),
    source === DEFAULT_SET ? 'the same command begins anew' : 'the same command goes on',
  );
  let told = 0;
  try {
    const { rows, packed, problems, reasons, duplicates, recoded } = await packSource(source, out, {
      ...withoutUndefined(given),
      onProgress,
      onNote: (words) => display.note(words),
      onProblem: (problem) => {
        told += 1;
        if (told <= SHOWN_PROBLEMS) display.note(`left out: ${problem.where}: ${problemText(problem)}`);
        if (told === SHOWN_PROBLEMS) display.note(`further ones are listed in ${listed} only`);
      },
    });
    end();
    for (const [folder, count] of Object.entries(rows)) console.log(`${join(out, folder)}: ${count} pairs`);
    if (!packed) console.log('all there already');
    if (recoded > 0) console.log(`images stored anew: ${recoded}`);
    if (duplicates > 0) console.log(`duplicates left out: ${duplicates}`);
    if (problems > 0) console.log(`left out: ${problems}, listed in ${listed}`);
    const sorted = Object.entries(reasons).sort(([, a], [, b]) => b - a);
    for (const [reason, count] of sorted) console.log(`  ${count} × ${reason}`);
  } finally {
    display.stop();
    leave();
  }
}

/** Shows megabytes or pairs of the source that are done, and pairs a second since this process began. */
function progressShown(display: Display) {
  let first: { readonly at: number; readonly pairs: number } | undefined;
  let latest: PackProgress | undefined;
  const show = ({ done, total, unit, pairs }: PackProgress, isEnd: boolean) => {
    first ??= { at: performance.now(), pairs };
    const seconds = (performance.now() - first.at) / 1000;
    const rate = seconds > 0.5 ? `, ${((pairs - first.pairs) / seconds).toFixed(0)}/s` : '';
    const [size, name] = unit === 'pairs' ? [1, ''] : total >= 10e6 ? [1e6, ', MB'] : [1e3, ', kB'];
    const whole = Math.ceil(total / size);
    // The last bytes are read before their pairs are packed: all is done when packing says so
    const part = isEnd ? whole : Math.min(Math.floor(done / size), whole - 1);
    display.show(`packing${name}`, part, whole, `${pairs} pairs${rate}`);
  };
  return {
    onProgress: (progress: PackProgress) => show((latest = progress), false),
    end: () => {
      if (latest) show(latest, true);
      display.stop();
    },
  };
}

/** Ends the process at a signal: what is written is whole at any instant. @returns what lets signals do as usual again */
function endOnSignals(stop: () => void, lastWord: string): () => void {
  return onStopSignals((name) => {
    stop();
    process.stderr.write(`${name}: ends at once; ${lastWord}\n`);
    process.exit(SIGNAL_CODES[name]);
  });
}

function withoutUndefined(given: Given): PackOptions {
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}

/** `--shard-size`, in bytes. */
function shardSize() {
  const option = text(
    'shard-size',
    'bytes of images and texts of a shard, as 512MB (kB, MB or GB, of 1000); 256MB if no limit is given',
  );
  return {
    ...option,
    coerce: (given: unknown) => {
      const value = option.coerce(given);
      const [, number = '', unit = ''] = /^(\d+(?:\.\d+)?) ?(kB|MB|GB)$/.exec(value) ?? [];
      const bytes = Math.round(Number(number) * (UNITS[unit] ?? NaN));
      if (bytes >= 1) return bytes;
      throw new UserError(`--shard-size must be a size in kB, MB or GB, as 512MB, got "${value}"`);
    },
  } as const;
}
