/** `minigpt4 export` */
import { flag, requiredText, verb } from './verb.js';

/** Exports a projection. */
export const exportVerb = verb({
  command: 'export <from>',
  describe:
    "Writes a trained projection under the reference's tensor names, and checks it by reading it back.",
  options: {
    from: requiredText('from', 'run folder (its newest checkpoint), checkpoint folder or .safetensors file'),
    out: requiredText('out', 'the file to write, ending in .safetensors'),
    format: { choices: ['safetensors'], default: 'safetensors', describe: 'file format' },
    force: flag('replace a file that is there'),
  },
  example: 'export runs/quickstart/stage1 --out projection.safetensors',
  async run({ from, out, force }) {
    const { exportProjection } = await import('../train/export.js');
    const { file, source, tensors, metadata } = await exportProjection(from, out, { force });
    const step = metadata['step'] === undefined ? '' : `, step ${metadata['step']}`;
    console.log(`${file}: from ${source}${step}`);
    for (const { name, dtype, shape } of tensors) console.log(`  ${name}  ${dtype}[${shape.join(', ')}]`);
    console.log(`read back: all ${tensors.length} tensors are equal to the checkpoint's, bit for bit`);
  },
});
