/**
 * Projection and LLaMA of the tiny MiniGPT-4 against what the reference's own code recorded in float32: soft prompts, input
 * embeddings, every layer, logits, loss and the projection's gradient. Limits are those of the fixture's README.
 */
import { linearArrays } from '../helpers/projections.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { assignWeights } from '../../src/model/weights/frozenWeights.js';
import { openHuggingFaceFolder } from '../../src/model/weights/huggingface.js';
import type { LanguageModel, MicroBatch } from '../../src/model/language/languageModel.js';
import { Llama, type LlamaConfig } from '../../src/model/language/llama.js';
import type { Projection } from '../../src/model/projection.js';
import { layOut } from '../../src/model/language/sequence.js';
import { Graph } from '../../src/tensorflow/graph.js';
import { toFloat32 } from '../../src/tensorflow/halfFloats.js';
import { flattenRows } from '../../src/tensorflow/ops.js';
import { TensorFlow, type Values } from '../../src/tensorflow/session.js';
import { cosine, largestDifference, relativeDifference } from '../helpers/compare.js';
import {
  allFeatures,
  expected,
  FEATURE_SHAPE,
  fixture,
  floats,
  integers,
  openTinyModel,
  readProjection,
  recordedBatch,
  tiny,
  tinyLlamaConfig,
} from './minigpt4.js';
import type { Stage } from './minigpt4Recorded.js';

const STAGES: readonly Stage[] = ['stage1', 'stage2'];
const [Q] = FEATURE_SHAPE;
const { hidden: D, layers: L, vocab_rows: V } = tiny.llm;

let tensorflow: TensorFlow;
let config: LlamaConfig;
let projection: Projection;
let embedding: Float32Array; // [V, D]
let model: LanguageModel;
beforeAll(async () => {
  tensorflow = await TensorFlow.open();
  config = await tinyLlamaConfig();
  projection = await readProjection('init');
  embedding = await weight('model.embed_tokens.weight');
  model = await openTinyModel(tensorflow, 'float32');
});
afterAll(() => tensorflow.close());

async function weight(name: string): Promise<Float32Array> {
  const source = await openHuggingFaceFolder(fixture(tiny.files.llm));
  try {
    return toFloat32(await source.read(name)).slice();
  } finally {
    await source.close();
  }
}

/** Final hidden states and logits of the decoder's first `layers` blocks: float32[B, S, D] → [B, S, D], [B·S, V]. */
async function decode(layers: number, embeddings: Values): Promise<Record<'hidden' | 'logits', Values>> {
  const graph = new Graph();
  const llama = new Llama(graph, { ...config, layers }, 'float32');
  const x = graph.placeholder('x', 'float32', ['B', 'S', D]);
  const { hidden } = llama.forward(x);
  const logits = llama.logits(flattenRows(hidden));
  graph.entryPoint('run', { inputs: { x }, outputs: { hidden, logits } });
  const session = await tensorflow.load(graph);
  const source = await openHuggingFaceFolder(fixture(tiny.files.llm));
  try {
    const used = llama.weights().filter(({ variable }) => graph.variables.has(variable)); // the embedding is not
    await assignWeights(session, source, used);
    return await session.run('run', { x: embeddings }, ['hidden', 'logits']);
  } finally {
    await source.close();
    await session.close();
  }
}

/** What RMSNorm makes of the rows of `x`. */
function rmsNormed(x: Float32Array, norm: Float32Array): Float32Array {
  return x.map((value, i) => {
    const row = x.subarray(i - (i % D), i - (i % D) + D);
    const meanSquare = row.reduce((sum, each) => sum + each * each, 0) / D;
    return (value / Math.sqrt(meanSquare + config.rmsNormEps)) * (norm[i % D] ?? NaN);
  });
}

/** The rows that the language model reads, sample after sample, from its own layout: float32[B, S, D] with S as recorded. */
function inputRows({ sequence }: MicroBatch, softPrompt: Values, S: number): Float32Array {
  const { stem, layout, places, positions, tokens, length } = sequence;
  const B = layout.length / length;
  const rows = new Float32Array(B * S * D);
  const put = (flat: number, from: ArrayLike<number>, row: number): void =>
    rows.set(Array.from(from).slice(row * D, (row + 1) * D), flat * D);
  for (let b = 0; b < B; b++) stem.forEach((id, s) => put(b * S + s, embedding, id));
  for (const position of positions) {
    expect(positions[places[position] ?? NaN]).toBe(position);
    const at = Math.floor(position / length) * S + stem.length + (position % length);
    const from = layout[position] ?? NaN;
    if (from < B * Q) put(at, softPrompt.data, from);
    else put(at, embedding, tokens[from - B * Q] ?? NaN);
  }
  return rows;
}

