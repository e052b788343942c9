/** `minigpt4 pack` */
import { join } from 'node:path';

import { flag, requiredText, text, verb, wholeNumber } from './verb.js';

/** Packs pairs into shards. */
export const pack = verb({
  command: 'pack <source>',
  describe:
    "Packs images with captions into Arrow shards: folders, lists, webdataset tars, MiniGPT-4's own data.",
  options: {
    source: requiredText(
      'source',
      'a folder of images with .txt files beside them; a .jsonl, .csv or .tsv list; a .tar, or a folder with tars, as img2dataset writes them; a folder with filter_cap.json and image/ (cc_sbu_align); or the word emoji for the default set',
    ),
    out: requiredText('out', 'folder of the shards (with emoji: of its shard folders)'),
    views: wholeNumber('views', 'with emoji: pictures of each training concept, 1 to 16; 4 if not given', 1),
    'rows-per-shard': wholeNumber('rows-per-shard', 'pairs of a shard; 4096 if not given', 1),
    about: text('about', 'origin and licence of the data, kept in manifest.json'),
    force: flag('replace a folder that is there'),
  },
  example: 'pack emoji --out shards/quickstart',
  async run({ source, out, views, 'rows-per-shard': rowsPerShard, about, force }) {
    const { packSource } = await import('../pack.js');
    const { Display } = await import('./display.js');
    const display = new Display();
    try {
      const { rows, packed, problems } = await packSource(source, out, {
        ...(views !== undefined && { views }),
        ...(rowsPerShard !== undefined && { rowsPerShard }),
        ...(about !== undefined && { about }),
        overwrite: force,
        onProgress: (done, total = 0) => display.show('packing', done, total),
        onProblem: ({ where, reason }) => display.note(`left out: ${where}: ${reason}`),
      });
      display.stop();
      for (const [folder, count] of Object.entries(rows)) console.log(`${join(out, folder)}: ${count} pairs`);
      if (!packed) console.log('all there already');
      if (problems > 0) console.log(`left out: ${problems}`);
    } finally {
      display.stop();
    }
  },
});
