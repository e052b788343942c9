/** Pairs of MiniGPT-4's stage-2 data, `cc_sbu_align`: a folder with `filter_cap.json` and `image/ID.jpg`. */

import { readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { UserError } from '../../errors.js';
import { fileError } from '../../files.js';
import { reasonOf } from '../fileBytes.js';
import type { ImageTextPair } from '../pairs.js';
import type { ImportOptions } from './folder.js';

/** The file that makes a folder one of this kind. */
export const ALIGN_FILE = 'filter_cap.json';

/**
 * Pairs of `filter_cap.json`, `{"annotations": [{"image_id": "2", "caption": "…"}, …]}`, in its order: the image is
 * `image/ID.jpg`, bytes as they are, whatever kind of image they hold; the caption is taken as it stands. The id is the
 * `image_id`; where an image comes again with another caption, `#2` and so on is added.
 *
 * @throws UserError if the folder has no `image` folder, or the JSON cannot be read or has no list of annotations
 * Source: Vision-CAIR/MiniGPT-4, minigpt4/datasets/datasets/cc_sbu_dataset.py, `CCSBUAlignDataset`.
 */
export async function* readAlign(
  folder: string,
  { onProblem }: ImportOptions = {},
): AsyncGenerator<ImageTextPair> {
  const file = join(folder, ALIGN_FILE);
  const annotations = await readAnnotations(file);
  const images = join(folder, 'image');
  await stat(images).catch((cause: unknown) => {
    throw fileError(images, cause);
  });
  const times = new Map<string, number>();
  for (const [i, annotation] of annotations.entries()) {
    const found = await readAnnotation(images, annotation);
    if (typeof found === 'string') {
      onProblem?.({ where: `${file}: annotations[${i}]`, reason: found });
      continue;
    }
    const time = (times.get(found.id) ?? 0) + 1;
    times.set(found.id, time);
    yield time === 1 ? found : { ...found, id: `${found.id}#${time}` };
  }
}

/** The pair of one annotation, or why there is none. */
async function readAnnotation(images: string, annotation: unknown): Promise<ImageTextPair | string> {
  if (!isRecord(annotation)) return 'not a JSON object';
  const { image_id: imageId, caption } = annotation;
  const id = typeof imageId === 'number' ? String(imageId) : imageId;
  if (typeof id !== 'string' || id === '') return 'no image_id';
  if (basename(id) !== id) return `image_id must name a file of the folder image, got ${id}`;
  if (typeof caption !== 'string' || caption.trim() === '') return 'caption is empty';
  const path = join(images, `${id}.jpg`);
  const image = await readFile(path).catch(() => null); // reported next
  if (image === null) return `cannot read the image ${path}`;
  return image.length === 0 ? 'the image is empty' : { id, image, caption, extra: {} };
}

async function readAnnotations(file: string): Promise<readonly unknown[]> {
  const text = await readFile(file, 'utf8').catch((cause: unknown) => {
    throw fileError(file, cause);
  });
  const value = parseJson(file, text);
  const annotations: unknown = isRecord(value) ? value['annotations'] : undefined;
  if (Array.isArray(annotations)) return annotations as unknown[]; // of anything: each is looked at
  throw new UserError(
    `pack: ${ALIGN_FILE} must hold an object with a list "annotations", got another thing in ${file} (copy MiniGPT-4's file, or give a list of another kind)`,
  );
}

function parseJson(file: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new UserError(
      `pack: ${ALIGN_FILE} must be JSON, got ${reasonOf(cause)} in ${file} (copy it again)`,
      { cause },
    );
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
