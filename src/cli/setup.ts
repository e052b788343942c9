/** `minigpt4 setup` */
import { verb } from './verb.js';

/** Sets up TensorFlow and the default models. */
export const setup = verb({
  command: 'setup',
  describe: 'Sets up TensorFlow and the default models in the per-user cache; does only what is missing.',
  options: {
    device: {
      choices: ['cpu', 'gpu'] as const,
      describe:
        "which TensorFlow; by default the GPU's where an NVIDIA driver is found (not yet run on a GPU)",
    },
    models: {
      type: 'boolean',
      default: true,
      describe: 'TensorFlow alone, without the default models',
    },
  },
  example: 'setup',
  async run({ device, models }) {
    const { setup: setUp } = await import('../setup/setup.js');
    const { Display } = await import('./display.js');
    const display = new Display();
    try {
      const made = await setUp({
        models,
        ...(device && { device }),
        onProgress: (progress) => display.setup(progress),
      });
      display.stop();
      console.log(`TensorFlow: ${made.runtime.folder}`);
      if (made.models) console.log(`models: ${made.models.llm}\n        ${made.models.encoder}`);
    } finally {
      display.stop();
    }
  },
});
