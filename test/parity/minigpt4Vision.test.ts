/**
 * EVA-CLIP ViT, `ln_vision` and Q-Former against MiniGPT-4's own code (test/fixtures/minigpt4-tiny), and under Hugging
 * Face's names against transformers (scripts/fixtures/blip2_hf.py). Everything starts from the recorded `pixels`.
 */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Encoder, type EncoderSources, type EncoderSpec } from '../../src/model/vision/encoder.js';
import { assignWeights } from '../../src/model/weights/frozenWeights.js';
import { openHuggingFaceFolder, type HuggingFaceFolder } from '../../src/model/weights/huggingface.js';
import { interpolatePositions } from '../../src/model/vision/interpolate.js';
import { openPyTorch } from '../../src/model/weights/pytorch.js';
import { lnVision, QFormer } from '../../src/model/vision/qformer.js';
import type { Precision } from '../../src/model/layers.js';
import {
  lnVisionWeights,
  qformerPart,
  qformerWeights,
  type QFormerLayout,
  type QFormerPart,
} from '../../src/model/vision/qformerWeights.js';
import { openSafetensors } from '../../src/model/weights/safetensors.js';
import { Vit } from '../../src/model/vision/vit.js';
import { evaVision, evaWeights, type EvaLayout } from '../../src/model/vision/vitEva.js';
import type { WeightSource } from '../../src/model/weights/weights.js';
import { Graph } from '../../src/tensorflow/graph.js';
import type { HostTensor } from '../../src/tensorflow/dtypes.js';
import { toFloat32 } from '../../src/tensorflow/halfFloats.js';
import { TensorFlow } from '../../src/tensorflow/session.js';
import { cosine, relativeDifference } from '../helpers/compare.js';
import { readFixture } from '../helpers/fixtures.js';
import { memorySource } from '../helpers/tinyModels.js';

/** The sizes that the fixture's case.json states. */
interface Case {
  readonly image_size: number;
  readonly patch_size: number;
  readonly files: { readonly vit: string; readonly qformer: string };
  readonly vit: Readonly<
    Record<'heads' | 'width' | 'depth' | 'mlp_hidden' | 'tokens' | 'file_blocks', number>
  >;
  readonly qformer: Readonly<
    Record<'heads' | 'hidden' | 'layers' | 'intermediate' | 'num_query_tokens', number>
  >;
}

/** An encoder with all of MiniGPT-4's parts. */
type MiniGpt4Spec = EncoderSpec & {
  readonly layout: EvaLayout;
  readonly lnVision: QFormerLayout;
  readonly qformer: QFormerPart;
};

/** Float32 against torch's float32; the fixture's README allows 2e-5 of the largest value. */
const LIMIT = 2e-6;
const FIXTURES = join(import.meta.dirname, '..', 'fixtures');
const TINY = join(FIXTURES, 'minigpt4-tiny');
const sizes = await readFixture<Case>('minigpt4-tiny/case.json');
const { image_size: H } = sizes;
const IMAGES = 12;
const IMAGE = 3 * H * H; // values of one

let tensorflow: TensorFlow;
let expected: WeightSource;
let transformers: WeightSource;
let files: EncoderSources;
let folder: HuggingFaceFolder;
let pixels: Float32Array;

beforeAll(async () => {
  tensorflow = await TensorFlow.open();
  expected = await openSafetensors(join(TINY, 'expected.safetensors'));
  files = {
    vit: await openPyTorch(join(TINY, sizes.files.vit)),
    qformer: await openPyTorch(join(TINY, sizes.files.qformer)),
  };
  folder = await openHuggingFaceFolder(join(FIXTURES, 'blip2-hf'));
  transformers = await openSafetensors(join(FIXTURES, 'blip2-hf', 'expected.safetensors'));
  pixels = await values(expected, 'pixels');
});
afterAll(async () => {
  for (const source of [expected, transformers, files.vit, files.qformer, folder]) await source.close();
  await tensorflow.close();
});

async function values(source: WeightSource, name: string): Promise<Float32Array> {
  return toFloat32(await source.read(name));
}

/** MiniGPT-4's vision in the fixture's files. */
function miniGpt4(precision: Precision = 'float32'): MiniGpt4Spec {
  const qformer = qformerPart(files.qformer, { heads: sizes.qformer.heads });
  const eva = evaVision(files.vit, { imageSize: H, heads: sizes.vit.heads });
  return { ...eva, lnVision: qformer.layout, tokens: { kind: 'all' }, qformer, precision };
}

/** The encoder up to one of the outputs that the fixtures record. */
function upTo(output: 'vit_out' | 'ln_vision_out' | 'qformer_out', spec: MiniGpt4Spec): EncoderSpec {
  if (output === 'qformer_out') return spec;
  const { vit, layout, depth, tokens, precision } = spec;
  const transformer = { vit, layout, depth, tokens, precision };
  return output === 'vit_out' ? transformer : { ...transformer, lnVision: spec.lnVision };
}

