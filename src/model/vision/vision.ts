/** From a configuration's `model` section to a vision encoder: which architecture its files hold, and what is taken of it. */
import { stat } from 'node:fs/promises';
import type { ModelConfig } from '../../config/schema.js';
import { UserError } from '../../errors.js';
import type { EncoderSources, EncoderSpec } from './encoder.js';
import { openHuggingFaceFolder } from '../weights/huggingface.js';
import { openPyTorch } from '../weights/pytorch.js';
import { qformerPart } from './qformerWeights.js';
import type { TokenChoice } from './vit.js';
import { clipVision } from './vitClip.js';
import { vitConfig } from './vitDinov2.js';
import { evaVision } from './vitEva.js';
import type { JsonObject } from './vitSizes.js';
import type { WeightSource } from '../weights/weights.js';

/** What of `model` decides the encoder. */
export type VisionConfig = Pick<
  ModelConfig,
  'encoderLayer' | 'encoderHeads' | 'imageSize' | 'tokens' | 'qformerHeads'
>;

/** An encoder's files, open, with what they hold. Whoever opened it closes it. */
export interface VisionFiles {
  readonly spec: Omit<EncoderSpec, 'precision'>;
  readonly sources: EncoderSources;
  close(): Promise<void>;
}

/**
 * Opens the files of a vision encoder and reads their sizes.
 *
 * @param encoder folder with config.json (DINOv2, CLIP or LLaVA, BLIP-2 or InstructBLIP), or `eva_vit_g.pth`
 * @param qformer file or folder that holds BLIP-2's `ln_vision` and Q-Former; left out: the encoder's own where it is a
 * BLIP-2 folder; over `eva_vit_g.pth` an `ln_vision` of weight 1 and bias 0, as in the reference's Llama-2 release
 * @throws UserError if a file is missing or damaged, holds another architecture, or the section does not fit it
 */
export async function openVision(
  config: VisionConfig,
  { encoder, qformer }: { readonly encoder: string; readonly qformer?: string | undefined },
): Promise<VisionFiles> {
  const vit = await openWeights(encoder);
  let bridge: OpenWeights | undefined;
  try {
    bridge = qformer === undefined ? undefined : await openWeights(qformer);
    const spec = visionSpec(config, vit, bridge ?? (isBlip2(vit.config) ? vit : undefined));
    return {
      spec,
      sources: { vit: vit.source, qformer: (bridge ?? vit).source },
      close: () => closeAll(vit, bridge),
    };
  } catch (error) {
    await closeAll(vit, bridge);
    throw error;
  }
}

interface OpenWeights {
  readonly source: WeightSource;
  /** config.json of a folder. */
  readonly config?: JsonObject;
}

function visionSpec(
  config: VisionConfig,
  vit: OpenWeights,
  bridge: OpenWeights | undefined,
): Omit<EncoderSpec, 'precision'> {
  const { imageSize, encoderLayer: depth, encoderHeads: heads, qformerHeads } = config;
  const body = transformer(vit, { imageSize, depth, heads });
  const part = bridge && qformerPart(bridge.source, { heads: qformerHeads, config: bridge.config });
  if (!part && config.tokens.kind === 'qformer')
    throw new UserError(
      'model.tokens: kind "qformer" needs a Q-Former, got none (set model.qformer to blip2_pretrained_*.pth, or model.encoder to a BLIP-2 folder)',
    );
  // The reference makes ln_vision over ViT-g in any case. Only its Q-Former's loading fills it (minigpt4.py, `__init__`).
  const norm = part?.layout ?? (body.layout?.kind === 'eva' ? 'plain' : undefined);
  return {
    ...body,
    tokens: tokenChoice(config.tokens),
    ...(norm && { lnVision: norm }),
    ...(part && config.tokens.kind === 'qformer' && { qformer: part }),
  };
}

function transformer(
  { source, config }: OpenWeights,
  options: { imageSize: number; depth: number | undefined; heads: number | undefined },
): Pick<EncoderSpec, 'vit' | 'layout' | 'depth'> {
  if (config === undefined || isBlip2(config)) return evaVision(source, { ...options, config });
  const type = config['model_type'];
  if (typeof type === 'string' && /^(clip|llava)/.test(type)) return clipVision(source, config, options);
  const vit = vitConfig(config, options.imageSize);
  return { vit, depth: options.depth ?? vit.layers };
}

/** The Q-Former reads all tokens. */
function tokenChoice({ kind, grid, cls, concat }: VisionConfig['tokens']): TokenChoice {
  if (kind === 'grid') return { kind, grid, cls };
  if (kind === 'patches') return { kind, concat };
  return { kind: 'all' };
}

function isBlip2(config: JsonObject | undefined): boolean {
  return config?.['model_type'] === 'blip-2' || config?.['model_type'] === 'instructblip';
}

/** A folder's weights with its config.json, or a PyTorch file. */
async function openWeights(path: string): Promise<OpenWeights> {
  const isFolder = await stat(path).then(
    (stats) => stats.isDirectory(),
    () => true, // not there: opening it as a folder names what is missing
  );
  if (!isFolder) return { source: await openPyTorch(path) };
  const folder = await openHuggingFaceFolder(path);
  return { source: folder, config: folder.config };
}

async function closeAll(...open: (OpenWeights | undefined)[]): Promise<void> {
  for (const one of open) await one?.source.close();
}
