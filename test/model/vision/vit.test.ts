/** The vision encoder graph on a tiny random model against a float64 reference (helpers/reference.ts). */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../../../src/errors.js';
import { Encoder, type EncoderSpec } from '../../../src/model/vision/encoder.js';
import { interpolatePositions } from '../../../src/model/vision/interpolate.js';
import { tokenCount, tokenWidth, type TokenChoice } from '../../../src/model/vision/vit.js';
import { dinov2Weights, vitConfig } from '../../../src/model/vision/vitDinov2.js';
import { toFloat32 } from '../../../src/tensorflow/halfFloats.js';
import { TensorFlow } from '../../../src/tensorflow/session.js';
import { cosine, relativeDifference } from '../../helpers/compare.js';
import { randomNormal } from '../../helpers/random.js';
import { encoderTokens } from '../../helpers/reference.js';
import { TINY_VIT, tinyVit } from '../../helpers/tinyModels.js';

const { hiddenSize: C, imageSize: H } = TINY_VIT;
const GRID = 4;
const ALL: TokenChoice = { kind: 'all' };
/** Float32 sums of at most 40 terms through two blocks against float64, relative to the largest value. */
const LIMIT = 5e-6;

const tiny = tinyVit();
const pixels = randomNormal(3 * H * H, 9);
let tensorflow: TensorFlow;
beforeAll(async () => {
  tensorflow = await TensorFlow.open();
});
afterAll(() => tensorflow.close());

async function encode(
  change: Partial<EncoderSpec> = {},
  source = tiny.source,
  image = pixels,
): Promise<Float32Array> {
  const spec: EncoderSpec = { vit: TINY_VIT, depth: 2, tokens: ALL, precision: 'float32', ...change };
  const encoder = await Encoder.open(tensorflow, spec, source);
  const features = await encoder.encode(image);
  expect(features).toHaveLength(encoder.featureShape[0] * encoder.featureShape[1]);
  await encoder.close();
  return features;
}

describe('forward', () => {
  it.each([1, 2])(
    'all tokens after %i blocks are the reference’s, with the final norm after the last only',
    async (depth) => {
      const expected = encoderTokens(TINY_VIT, tiny.weights, pixels, depth).flat();
      expect(relativeDifference(await encode({ depth }), expected)).toBeLessThan(LIMIT);
    },
  );

  it('in bfloat16 it points where it points in float32', async () => {
    const [exact, rounded] = [await encode(), await encode({ precision: 'bfloat16' })];
    expect(cosine(rounded, exact)).toBeGreaterThan(0.999);
    expect(rounded).not.toEqual(exact);
  });

  it('weights trained on another grid get resized positions', async () => {
    const other = tinyVit(TINY_VIT, 6);
    const table = await other.source.read('embeddings.position_embeddings');
    const positions = toFloat32(interpolatePositions(table, GRID));
    const expected = encoderTokens(TINY_VIT, other.weights, pixels, 2, positions).flat();
    expect(relativeDifference(await encode({}, other.source), expected)).toBeLessThan(LIMIT);
  });

  it('an image alone and in a batch of other images has the same tokens', async () => {
    const spec: EncoderSpec = { vit: TINY_VIT, depth: 2, tokens: ALL, precision: 'float32' };
    const encoder = await Encoder.open(tensorflow, spec, tiny.source);
    const data = Float32Array.from([...randomNormal(3 * H * H, 10), ...pixels]);
    const { features } = await encoder.session.run('encode', { pixels: { shape: [2, 3, H, H], data } }, [
      'features',
    ]);
    const size = (1 + GRID * GRID) * C;
    expect(relativeDifference(features.data.subarray(size), await encoder.encode(pixels))).toBeLessThan(
      LIMIT,
    );
    await encoder.close();
  });

  it('uses every tensor of the file, each once', () => {
    const sources = dinov2Weights(TINY_VIT, 2).flatMap((weight) => weight.sources);
    expect([...sources].sort()).toEqual(tiny.source.names().sort());
  });
});

