/** Sizes of a model read from its tensors' shapes and, where shapes cannot tell, from its config.json. */
import { UserError } from '../../errors.js';
import type { WeightSource } from '../weights/weights.js';

/** Mean and standard deviation of RGB, 0…1, that CLIP, EVA-CLIP and so BLIP-2, MiniGPT-4 and LLaVA were trained with. */
export const CLIP_PIXELS = {
  imageMean: [0.48145466, 0.4578275, 0.40821073],
  imageStd: [0.26862954, 0.26130258, 0.27577711],
} as const;

/** A parsed config.json, or a section of it. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** The section `key` of a config.json; an empty one where it is left out, as save_pretrained does with defaults. */
export function section(json: JsonObject, key: string): JsonObject {
  const value = json[key] ?? {};
  if (typeof value !== 'object' || Array.isArray(value))
    throw new UserError(`config.json: "${key}" must be an object, got ${JSON.stringify(value)}`);
  return value as JsonObject; // an object of JSON
}

/**
 * A positive whole number of a config.json.
 *
 * @returns undefined where the key is left out
 * @throws UserError for any other value
 */
export function wholeNumber(json: JsonObject, key: string): number | undefined {
  const value = json[key];
  if (value === undefined) return undefined;
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 1)
    throw new UserError(
      `config.json: "${key}" must be a positive whole number, got ${JSON.stringify(value)}`,
    );
  return value;
}

/**
 * The shape of a tensor of a weights file.
 *
 * @param rank how many axes it must have
 * @throws UserError if there is no such tensor, or of another rank
 */
export function shapeOf(source: WeightSource, name: string, rank: number): readonly number[] {
  const { shape } = source.info(name);
  if (shape.length === rank) return shape;
  throw new UserError(`${source.path}: "${name}" must have ${rank} axes, got [${shape.join(', ')}]`);
}

/**
 * How many numbered layers a weights file holds: the names that begin with `prefix`, a number and a dot.
 *
 * @param prefix such as `encoder.layer.`
 * @throws UserError if there is none, or one between is missing
 */
export function countLayers(source: WeightSource, prefix: string): number {
  const found = new Set<number>();
  for (const name of source.names()) {
    const number = name.startsWith(prefix) ? /^(\d+)\./.exec(name.slice(prefix.length))?.[1] : undefined;
    if (number !== undefined) found.add(Number(number));
  }
  const missing = Array.from({ length: found.size }, (_, i) => i).find((i) => !found.has(i));
  if (found.size === 0 || missing !== undefined)
    throw new UserError(
      `${source.path}: there must be layers "${prefix}0" and on, got no "${prefix}${missing ?? 0}"`,
    );
  return found.size;
}

/**
 * The number of attention heads, which no tensor's shape tells.
 *
 * @param given from options or config.json; left out: the released model's
 * @param released width and heads of the released model, the only one that is known without being told
 * @throws UserError if it is not known or does not divide the width
 */
export function headCount(
  part: string,
  width: number,
  given: number | undefined,
  released: { readonly width: number; readonly heads: number },
): number {
  const heads = given ?? (width === released.width ? released.heads : undefined);
  if (heads === undefined)
    throw new UserError(
      `${part}: the number of heads must be given unless the width is ${released.width}, got width ${width} (shapes do not tell it)`,
    );
  if (!Number.isInteger(heads) || heads < 1 || width % heads)
    throw new UserError(`${part}: the number of heads must divide the width ${width}, got ${heads}`);
  return heads;
}

/**
 * What stands before `suffix` in the file's names: `''`, or the name of the module that holds the model.
 *
 * @returns undefined where no name ends so
 */
export function prefixOf(source: WeightSource, suffix: string): string | undefined {
  return source
    .names()
    .find((name) => name === suffix || name.endsWith(`.${suffix}`))
    ?.slice(0, -suffix.length);
}

/** @throws UserError if images of this size do not fall into whole patches */
export function checkImageSize(imageSize: number, patchSize: number): void {
  if (imageSize % patchSize)
    throw new UserError(`vit: the image size must be a multiple of ${patchSize}, got ${imageSize}`);
}

/**
 * Attention heads of a part of a Hugging Face BLIP-2 config.json, which leaves its defaults out.
 *
 * @throws UserError if the part asks for another activation than the exact GELU
 */
export function blip2Heads(config: JsonObject, name: string, fallback: number): number {
  const part = section(config, name);
  const activation = part['hidden_act'] ?? 'gelu';
  if (activation !== 'gelu')
    throw new UserError(`config.json: ${name}.hidden_act must be "gelu", got ${JSON.stringify(activation)}`);
  return wholeNumber(part, 'num_attention_heads') ?? fallback;
}
