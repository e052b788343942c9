/** Whether an exported projection gives the logits of the one it was made from: asked of the LLM itself. */
import type { Config } from '../config/schema.js';
import { randomAt } from '../data/order/keyed.js';
import { openLanguageModel } from '../model/miniGpt4.js';
import { projectionOptions } from '../model/projection.js';
import { projectionFromTensors, sizesOfTensors } from '../model/projectionTensors.js';
import { layOut } from '../model/language/sequence.js';
import { loadTokenizer } from '../model/tokenizer/tokenizer.js';
import { TensorFlow } from '../tensorflow/session.js';
import type { NamedTensors } from './namedTensors.js';

/** Tokens of a probe's image; any number serves. */
const QUERIES = 4;
const TEXTS = ['a photo of two dogs', 'a house'];

/** What a probe found. */
export interface Probe {
  /** Logits compared, all equal: samples' targets × vocabulary. */
  readonly logits: number;
  /** Their largest size, which says that they are no zeros. */
  readonly largest: number;
}

/**
 * Runs a batch of two images (random features) and texts through both projections and the LLM.
 *
 * @param projections tensors of the source and of the exported file
 * @throws if a logit differs or is no number
 */
export async function probeLogits(
  config: Config,
  llm: string,
  projections: readonly [NamedTensors, NamedTensors],
  onProgress?: (done: number) => void,
): Promise<Probe> {
  const options = projectionOptions(config.model.projection);
  const sizes = sizesOfTensors(projections[0], options.kind);
  const tensorflow = await TensorFlow.open({ threads: config.model.threads });
  try {
    const language = await openLanguageModel(
      tensorflow,
      config.model,
      { folder: llm, featureSize: sizes[0] },
      onProgress,
    );
    const batch = await probeBatch(llm, sizes[0]);
    const logits = async (tensors: NamedTensors, from: string): Promise<Float32Array> => {
      const projection = projectionFromTensors(tensors, sizes, options, from);
      return (await language.inspect(projection, batch)).logits.data as Float32Array; // the graph's output is float32
    };
    return compared(await logits(projections[0], 'source'), await logits(projections[1], 'export'));
  } finally {
    await tensorflow.close();
  }
}

async function probeBatch(llm: string, C: number) {
  const tokenizer = await loadTokenizer(llm);
  const examples = TEXTS.map((text) => ({
    prefix: [{ kind: 'image' as const }],
    target: tokenizer.encode(text),
  }));
  const shape = [TEXTS.length, QUERIES, C];
  const data = Float32Array.from(
    { length: TEXTS.length * QUERIES * C },
    (_, i) => 2 * randomAt(0, i, 'probe') - 1,
  );
  return { features: { shape, data }, sequence: layOut(examples, QUERIES) };
}

function compared(source: Float32Array, written: Float32Array): Probe {
  const different = source.findIndex((logit, i) => !Number.isFinite(logit) || logit !== written[i]);
  if (different >= 0)
    throw new Error(
      `export: the file must give the logits of its source, got ${written[different] ?? 'nothing'} instead of ${source[different] ?? 'nothing'} at number ${different}`,
    );
  return {
    logits: source.length,
    largest: source.reduce((most, logit) => Math.max(most, Math.abs(logit)), 0),
  };
}
