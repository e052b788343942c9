/** Evaluation inside a training run: held-out loss, image gap, and a panel of captions, cheap enough to repeat. */
import sharp from 'sharp';
import type { Config } from '../config/schema.js';
import { Prompter } from '../model/conversation/prompt.js';
import type { EvaluationContext } from '../train/options.js';
import { writeTexts } from './captions.js';
import { readHeldOut, type HeldOutItem, type HeldOutSet } from './heldOut.js';
import { measureGap } from './run.js';

/** Pictures captioned at each evaluation. */
const PANEL = 4;
/** Edge of the panel's pictures in TensorBoard, pixels. */
const PICTURE = 128;

/**
 * The callback for `train`: logs `eval/loss`, `eval/loss_shuffled` and `eval/image_gap`, writes the panel to
 * `samples.jsonl` and TensorBoard. The held-out pairs are read and encoded once.
 */
export function evaluateDuring(
  config: Config,
): (context: EvaluationContext) => Promise<Readonly<Record<string, number>>> {
  let heldOut: HeldOutSet | undefined;
  return async (context) => {
    const { model, projection, features } = context;
    const prompter = new Prompter(model.tokenizer, config.prompt);
    heldOut ??= await readHeldOut(config, features, prompter);
    const { loss, lossExchanged, gap } = await measureGap({ config, model, projection, heldOut, events: {} });
    await showPanel(context, config, prompter, heldOut.items.slice(0, PANEL));
    return { 'eval/loss': loss, 'eval/loss_shuffled': lossExchanged, 'eval/image_gap': gap };
  };
}

async function showPanel(
  { step, model, projection, run }: EvaluationContext,
  config: Config,
  prompter: Prompter,
  items: readonly HeldOutItem[],
): Promise<void> {
  const { endId, stopSequences } = prompter;
  const texts = await writeTexts(model, projection, items, { ...config.evaluate, endId, stopSequences });
  for (const [i, { pair, caption }] of items.entries()) {
    const written = texts[i]?.text ?? '';
    run.logSample(step, { id: pair.id, truth: caption, written });
    run.events.text(step, `panel/${i}`, `${written} — truth: ${caption}`);
    const png = await sharp(pair.image, { limitInputPixels: 5e7 })
      .resize(PICTURE, PICTURE, { fit: 'fill' })
      .flatten({ background: '#ffffff' })
      .png()
      .toBuffer();
    run.events.image(step, `panel/${i}`, { png, width: PICTURE, height: PICTURE });
  }
}