/** Features of the first `count` images of `pixels`, one after the other, as a run computes them. */
async function features(
  spec: EncoderSpec,
  source: WeightSource | EncoderSources,
  count = IMAGES,
): Promise<Float32Array> {
  const encoder = await Encoder.open(tensorflow, spec, source);
  const [Q, C] = encoder.featureShape;
  const all = new Float32Array(count * Q * C);
  for (let i = 0; i < count; i++)
    all.set(await encoder.encode(pixels.slice(i * IMAGE, (i + 1) * IMAGE)), i * Q * C);
  await encoder.close();
  return all;
}

/** Every layer's output for the first two images, by the fixture's names. */
async function layerOutputs(): Promise<Record<string, Float32Array>> {
  const { qformer, vit: config, layout, depth } = miniGpt4();
  const graph = new Graph();
  const weights = evaWeights(config, depth, layout);
  const input = graph.placeholder('pixels', 'float32', ['B', 3, H, H]);
  const vit = new Vit(graph, config, 'float32', depth, weights);
  const image = lnVision(graph, vit.forward(input));
  const queries = new QFormer(graph, qformer.config, 'float32').hiddenStates(image);
  const outputs = {
    ...Object.fromEntries(vit.hiddenStates(input).map((x, i) => [i ? `vit_block.${i - 1}` : 'vit_embed', x])),
    ...Object.fromEntries(queries.map((x, i) => [i ? `qformer_layer.${i - 1}` : 'qformer_embed', x])),
  };
  graph.entryPoint('layers', { inputs: { pixels: input }, outputs });
  const session = await tensorflow.load(graph);
  await assignWeights(session, files.vit, weights);
  const bridge = [...lnVisionWeights(qformer.layout), ...qformerWeights(qformer.config, qformer.layout)];
  await assignWeights(session, files.qformer, bridge);
  const data = pixels.slice(0, 2 * IMAGE);
  const run = await session.run('layers', { pixels: { shape: [2, 3, H, H], data } }, Object.keys(outputs));
  await session.close();
  return Object.fromEntries(
    Object.entries(run).map(([name, { data: out }]) => [name, Float32Array.from(out)]),
  );
}

describe('MiniGPT-4’s files', () => {
  it.each([3, 5, 6])('positions resized to a grid of %i are the reference’s', async (grid) => {
    const resized = toFloat32(interpolatePositions(await files.vit.read('pos_embed'), grid));
    expect(relativeDifference(resized, await values(expected, `pos_embed_interp.${grid}`))).toBeLessThan(
      LIMIT,
    );
  });

  it('the sizes are the case’s, the last block of the file is not used', () => {
    const { vit, depth, qformer } = miniGpt4();
    const { mlp_hidden: mlpSize, width: hiddenSize, heads, file_blocks: layers } = sizes.vit;
    expect(vit).toMatchObject({ mlpSize, hiddenSize, heads, layers, patchSize: sizes.patch_size });
    expect(depth).toBe(sizes.vit.depth);
    expect(qformer.config).toEqual({
      queries: sizes.qformer.num_query_tokens,
      hiddenSize: sizes.qformer.hidden,
      layers: sizes.qformer.layers,
      heads: sizes.qformer.heads,
      mlpSize: sizes.qformer.intermediate,
      encoderWidth: hiddenSize,
      crossAttention: [0, 2],
    });
  });

  it('every layer gives what it gives in the reference', async () => {
    const got = await layerOutputs();
    const recorded = expected
      .names()
      .filter((name) => /^(vit_(embed|block)|qformer_(embed|layer))/.test(name));
    expect(Object.keys(got).sort()).toEqual(recorded.sort());
    for (const name of recorded)
      expect(relativeDifference(got[name] ?? [], await values(expected, name)), name).toBeLessThan(LIMIT);
  });

  it.each(['vit_out', 'ln_vision_out', 'qformer_out'] as const)(
    '%s of all images is the reference’s',
    async (name) => {
      const spec = upTo(name, miniGpt4());
      expect(relativeDifference(await features(spec, files), await values(expected, name))).toBeLessThan(
        LIMIT,
      );
    },
  );

  it('without a Q-Former, four neighbours of ln_vision’s patches make one token', async () => {
    const { width, tokens: N } = sizes.vit;
    const tokens = { kind: 'patches', concat: 4 } as const;
    const spec = { ...upTo('ln_vision_out', miniGpt4()), tokens };
    const encoder = await Encoder.open(tensorflow, spec, files);
    expect(encoder.featureShape).toEqual([(N - 1) / 4, 4 * width]);
    const got = await encoder.encode(pixels.slice(0, IMAGE));
    await encoder.close();
    const all = await values(expected, 'ln_vision_out');
    const joined = all.subarray(width, N * width); // rows in order: four rows of the file are one row here
    expect(relativeDifference(got, joined)).toBeLessThan(LIMIT);
  });

  it('without any BLIP-2 file, ln_vision is the plain norm of the Llama-2 release, over every image', async () => {
    const { width, tokens: N } = sizes.vit;
    const tokens = { kind: 'patches', concat: 4 } as const;
    const spec = { ...upTo('vit_out', miniGpt4()), lnVision: 'plain' as const, tokens };
    const got = await features(spec, files);
    const vit = await values(expected, 'vit_out'); // [12, N, C]
    const rows = Array.from({ length: IMAGES * N }, (_, row) => vit.subarray(row * width, (row + 1) * width));
    const normal = rows.filter((_, row) => row % N !== 0).flatMap((row) => plainNorm(row)); // no class tokens
    expect(got).toHaveLength(IMAGES * ((N - 1) / 4) * (4 * width)); // [12, 4, 256], in the order of the rows
    expect(relativeDifference(got, normal)).toBeLessThan(LIMIT);
    const learned = await values(expected, 'ln_vision_out');
    expect(relativeDifference(got.subarray(0, width), learned.subarray(width, 2 * width))).toBeGreaterThan(
      0.01,
    );
  });

  it('in bfloat16 each query points where the reference’s points', async () => {
    const [got, exact] = [await features(miniGpt4('bfloat16'), files), await values(expected, 'qformer_out')];
    const { hidden: D } = sizes.qformer;
    const cosines = Array.from({ length: got.length / D }, (_, q) =>
      cosine(got.subarray(q * D, (q + 1) * D), exact.subarray(q * D, (q + 1) * D)),
    );
    // 8 bits of mantissa through 3 blocks and 4 layers: 0.4 % a product; the worst of 96 queries, and all together
    expect(Math.min(...cosines)).toBeGreaterThan(0.999);
    expect(cosine(got, exact)).toBeGreaterThan(0.9995);
    expect(got).not.toEqual(exact);
  });

  it('progress over both files rises to one', async () => {
    const told: number[] = [];
    const encoder = await Encoder.open(tensorflow, miniGpt4(), files, (done) => told.push(done));
    await encoder.close();
    expect(told).toEqual([...new Set(told)].sort((a, b) => a - b));
    expect(told.length).toBeGreaterThan(1);
    expect(told.at(-1)).toBe(1);
  });

  it('both files may lie in one source', async () => {
    const one = await inMemory(files.vit, files.qformer);
    expect(await features(miniGpt4(), one, 1)).toEqual(await features(miniGpt4(), files, 1));
  });
});

