/** Trained arrays of a linear projection, by hand. */
import type { Projection, ProjectionArrays } from '../../src/model/projection.js';

/** Weight and bias of a linear projection, or their gradients. */
export function linearArrays(arrays: ProjectionArrays): { weight: Float32Array; bias: Float32Array } {
  const { weight, bias } = arrays;
  if (!weight || !bias)
    throw new Error(`linearArrays: must hold weight and bias, got ${Object.keys(arrays).join()}`);
  return { weight, bias };
}

/** A projection whose parameters may be changed without changing the first one's. */
export function copyOf(projection: Projection): Projection {
  const copies = Object.entries(projection.parameters).map(
    ([name, values]) => [name, values.slice()] as const,
  );
  return { ...projection, parameters: Object.fromEntries(copies) };
}
