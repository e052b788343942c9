/** Pairs of MiniGPT-4's stage-2 data, `cc_sbu_align`: a folder with `filter_cap.json` and `image/ID.jpg`. */

import { stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { UserError } from '../../errors.js';
import { fileError } from '../../files.js';
import type { ImageTextPair } from '../pairs.js';
import {
  captionId,
  filesIdentity,
  isRecord,
  problemAt,
  readJson,
  readPair,
  readPairs,
  ready,
  type ImportOptions,
  type Source,
  type SourceItem,
} from './source.js';

/** The file that makes a folder one of this kind. */
export const ALIGN_FILE = 'filter_cap.json';

/**
 * The pairs of `filter_cap.json`, `{"annotations": [{"image_id": "2", "caption": "…"}, …]}`, in its order: the image is
 * `image/ID.jpg`, bytes as they are, whatever kind of image they hold; the caption is taken as it stands. The id is the
 * `image_id`; where an image comes again with another caption, `#2` and so on is added.
 *
 * @throws UserError if the folder has no `image` folder, or the JSON cannot be read or has no list of annotations
 * Source: Vision-CAIR/MiniGPT-4, minigpt4/datasets/datasets/cc_sbu_dataset.py, `CCSBUAlignDataset`.
 */
export async function alignSource(folder: string): Promise<Source> {
  const file = join(folder, ALIGN_FILE);
  const annotations = await readAnnotations(file);
  const images = join(folder, 'image');
  await stat(images).catch((cause: unknown) => {
    throw fileError(images, cause);
  });
  return {
    kind: 'cc_sbu_align',
    columns: [],
    unit: 'pairs',
    identity: await filesIdentity([file]),
    parts: [{ size: annotations.length, items: () => itemsOf(file, images, annotations) }],
  };
}

/** Pairs of `filter_cap.json` one after the other, as `alignSource` has them. @throws UserError as that does */
export async function* readAlign(folder: string, options: ImportOptions = {}): AsyncGenerator<ImageTextPair> {
  yield* readPairs(await alignSource(folder), options);
}

async function* itemsOf(
  file: string,
  images: string,
  annotations: readonly unknown[],
): AsyncGenerator<SourceItem> {
  const times = new Map<string, number>();
  for (const [i, annotation] of annotations.entries()) {
    const where = `${file}: annotations[${i}]`;
    const found = readAnnotation(annotation);
    if ('reason' in found) {
      yield ready(i + 1, problemAt(where, found.reason, found.detail));
      continue;
    }
    const { image, caption } = found;
    const time = times.get(image) ?? 0;
    times.set(image, time + 1);
    const path = join(images, `${image}.jpg`);
    const known = { id: captionId(image, time), caption, extra: {} };
    yield { passed: i + 1, load: () => readPair(path, where, known) };
  }
  await Promise.resolve(); // the interface is asynchronous, this list is not
}

/** Image and caption of one annotation, or why there is none. */
function readAnnotation(annotation: unknown) {
  if (!isRecord(annotation)) return { reason: 'not a JSON object' };
  const { image_id: imageId, caption } = annotation;
  const id = typeof imageId === 'number' ? String(imageId) : imageId;
  if (typeof id !== 'string' || id === '') return { reason: 'no image_id' };
  if (basename(id) !== id) return { reason: 'image_id must name a file of the folder image', detail: id };
  if (typeof caption !== 'string' || caption.trim() === '') return { reason: 'caption is empty' };
  return { image: id, caption };
}

async function readAnnotations(file: string): Promise<readonly unknown[]> {
  const value = await readJson(file, ALIGN_FILE);
  const annotations: unknown = isRecord(value) ? value['annotations'] : undefined;
  if (Array.isArray(annotations)) return annotations as unknown[]; // of anything: each is looked at
  throw new UserError(
    `pack: ${ALIGN_FILE} must hold an object with a list "annotations", got another thing in ${file} (copy MiniGPT-4's file, or give a list of another kind)`,
  );
}