describe('Hugging Face’s BLIP-2 names', () => {
  /** What a folder's config.json and tensors say. */
  function blip2(source: WeightSource = folder): MiniGpt4Spec {
    const { config } = folder;
    const qformer = qformerPart(source, { config });
    const eva = evaVision(source, { imageSize: H, config });
    return { ...eva, lnVision: qformer.layout, tokens: { kind: 'all' }, qformer, precision: 'float32' };
  }

  /** The spec of MiniGPT-4's files, cut to the depth of the folder. */
  function cutMiniGpt4(): EncoderSpec {
    const { qformer, ...spec } = miniGpt4();
    const { layers, crossAttention } = blip2().qformer.config;
    return {
      ...spec,
      depth: blip2().depth,
      qformer: { ...qformer, config: { ...qformer.config, layers, crossAttention } },
    };
  }

  it('all the blocks of such a file are used', () => {
    expect(blip2()).toMatchObject({ depth: 1, layout: { kind: 'blip2', prefix: '' } });
    expect(blip2().qformer).toMatchObject({
      layout: { kind: 'blip2', prefix: '' },
      config: { heads: sizes.qformer.heads, layers: 2, crossAttention: [0] },
    });
  });

  it.each(['vit_out', 'ln_vision_out', 'qformer_out'] as const)('%s is transformers’', async (name) => {
    const got = await features(upTo(name, blip2()), folder, 2);
    expect(relativeDifference(got, await values(transformers, name))).toBeLessThan(LIMIT);
  });

  it('the same values give the same features as under MiniGPT-4’s names, bit for bit', async () => {
    expect(await features(blip2(), folder, 2)).toEqual(await features(cutMiniGpt4(), files, 2));
  });

  it('InstructBLIP’s names, in a larger module, give the same features', async () => {
    const rename = (name: string): string =>
      `model.${name.replace(/^qformer\.layernorm/, 'qformer.embeddings.layernorm')}`;
    const tensors = await Promise.all(
      folder.names().map(async (name) => [rename(name), await folder.read(name)] as const),
    );
    const source = memorySource(Object.fromEntries(tensors));
    expect(blip2(source).qformer.layout).toEqual({ kind: 'instructblip', prefix: 'model.' });
    expect(await features(blip2(source), source, 1)).toEqual(await features(blip2(), folder, 1));
  });
});

/** torch.nn.LayerNorm of one row before any training, in float64: eps 1e-5, weight 1, bias 0. */
function plainNorm(row: Float32Array): number[] {
  const mean = row.reduce((sum, value) => sum + value, 0) / row.length;
  const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / row.length;
  return Array.from(row, (value) => (value - mean) / Math.sqrt(variance + 1e-5));
}

/** All tensors of several files together. */
async function inMemory(...sources: readonly WeightSource[]): Promise<WeightSource> {
  const tensors: (readonly [string, HostTensor])[] = [];
  for (const source of sources)
    for (const name of source.names()) tensors.push([name, await source.read(name)]);
  return memorySource(Object.fromEntries(tensors));
}
