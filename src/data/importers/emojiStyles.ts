/**
 * The concepts as others draw them: further pictures to train on, from which the projection learns what is the same in all.
 * Vector pictures of Iconify's packages, found by code points as the concepts are: what is held out is so in every style.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import sharp from 'sharp';
import { readJson, type Concept } from './emojiConcepts.js';

/** `noto`: Google's Noto Emoji; `flat`: Microsoft's Fluent Emoji without shading. */
export type EmojiStyle = 'noto' | 'flat';

/** A style whose pictures can be drawn. */
export interface DrawingStyle {
  readonly style: EmojiStyle;
  /** Name and version of the package. */
  readonly source: string;
  readonly licence: string;
  /** The concept on white, PNG of 256 × 256; undefined where the style lacks it. */
  readonly draw: (concept: Concept) => Promise<Uint8Array | undefined>;
}

const PACKAGES: Readonly<Record<EmojiStyle, { name: string; title: string; licence: string }>> = {
  noto: { name: '@iconify-json/noto', title: 'Noto Emoji', licence: 'Apache-2.0' },
  flat: { name: '@iconify-json/fluent-emoji-flat', title: 'Fluent Emoji Flat', licence: 'MIT' },
};
const SIZE = 256; // pixels a side, as the 3D pictures
const require = createRequire(import.meta.url);

/** Opens a style's package. */
export function openStyle(style: EmojiStyle): DrawingStyle {
  const { name } = PACKAGES[style];
  const icons = readJson(`${name}/icons.json`) as IconSet;
  const names = readJson(`${name}/chars.json`) as Readonly<Record<string, string>>;
  return {
    style,
    ...styleOrigin(style),
    draw: async ({ hexcode }) => {
      const icon = iconOf(hexcode, names, icons);
      return icon && rasterise(svgOf(icon, icons));
    },
  };
}

/** Where a style's pictures come from: package with version, and licence. */
export function styleOrigin(style: EmojiStyle): Pick<DrawingStyle, 'source' | 'licence'> {
  const { name, licence } = PACKAGES[style];
  const folder = dirname(require.resolve(`${name}/icons.json`));
  const { version } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { version: string };
  return { source: `${name}@${version}`, licence };
}

/** For texts: `Noto Emoji from @iconify-json/noto@1.2.9 (Apache-2.0)`. */
export function styleText(style: EmojiStyle): string {
  const { source, licence } = styleOrigin(style);
  return `${PACKAGES[style].title} from ${source} (${licence})`;
}

/** Iconify's icons.json, as far as it is used. */
interface IconSet {
  readonly icons: Readonly<Record<string, Icon>>;
  readonly aliases?: Readonly<Record<string, { readonly parent: string }>>;
  readonly width: number;
  readonly height: number;
}

interface Icon {
  /** What stands in the `svg` element. */
  readonly body: string;
  readonly width?: number;
  readonly height?: number;
}

function iconOf(
  hexcode: string,
  names: Readonly<Record<string, string>>,
  { icons, aliases }: IconSet,
): Icon | undefined {
  const points = hexcode.toLowerCase();
  const name = names[points] ?? names[points.replaceAll('-fe0f', '')] ?? '';
  return icons[name] ?? icons[aliases?.[name]?.parent ?? ''];
}

function svgOf(icon: Icon, { width, height }: IconSet): string {
  const box = `0 0 ${icon.width ?? width} ${icon.height ?? height}`;
  const names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"';
  return `<svg ${names} width="${SIZE}" height="${SIZE}" viewBox="${box}">${icon.body}</svg>`;
}

function rasterise(svg: string): Promise<Uint8Array> {
  return sharp(Buffer.from(svg)).flatten({ background: '#ffffff' }).png({ compressionLevel: 3 }).toBuffer();
}