it('soft prompts of all images are the reference’s', async () => {
  const features = await allFeatures();
  const count = features.shape[0] ?? NaN;
  const sequence = layOut(
    Array.from({ length: count }, () => ({ prefix: [{ kind: 'image' as const }], target: [0] })),
    Q,
  );
  const { softPrompt } = await model.inspect(projection, { features, sequence });
  expect(relativeDifference(softPrompt.data, await floats('soft_tokens_init'))).toBeLessThan(2e-5);
});

describe.each(STAGES)('the %s batch in float32', (stage) => {
  it('input embeddings are the reference’s, but for last targets, which nothing reads', async () => {
    const { batch, sequence_length: S } = await recordedBatch(stage);
    const { softPrompt } = await model.inspect(projection, batch);
    const rows = inputRows(batch, softPrompt, S);
    const want = await floats(`${stage}_batch.inputs_embeds`);
    const read = want.map((value, i) => (rows[i - (i % D)] === 0 ? 0 : value)); // rows that ours leaves out
    expect(relativeDifference(rows, read)).toBeLessThan(2e-5);
  });

  it('every layer gives the reference’s hidden states', async () => {
    const norm = await weight('model.norm.weight');
    const input = await floats(`${stage}_batch.hidden.0`);
    const shape = [1, input.length / D, D];
    for (let layers = 1; layers <= L; layers++) {
      // Our decoder's states come out through the final norm: the recorded ones of the layers before the last go through it here
      const recorded = await floats(`${stage}_batch.hidden.${layers}`);
      const want = layers === L ? recorded : rmsNormed(recorded, norm);
      const { hidden } = await decode(layers, { shape, data: input });
      expect(relativeDifference(hidden.data, want)).toBeLessThan(2e-5);
    }
  });

  it('logits of every token are the reference’s', async () => {
    const want = await floats(`${stage}_batch.logits`);
    const { sequence_length: S } = expected[`${stage}_batch`];
    const mask = await integers(`${stage}_batch.attention_mask`);
    const embeddings = await floats(`${stage}_batch.inputs_embeds`);
    const B = stage === 'stage1' ? mask.length / S : 1; // of stage 2 the first sample alone is recorded, without padding
    const rows = want.length / V / B;
    const shape = [B, S, D];
    const { logits } = await decode(L, { shape, data: embeddings.slice(0, B * S * D) });
    for (let b = 0; b < B; b++) {
      for (let s = 0; s < rows; s++) {
        if (mask[b * S + s] !== 1) continue;
        const got = logits.data.slice((b * S + s) * V, (b * S + s + 1) * V);
        const row = b * rows + s;
        expect(largestDifference(got, want.subarray(row * V, (row + 1) * V))).toBeLessThan(2e-4);
      }
    }
  });

  it('loss and the gradients of weight and bias are the reference’s', async () => {
    const { batch, loss } = await recordedBatch(stage);
    const { lossSum, targetTokens, gradients } = await model.lossAndGradients(projection, batch);
    const { weight: dWeight, bias: dBias } = linearArrays(gradients);
    expect(Math.abs(lossSum / targetTokens - loss)).toBeLessThan(2e-5);
    const mean = (values: Float32Array): Float32Array => values.map((value) => value / targetTokens);
    const [weightWant, biasWant] = await Promise.all(
      ['weight', 'bias'].map((name) => floats(`${stage}_batch.grad.llama_proj.${name}`)),
    );
    expect(relativeDifference(mean(dWeight), weightWant ?? [])).toBeLessThan(5e-5);
    expect(relativeDifference(mean(dBias), biasWant ?? [])).toBeLessThan(5e-5);
  });
});

describe('the batches in bfloat16', () => {
  let half: LanguageModel;
  beforeAll(async () => {
    half = await openTinyModel(tensorflow, 'bfloat16');
  });

  it.each(STAGES)('%s: the gradient points where the reference’s does', async (stage) => {
    const { batch, loss } = await recordedBatch(stage);
    const { lossSum, targetTokens, gradients } = await half.lossAndGradients(projection, batch);
    const { weight: dWeight, bias: dBias } = linearArrays(gradients);
    expect(Math.abs(lossSum / targetTokens / loss - 1)).toBeLessThan(0.01);
    expect(cosine(dWeight, await floats(`${stage}_batch.grad.llama_proj.weight`))).toBeGreaterThan(0.999);
    expect(cosine(dBias, await floats(`${stage}_batch.grad.llama_proj.bias`))).toBeGreaterThan(0.999);
  });
});
