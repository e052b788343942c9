/** Pairs of COCO's caption annotations: a JSON file with `images` and `annotations`, and a folder of images. */

import { existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { UserError } from '../../errors.js';
import { fileError } from '../../files.js';
import {
  filesIdentity,
  isInside,
  isRecord,
  problemAt,
  readJson,
  readPair,
  ready,
  type Source,
  type SourceItem,
} from './source.js';

const SPLIT_NAME = /(?:^|_)((?:train|val|test)\d*)\.json$/i; // captions_val2014.json

/** Whether a file may be COCO's by its name. */
export function isCoco(name: string): boolean {
  return name.toLowerCase().endsWith('.json');
}

/**
 * The pairs of a COCO captions file, one for each annotation in its order, captions as they stand: so an image with five
 * captions comes five times. The id is the annotation's, the extra column `image_id` the image's.
 *
 * @param images folder of the images; if not given it is looked for beside the file: `val2014` for `captions_val2014.json`
 *   there, in the folder above or in its `images`, then `images`, then the file's own folder
 * @throws UserError if the file cannot be read, is not of this kind, or its images are in none of these folders
 * Source: https://cocodataset.org/#format-data, "Image Captioning".
 */
export async function cocoSource(file: string, images?: string): Promise<Source> {
  const { names, annotations } = await readAnnotations(file);
  const folder = images === undefined ? findImages(file, names) : resolve(images);
  await stat(folder).catch((cause: unknown) => {
    throw fileError(folder, cause);
  });
  return {
    kind: 'COCO captions',
    columns: ['image_id'],
    unit: 'pairs',
    identity: await filesIdentity([file]),
    parts: [{ size: annotations.length, items: () => itemsOf(file, folder, names, annotations) }],
  };
}

async function* itemsOf(
  file: string,
  folder: string,
  names: ReadonlyMap<string, string>,
  annotations: readonly unknown[],
): AsyncGenerator<SourceItem> {
  for (const [i, annotation] of annotations.entries()) {
    const where = `${file}: annotations[${i}]`;
    const found = readAnnotation(annotation, i, folder, names);
    if ('reason' in found) yield ready(i + 1, problemAt(where, found.reason, found.detail));
    else yield { passed: i + 1, load: () => readPair(found.path, where, found.known) };
  }
  await Promise.resolve(); // the interface is asynchronous, this list is not
}

/** Where the image of an annotation is and what else its pair has, or why there is none. */
function readAnnotation(
  annotation: unknown,
  index: number,
  folder: string,
  names: ReadonlyMap<string, string>,
) {
  if (!isRecord(annotation)) return { reason: 'not a JSON object' };
  const { id, image_id: imageId, caption } = annotation;
  const image = keyOf(imageId);
  if (image === undefined) return { reason: 'no image_id' };
  const name = names.get(image);
  if (name === undefined) return { reason: 'no image of its image_id in the list "images"', detail: image };
  const path = resolve(folder, name);
  if (!isInside(folder, path))
    return { reason: 'file_name must name a file of the image folder', detail: name };
  const text = typeof caption === 'string' ? caption : '';
  return { path, known: { id: keyOf(id) ?? `#${index}`, caption: text, extra: { image_id: image } } };
}

/** The list of annotations, and file names of images by their ids. */
async function readAnnotations(
  file: string,
): Promise<{ names: Map<string, string>; annotations: readonly unknown[] }> {
  const value = await readJson(file, 'a COCO captions file');
  const [images, annotations] = isRecord(value) ? [value['images'], value['annotations']] : [];
  if (!Array.isArray(images) || !Array.isArray(annotations))
    throw new UserError(
      `pack: a .json source must be COCO captions, an object with the lists "images" and "annotations", got another thing in ${file} (make a .jsonl list of it)`,
    );
  const names = new Map<string, string>();
  for (const image of images as unknown[]) {
    if (!isRecord(image)) continue; // what needs it is told of
    const id = keyOf(image['id']);
    const name = image['file_name'];
    if (id !== undefined && typeof name === 'string' && name !== '') names.set(id, name);
  }
  return { names, annotations: annotations as unknown[] }; // of anything: each is looked at
}

function findImages(file: string, names: ReadonlyMap<string, string>): string {
  const here = dirname(resolve(file));
  const [, split] = SPLIT_NAME.exec(basename(file)) ?? [];
  const named = split === undefined ? [] : [join(here, split), join(here, '..', split), join(here, '../images', split)]; // prettier-ignore
  const folders = [...named, join(here, 'images'), join(here, '../images'), here];
  const [first] = names.values();
  const found = first === undefined ? here : folders.find((folder) => existsSync(join(folder, first)));
  if (found !== undefined) return found;
  throw new UserError(
    `pack: the images of ${file} must be beside it, but ${String(first)} is in none of ${folders.join(', ')} (give their folder with --images)`,
  );
}

function keyOf(id: unknown): string | undefined {
  const text = typeof id === 'number' ? String(id) : id;
  return typeof text === 'string' && text !== '' ? text : undefined;
}
