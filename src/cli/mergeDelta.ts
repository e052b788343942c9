/** `minigpt4 merge-delta` */
import { onStopSignals, SIGNAL_CODES } from './signals.js';
import { flag, requiredText, verb, wholeNumber } from './verb.js';

/** Merges base weights and a delta. */
export const mergeDeltaVerb = verb({
  command: 'merge-delta',
  describe: 'Recovers Vicuna v0: adds the published delta to LLaMA’s weights, tensor by tensor.',
  options: {
    base: requiredText('base', 'folder of LLaMA-1 in the Hugging Face layout, .bin or safetensors'),
    delta: requiredText('delta', 'folder of the delta of the same size, as vicuna-7b-delta-v0'),
    out: requiredText('out', 'folder to write: safetensors, configuration and tokenizer'),
    'shard-size': wholeNumber('shard-size', 'most gigabytes of a file; 5 if not given', 1),
    force: flag('replace a folder that merge-delta made'),
  },
  example: 'merge-delta --base llama-7b-hf --delta vicuna-7b-delta-v0 --out vicuna-7b',
  async run({ base, delta, out, 'shard-size': gigabytes, force }) {
    const { mergeDelta } = await import('../mergeDelta.js');
    const { Display } = await import('./display.js');
    const display = new Display();
    const stop = stopOnSignals();
    try {
      const merged = await mergeDelta(base, delta, out, {
        ...(gigabytes !== undefined && { shardBytes: gigabytes * 1e9 }),
        force,
        signal: stop.signal,
        onProgress: (progress) => display.setup(progress),
        onNote: (text) => display.note(`warning: ${text}`),
      });
      display.stop();
      const { folder, model, tensors, values, rows, baseRows, shards, sizeBytes } = merged;
      console.log(`${folder}: ${model}, ${tensors} tensors, ${values} values, ${megabytes(sizeBytes)}`);
      console.log(`  rows of the embeddings: ${baseRows} of the base, ${rows - baseRows} more of the delta`);
      for (const { file, sizeBytes: bytes, sha256 } of shards)
        console.log(`  ${file}  ${megabytes(bytes)}  sha256 ${sha256}`);
      console.log(`read back: all ${tensors} tensors are equal to the sums, by SHA-256`);
    } catch (error) {
      display.stop();
      if (!(error instanceof Error && error.name === 'AbortError')) throw error;
      process.exitCode = stop.exitCode();
      console.error('merge-delta: stopped, nothing was written');
    } finally {
      display.stop();
      stop.close();
    }
  },
});

/** Aborts at the first signal; the second ends the process as it does by itself. */
function stopOnSignals(): { signal: AbortSignal; exitCode: () => number; close: () => void } {
  const controller = new AbortController();
  let code = 0;
  const close = onStopSignals((name) => {
    code = SIGNAL_CODES[name];
    close();
    controller.abort();
  });
  return { signal: controller.signal, exitCode: () => code, close };
}

function megabytes(sizeBytes: number): string {
  return `${Math.ceil(sizeBytes / 1e6)} MB`;
}
