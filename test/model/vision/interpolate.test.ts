import { describe, expect, it } from 'vitest';
import { interpolatePositions } from '../../../src/model/vision/interpolate.js';
import type { HostTensor } from '../../../src/tensorflow/dtypes.js';
import { float32ToFloat16, toFloat32 } from '../../../src/tensorflow/halfFloats.js';
import { largestDifference } from '../../helpers/compare.js';
import { readFixture } from '../../helpers/fixtures.js';

interface Fixture {
  readonly width: number;
  readonly cases: readonly {
    readonly from: number;
    readonly to: number;
    readonly values: readonly number[];
  }[];
}

const { width, cases } = await readFixture<Fixture>('models/interpolate.json');

/** t[n, d] = sin(0.7 n + 1.3 d), as scripts/fixtures/interpolate.py makes it. */
function table(grid: number): HostTensor {
  const rows = 1 + grid * grid;
  const values = Float32Array.from({ length: rows * width }, (_, i) =>
    Math.sin(0.7 * Math.floor(i / width) + 1.3 * (i % width)),
  );
  return { dtype: 'float32', shape: [1, rows, width], data: new Uint8Array(values.buffer) };
}

describe('interpolatePositions', () => {
  it.each(cases)('from $from × $from to $to × $to gives what torch gives', ({ from, to, values }) => {
    const resized = interpolatePositions(table(from), to);
    expect(resized.shape).toEqual([1, 1 + to * to, width]);
    // values of about 1; torch has positions and taps in float32
    expect(largestDifference(toFloat32(resized), values)).toBeLessThan(3e-6);
  });

  it('leaves a table of the right grid as it is, and the class token always', () => {
    expect(toFloat32(interpolatePositions(table(4), 4))).toEqual(toFloat32(table(4)));
    expect(toFloat32(interpolatePositions(table(4), 9)).slice(0, width)).toEqual(
      toFloat32(table(4)).slice(0, width),
    );
  });

  it('takes half-width tables and tables without a batch axis', () => {
    const half: HostTensor = { ...table(2), dtype: 'float16', data: float32ToFloat16(toFloat32(table(2))) };
    const flat: HostTensor = { ...half, shape: half.shape.slice(1) };
    expect(interpolatePositions(flat, 3).shape).toEqual([10, width]);
    const whole = toFloat32(interpolatePositions(table(2), 3));
    expect(largestDifference(toFloat32(interpolatePositions(flat, 3)), whole)).toBeLessThan(1e-3); // float16's 2^-11
  });

  it('refuses a table that is no square and a class token', () => {
    expect(() => interpolatePositions({ ...table(2), shape: [1, 6, width] }, 3)).toThrow(
      'interpolatePositions: rows must be 1 + a square, got 6',
    );
  });
});
