/** Beam search against transformers' on the tiny LLM (scripts/fixtures/beam_search.py), and its own rules. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { beamSearch, type BeamOptions } from '../../../src/model/language/beamSearch.js';
import { generate, type GenerationInput } from '../../../src/model/language/generate.js';
import type { LanguageModel } from '../../../src/model/language/languageModel.js';
import type { Projection } from '../../../src/model/projection.js';
import type { Segment } from '../../../src/model/language/sequence.js';
import { TensorFlow } from '../../../src/tensorflow/session.js';
import { readFixture } from '../../helpers/fixtures.js';
import {
  expected,
  FEATURE_SHAPE,
  imageFeatures,
  openTinyModel,
  readProjection,
  tiny,
} from '../../parity/minigpt4.js';

interface BeamCase {
  readonly run: number;
  readonly num_beams: number;
  readonly length_penalty?: number;
  readonly early_stopping?: boolean;
  readonly repetition_penalty?: number;
  readonly do_sample?: boolean;
  readonly temperature?: number;
  readonly top_k?: number;
  readonly top_p?: number;
  readonly ids: readonly number[];
  /** null for one beam, which transformers does not score. */
  readonly score: number | null;
}

const { cases, deviate_step: step } = await readFixture<{ cases: readonly BeamCase[]; deviate_step: number }>(
  'beam-search/expected.json',
);
const { runs, max_new_tokens: maxNewTokens } = expected.generation;
const rule = { maxNewTokens, endId: expected.special_ids.eos, stopSequences: tiny.stop_sequences };

let tensorflow: TensorFlow;
let model: LanguageModel;
let projection: Projection;
beforeAll(async () => {
  tensorflow = await TensorFlow.open();
  model = await openTinyModel(tensorflow, 'float32');
  projection = await readProjection('stage2');
});
afterAll(() => tensorflow.close());

/** The first turn of a recorded conversation. */
async function inputOf(run: number): Promise<GenerationInput> {
  const { image, images = [image ?? NaN], turns } = runs[run] ?? { turns: [] };
  const features = await Promise.all(images.map(imageFeatures));
  const prefix = (turns[0]?.segment_ids ?? []).flatMap((ids, i): Segment[] => [
    ...(i ? [{ kind: 'image' as const }] : []),
    { kind: 'text', ids },
  ]);
  return { features: Float32Array.from(features.flatMap((values) => Array.from(values))), prefix };
}

/** The deviates of the fixture's script. */
function deviates(): () => number {
  let x = 0;
  return () => (x = (x + step) % 1);
}

function optionsOf(given: BeamCase): BeamOptions {
  return {
    ...rule,
    beams: given.num_beams,
    random: deviates(),
    ...(given.length_penalty !== undefined && { lengthPenalty: given.length_penalty }),
    ...(given.early_stopping !== undefined && { earlyStopping: given.early_stopping }),
    ...(given.repetition_penalty !== undefined && { repetitionPenalty: given.repetition_penalty }),
    ...(given.temperature !== undefined && { temperature: given.temperature }),
    ...(given.top_k !== undefined && { topK: given.top_k }),
    ...(given.top_p !== undefined && { topP: given.top_p }),
  };
}

const search = async (run: number, options: BeamOptions): ReturnType<typeof beamSearch> =>
  beamSearch(model, projection, await inputOf(run), FEATURE_SHAPE, options);

describe.each([...new Set(cases.map(({ run }) => run))])('conversation %i', (run) => {
  it.each(cases.filter((given) => given.run === run))(
    '$num_beams beams, length penalty $length_penalty, early stopping $early_stopping, repetition penalty $repetition_penalty, drawn $do_sample: transformers’ text and score',
    async (given) => {
      const { ids, end, score } = await search(run, optionsOf(given));
      expect([...ids, ...end]).toEqual(given.ids);
      // float32 through three layers and 24 tokens; scores are sums of about 40 nats
      if (given.score !== null) expect(Math.abs(score / given.score - 1)).toBeLessThan(1e-5);
    },
  );
});

it('one beam writes what greedy generation writes', async () => {
  const [greedy] = await generate(model, projection, [await inputOf(8)], FEATURE_SHAPE, rule);
  const { score, ...text } = await search(8, { ...rule, beams: 1 });
  expect(text).toEqual(greedy);
  expect(score).toBeLessThan(0);
});

it('leaves no cache behind', async () => {
  await search(0, { ...rule, beams: 3 }); // the cache of the prompt's beginning stays
  const before = await tensorflow.tensorCount();
  await search(0, { ...rule, beams: 3 });
  expect(await tensorflow.tensorCount()).toBe(before);
});

it('refuses less than one beam', async () => {
  await expect(search(0, { ...rule, beams: 0 })).rejects.toThrow(
    'beamSearch: there must be at least 1 beam, got 0',
  );
});