describe('choice of tokens', () => {
  /** Means over the squares of a grid, one row of C values for each. */
  function pooled(tokens: number[][], grid: number): number[] {
    const width = GRID / grid;
    return Array.from({ length: grid * grid }, (_, cell) => {
      const members = tokens.slice(1).filter((__, n) => {
        const [y, x] = [Math.floor(n / GRID), n % GRID];
        return Math.floor(y / width) * grid + Math.floor(x / width) === cell;
      });
      return Array.from(
        { length: C },
        (__, c) => members.reduce((sum, row) => sum + (row[c] ?? NaN), 0) / members.length,
      );
    }).flat();
  }
  const tokens = encoderTokens(TINY_VIT, tiny.weights, pixels, 2);

  it.each([1, 2, 4])(
    'a grid of %i averages its squares, with the class token first if wanted',
    async (grid) => {
      const patches = await encode({ tokens: { kind: 'grid', grid, cls: false } });
      expect(relativeDifference(patches, pooled(tokens, grid))).toBeLessThan(LIMIT);
      const withClass = await encode({ tokens: { kind: 'grid', grid, cls: true } });
      expect(relativeDifference(withClass, [...(tokens[0] ?? []), ...pooled(tokens, grid)])).toBeLessThan(
        LIMIT,
      );
    },
  );

  it('the count of tokens is known beforehand', () => {
    expect(tokenCount(TINY_VIT, ALL)).toBe(17);
    expect(tokenCount(TINY_VIT, { kind: 'grid', grid: 2, cls: true })).toBe(5);
    expect(tokenCount(TINY_VIT, { kind: 'grid', grid: 4, cls: false })).toBe(16);
    expect(tokenCount(TINY_VIT, { kind: 'patches', concat: 4 })).toBe(4);
    expect(tokenWidth(TINY_VIT, { kind: 'patches', concat: 4 })).toBe(4 * C);
    expect(tokenWidth(TINY_VIT, ALL)).toBe(C);
  });

  it.each([1, 4])('the patches without the class token, %i neighbours of a row joined', async (concat) => {
    // Joining consecutive rows leaves the values where they are: only the shape tells them apart.
    const joined = await encode({ tokens: { kind: 'patches', concat } });
    expect(relativeDifference(joined, tokens.slice(1).flat())).toBeLessThan(LIMIT);
  });

  it('a number of neighbours that does not divide the patches is refused', async () => {
    const opening = encode({ tokens: { kind: 'patches', concat: 3 } });
    await expect(opening).rejects.toThrow('vit: model.tokens.concat must divide 16, got 3');
  });

  it('a grid that does not divide the patches is refused', async () => {
    const opening = encode({ tokens: { kind: 'grid', grid: 3, cls: true } });
    await expect(opening).rejects.toThrow('vit: model.tokens.grid must divide 4, got 3');
  });

  it.each([0, 3])('depth %i of 2 layers is refused', async (depth) => {
    await expect(encode({ depth })).rejects.toThrow(`vit: model.encoderLayer must be 1 to 2, got ${depth}`);
  });
});

describe('vitConfig', () => {
  const json = {
    model_type: 'dinov2',
    hidden_size: 16,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    mlp_ratio: 2.5,
    patch_size: 2,
    layer_norm_eps: 1e-6,
    image_mean: [0.5, 0.5, 0.5],
    image_std: [0.25, 0.25, 0.25],
  };

  it('reads the sizes', () => {
    expect(vitConfig(json, 8)).toEqual(TINY_VIT);
  });

  it.each([
    [{ model_type: 'vit' }, 'vit: config.json must have model_type "dinov2", got "vit"'],
    [{ hidden_size: 0 }, 'vit: config.json needs a positive number "hidden_size", got 0'],
    [{ image_mean: [0.5] }, 'vit: config.json needs three numbers "image_mean", got [0.5]'],
    [{ patch_size: 14 }, 'vit: the image size must be a multiple of 14, got 8'],
    [{ num_attention_heads: 3 }, 'vit: num_attention_heads must divide hidden_size 16, got 3'],
    [{ use_swiglu_ffn: true }, 'vit: use_swiglu_ffn is not supported, got true'],
  ])('refuses %o', (change, message) => {
    const read = (): unknown => vitConfig({ ...json, ...change }, 8);
    expect(read).toThrow(UserError);
    expect(read).toThrow(message);
  });
});
