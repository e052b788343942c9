/** `minigpt4 inspect` */
import { requiredText, verb, wholeNumber } from './verb.js';

/** Shows what is inside a file or folder. */
export const inspect = verb({
  command: 'inspect <path>',
  describe:
    'Shows what a shard, weights file, model folder, checkpoint or run holds, and verifies its checksums.',
  options: {
    path: requiredText(
      'path',
      'an .arrow, .safetensors or .gguf file, or a folder of shards, a model, checkpoint or run',
    ),
    samples: wholeNumber('samples', 'pairs of a shard that are shown; 3 if not given', 0),
    verify: { type: 'boolean', default: true, describe: 'do not read all data of shards to verify it' },
  },
  example: 'inspect shards/quickstart/stage1-train',
  async run({ path, samples, verify }) {
    const { inspectPath } = await import('../inspect.js');
    const lines = await inspectPath(path, { verify, ...(samples !== undefined && { samples }) });
    console.log(lines.join('\n'));
  },
});
