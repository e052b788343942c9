/** Seeded deviates, so that a failing case can be repeated. */

/** Normal deviates (mean 0, standard deviation 1) from a 32-bit seed: mulberry32 and Box–Muller. */
export function randomNormal(count: number, seed: number): Float32Array {
  const uniform = mulberry32(seed);
  return Float32Array.from(
    { length: count },
    () => Math.sqrt(-2 * Math.log(uniform() || 1e-9)) * Math.cos(2 * Math.PI * uniform()),
  );
}

/** Uniform [0, 1) generator. */
export function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t ^= t + Math.imul(t ^ (t >>> 7), 61 | t);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
