import { mkdir, mkdtemp, readdir, readFile, rm, stat, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../../../src/errors.js';
import { decodeImage } from '../../../src/data/images/images.js';
import { packEmoji, type EmojiSet } from '../../../src/data/importers/emoji.js';
import { emojiConcepts, splitKey, type Concept } from '../../../src/data/importers/emojiConcepts.js';
import { describe as describeEmoji } from '../../../src/data/importers/emojiText.js';
import { openStyle } from '../../../src/data/importers/emojiStyles.js';
import { colorName, dominantColors, readPixels, renderView } from '../../../src/data/importers/emojiViews.js';
import { ShardSet } from '../../../src/data/shards/shards.js';

const concepts = emojiConcepts();
const byLabel = (label: string): Concept => {
  const found = concepts.find((concept) => concept.label === label);
  if (found === undefined) throw new Error(`no concept ${label}`);
  return found;
};

describe('emojiConcepts', () => {
  it('has 641 training concepts, 88 of them for validation, and 91 held out', () => {
    expect(concepts.filter(({ split }) => split === 'train')).toHaveLength(641);
    expect(concepts.filter(({ split }) => split === 'heldOut')).toHaveLength(91);
    expect(concepts.filter(({ validation }) => validation)).toHaveLength(88);
    expect(concepts.some(({ split, validation }) => split === 'heldOut' && validation)).toBe(false);
  });

  it('holds out those that the prototype held out, by its own words', () => {
    for (const label of [
      'tiger',
      'peacock',
      'closed book',
      'six-thirty',
      'nine o’clock',
      'wrench',
      'skunk',
      'crystal ball',
    ]) {
      expect(byLabel(label).split).toBe('heldOut');
    }
  });

  it('keeps the five groups of things, and no variant of one key on both sides', () => {
    expect(new Set(concepts.map(({ group }) => group))).toEqual(
      new Set(['animals-nature', 'food-drink', 'travel-places', 'activities', 'objects']),
    );
    const splits = new Map<string, string>();
    for (const { key, split } of concepts)
      expect(splits.get(key) ?? split).toBe((splits.set(key, split), split));
  });

  it('splits by code points without tone, gender and variation marks', () => {
    expect(splitKey('1F468-1F3FD-200D-1F33E')).toBe('1F9D1-200D-1F33E');
    expect(splitKey('1f3c4-1f3fb-200d-2640-fe0f')).toBe('1F3C4');
  });
});

describe('views', () => {
  it('view 0 is the emoji on white', async () => {
    const image = await decodeImage(await renderView(byLabel('tiger'), 0));
    expect([image.width, image.height]).toEqual([256, 256]);
    expect([...image.data.subarray(0, 3)]).toEqual([255, 255, 255]);
    expect(image.data.some((v) => v < 100)).toBe(true);
  });

  it('a further view is a crop of 60 to 100 % on a pastel background, the same each time and other than the next', async () => {
    const concept = byLabel('tiger');
    const views = await Promise.all([1, 2, 3, 4, 5, 6].map((view) => renderView(concept, view)));
    expect(await renderView(concept, 1)).toEqual(views[0]);
    expect(new Set(views.map((view) => Buffer.from(view).toString('base64'))).size).toBe(6);
    for (const view of views) {
      const { width, height, data } = await decodeImage(view);
      expect(width).toBe(height);
      expect((width / 256) ** 2).toBeGreaterThan(0.59);
      for (const channel of data.subarray(0, 3)) expect(channel).toBeGreaterThanOrEqual(0.9 * 150 - 4); // darkened, JPEG
    }
  });
});

describe('styles', () => {
  it.each(['noto', 'flat'] as const)(
    '%s draws training concepts on white, each unlike the other',
    async (style) => {
      const { draw, source } = openStyle(style);
      const training = concepts.filter(({ split }) => split === 'train');
      const drawn = await Promise.all(training.slice(0, 40).map(draw));
      expect(drawn.every((image) => image !== undefined)).toBe(true);
      expect(new Set(drawn.map((image) => Buffer.from(image ?? []).toString('base64'))).size).toBe(40);
      expect(source).toMatch(/^@iconify-json\/[a-z-]+@\d+\.\d+\.\d+$/);
      const { width, height, data } = await decodeImage((await draw(byLabel('tiger'))) ?? new Uint8Array());
      expect([width, height, ...data.subarray(0, 3)]).toEqual([256, 256, 255, 255, 255]);
      const [red = 0, , blue = 0] = [0, 1, 2].map((channel) => mean(data, channel));
      expect(red - blue).toBeGreaterThan(20); // a tiger is orange, whoever draws it
    },
  );

  it('a concept that a style lacks has no picture of it', async () => {
    expect(await openStyle('noto').draw({ ...byLabel('tiger'), hexcode: 'E000' })).toBeUndefined();
  });
});

/** Mean of a channel of RGB pixels. */
function mean(data: Uint8Array, channel: number): number {
  const values = data.filter((_, i) => i % 3 === channel);
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

describe('descriptions', () => {
  it('names colours as one would', () => {
    const named = { '255,0,0': 'red', '250,140,20': 'orange', '255,220,40': 'yellow', '40,160,60': 'green', '40,90,220': 'blue', '130,40,200': 'purple', '255,130,190': 'pink', '110,60,30': 'brown', '20,20,20': 'black', '240,235,245': 'white', '128,128,128': 'gray' }; // prettier-ignore
    for (const [rgb, name] of Object.entries(named)) {
      const [r = 0, g = 0, b = 0] = rgb.split(',').map(Number);
      expect([rgb, colorName(r, g, b)]).toEqual([rgb, name]);
    }
  });

  it('measures at most two colours, each of at least 15 % of what is drawn', async () => {
    expect(dominantColors(await readPixels(byLabel('star')))).toEqual(['yellow']);
    const data = new Uint8Array(48 * 48 * 4); // 80 % of the rows red, 20 % blue, the right half transparent
    for (let i = 0; i < 48 * 48; i++)
      data.set([i < 38 * 48 ? 250 : 0, 0, i < 38 * 48 ? 0 : 250, i % 48 < 24 ? 255 : 100], i * 4);
    expect(dominantColors({ width: 48, height: 48, data })).toEqual(['red', 'blue']);
  });

  it('every text begins with the label, holds its content words and one of the words that scoring looks for', () => {
    for (const concept of concepts) {
      const { text, label, colors, category, tags } = describeEmoji(concept, ['red', 'blue']);
      expect(text.startsWith(concept.label.toLowerCase())).toBe(true);
      expect(text).toMatch(/\b(icon|image|picture|color|shows|depicts|features)\b/);
      for (const word of [label, category, ...colors, ...tags]) expect(text).toContain(word);
      expect(text).not.toMatch(/ {2}|undefined|false|\.\.| ,/);
      expect(tags.length).toBeLessThanOrEqual(2);
    }
    const forms = new Set(concepts.map((c) => describeEmoji(c, []).text.slice(c.label.length).split('.')[0]));
    expect([...forms]).toEqual([': the image shows a 3D icon']);
  });

  it('names the measured colours, and leaves them out where there are none', () => {
    const tiger = byLabel('tiger');
    expect(describeEmoji(tiger, ['red']).text).toMatch(/^tiger: the image shows a 3D icon in red\. /);
    expect(describeEmoji(tiger, ['red', 'blue']).text).toContain('a 3D icon in red and blue.');
    expect(describeEmoji(tiger, []).text).toMatch(/^tiger: the image shows a 3D icon\. /);
  });
});

describe('packEmoji', () => {
  let folder = '';
  const rows: Partial<Record<EmojiSet, number>> = {};
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'emoji-'));
    const packed = await packEmoji(folder, { views: 1 });
    Object.assign(rows, packed.rows);
    expect(packed.packed).toBe(true);
  }, 60_000);
  afterAll(() => rm(folder, { recursive: true }));

  it('makes eight sets: fit and validation are train, held-out is apart', async () => {
    expect(rows).toEqual({
      'stage1-train': 641, 'stage1-fit': 553, 'stage1-validation': 88, 'stage1-held-out': 91,
      'stage2-train': 641, 'stage2-fit': 553, 'stage2-validation': 88, 'stage2-held-out': 91,
    }); // prettier-ignore
    const ids = async (name: EmojiSet) => {
      const set = await ShardSet.open(join(folder, name));
      return Promise.all(Array.from({ length: set.rows }, async (_, row) => (await set.read(row)).id));
    };
    const [train, fit, validation, heldOut] = await Promise.all(
      (['stage1-train', 'stage1-fit', 'stage1-validation', 'stage1-held-out'] as const).map(ids),
    );
    expect([...(fit ?? []), ...(validation ?? [])].sort()).toEqual([...(train ?? [])].sort());
    expect(train?.some((id) => heldOut?.includes(id))).toBe(false);
  });

  it('a stage-1 row is the picture with the lower-case label, its stage-2 row the same picture with a text', async () => {
    const one = await (await ShardSet.open(join(folder, 'stage1-held-out'))).read(0);
    const two = await (await ShardSet.open(join(folder, 'stage2-held-out'))).read(0);
    const concept = concepts.find(({ split }) => split === 'heldOut');
    expect(one.caption).toBe(concept?.label.toLowerCase());
    expect(one.extra).toMatchObject({
      label: one.caption,
      hexcode: concept?.hexcode,
      view: '0',
      content: one.caption,
    });
    expect(two.caption.startsWith(one.caption)).toBe(true);
    expect(two.caption.length).toBeGreaterThan(one.caption.length + 30);
    expect(Buffer.compare(one.image, two.image)).toBe(0);
    expect(one.source).toMatch(/^@lobehub\/fluent-emoji-3d@/);
    expect(await readFile(join(folder, 'stage2-fit', 'manifest.json'), 'utf8')).toMatch(
      /MIT.*not written by people/,
    );
  });

  it('a second call returns at once and changes nothing; a missing set is packed again', async () => {
    const path = join(folder, 'stage1-fit', 'part-00000.arrow');
    const before = await stat(path);
    const start = performance.now();
    expect(await packEmoji(folder, { views: 1 })).toEqual({ rows, packed: false });
    expect(performance.now() - start).toBeLessThan(500);
    expect((await stat(path)).mtimeMs).toBe(before.mtimeMs);
    await unlink(join(folder, 'stage1-fit', 'manifest.json'));
    let rendered = 0;
    const stopped = packEmoji(folder, {
      views: 1,
      onProgress: (done) => {
        rendered = done;
        throw new Error('packing again');
      },
    });
    await expect(stopped).rejects.toThrow('packing again');
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(rendered).toBeLessThan(10); // an error ends all the workers
  });

  it('clears away what a killed packing left half written, and takes no such folder for another’s', async () => {
    const place = join(folder, 'begun');
    const half = ['.emoji.json.0123abcd.tmp', '.stage1-train.89abcdef.tmp'];
    await mkdir(join(place, half[1] ?? ''), { recursive: true });
    await writeFile(join(place, half[0] ?? ''), '{');
    await writeFile(join(place, half[1] ?? '', 'part-00000.arrow'), 'half');
    const pack = () =>
      packEmoji(place, {
        views: 1,
        onProgress: () => {
          throw new Error('begun');
        },
      });
    await expect(pack()).rejects.toThrow('begun');
    expect(await readdir(place)).toEqual(['emoji.json']);
    await unlink(join(place, 'emoji.json'));
    await writeFile(join(place, '.mine.0123abcd.tmp'), 'mine');
    await expect(pack()).rejects.toThrow(/exists already, is not empty/);
  });

  it('pictures of other styles are for training in stage 1 alone, under their own source', async () => {
    const place = join(folder, 'styled');
    const { rows: styled } = await packEmoji(place, { views: 1, styles: ['noto', 'flat'] });
    expect(styled).toEqual({ ...rows, 'stage1-train': 3 * 641, 'stage1-fit': 3 * 553 });
    const set = await ShardSet.open(join(place, 'stage1-train'));
    const [plain, noto, flat] = await Promise.all([0, 1, 2].map((row) => set.read(row)));
    expect([noto?.caption, flat?.caption]).toEqual([plain?.caption, plain?.caption]);
    expect([plain, noto, flat].map((pair) => pair?.extra['view'])).toEqual(['0', 'noto', 'flat']);
    expect([noto?.source, flat?.source]).toEqual([
      expect.stringMatching(/^@iconify-json\/noto@/),
      expect.stringMatching(/^@iconify-json\/fluent-emoji-flat@/),
    ]);
    const manifest = await readFile(join(place, 'stage1-train', 'manifest.json'), 'utf8');
    expect(manifest).toMatch(/Noto Emoji from @iconify-json\/noto@\S+ \(Apache-2\.0\)/);
    const again = packEmoji(place, {
      views: 1,
      styles: ['noto'],
      onProgress: () => {
        throw new Error('packing again');
      },
    });
    await expect(again).rejects.toThrow('packing again'); // other styles, another set
  }, 60_000);

  it('refuses 0 views', async () => {
    await expect(packEmoji(folder, { views: 0 })).rejects.toThrow(UserError);
  });
});
