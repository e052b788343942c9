/** Position embeddings resized to another grid. */
import { UserError } from '../../errors.js';
import type { HostTensor } from '../../tensorflow/dtypes.js';
import { toFloat32 } from '../../tensorflow/halfFloats.js';

const A = -0.75; // torch's cubic coefficient

/**
 * Resizes the patch part of a position table to `grid` × `grid`; the class token's row stays.
 *
 * @param table [1, 1 + g², D] or [1 + g², D], any float dtype
 * @returns float32 of the same rank with 1 + grid² rows; `table` as float32 where the grid is already right
 * Source: torch.nn.functional.interpolate(mode='bicubic', align_corners=False) as used by transformers,
 * modeling_dinov2.py, `interpolate_pos_encoding`: cubic convolution, a = -0.75, borders clamped, no antialiasing.
 */
export function interpolatePositions(table: HostTensor, grid: number): HostTensor {
  const [rows, D] = table.shape.slice(-2) as [number, number]; // checked by the caller's config
  const source = toFloat32(table);
  const from = Math.round(Math.sqrt(rows - 1));
  if (from * from + 1 !== rows)
    throw new UserError(`interpolatePositions: rows must be 1 + a square, got ${rows}`);
  const out = new Float32Array((1 + grid * grid) * D);
  out.set(source.subarray(0, D));
  const taps = Array.from({ length: grid }, (_, i) => cubicTaps(i, from, grid));
  for (const [y, rowTaps] of taps.entries()) {
    for (const [x, columnTaps] of taps.entries()) {
      const to = (1 + y * grid + x) * D;
      for (const [sy, wy] of rowTaps) {
        for (const [sx, wx] of columnTaps) {
          const at = (1 + sy * from + sx) * D;
          for (let d = 0; d < D; d++) out[to + d] = (out[to + d] ?? 0) + wy * wx * (source[at + d] ?? 0);
        }
      }
    }
  }
  const shape = [...table.shape.slice(0, -2), 1 + grid * grid, D];
  return { dtype: 'float32', shape, data: new Uint8Array(out.buffer) };
}

/** The four source positions of an output position and their weights. */
function cubicTaps(index: number, from: number, to: number): [number, number][] {
  if (from === to) return [[index, 1]];
  const position = ((index + 0.5) * from) / to - 0.5;
  const base = Math.floor(position);
  return [-1, 0, 1, 2].map((offset) => [
    Math.min(Math.max(base + offset, 0), from - 1),
    cubic(Math.abs(position - base - offset)),
  ]);
}

function cubic(t: number): number {
  if (t <= 1) return ((A + 2) * t - (A + 3)) * t * t + 1;
  return t < 2 ? ((A * t - 5 * A) * t + 8 * A) * t - 4 * A : 0;
}
