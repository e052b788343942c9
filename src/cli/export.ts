/** `minigpt4 export` */
import type { ProjectionFormat } from '../train/projectionFiles.js';
import { flag, requiredText, verb } from './verb.js';

const FORMATS = ['safetensors', 'minigpt4', 'llava'] as const satisfies readonly ProjectionFormat[];

/** Exports a projection. */
export const exportVerb = verb({
  command: 'export <from>',
  describe:
    "Writes a trained projection under the reference's tensor names, and checks it by reading it back.",
  options: {
    from: requiredText(
      'from',
      'run folder (its newest checkpoint), checkpoint folder, or .safetensors, .pth or .bin file',
    ),
    out: requiredText('out', 'the file to write: .safetensors, .pth for minigpt4, .bin for llava'),
    format: {
      choices: FORMATS,
      default: 'safetensors' as const,
      describe: 'what reads it: safetensors, MiniGPT-4’s own code, LLaVA (mm_projector.bin)',
    },
    force: flag('replace a file that is there'),
    probe: {
      type: 'boolean',
      default: true,
      describe:
        'also compare logits of a probe batch through the LLM of the run; --no-probe does not load it',
    },
  },
  example: 'export runs/quickstart/stage1 --out projection.safetensors',
  async run({ from, out, format, force, probe: wanted }) {
    const { exportProjection } = await import('../train/export.js');
    const { modelFolder } = await import('../setup/models.js');
    const { Display } = await import('./display.js');
    const display = new Display();
    const { file, source, tensors, ignored, metadata, probe } = await exportProjection(from, out, {
      force,
      format,
      ...(wanted && {
        llmFolder: ({ model }) => modelFolder(model.llm),
        onProgress: (done) => display.loading('language model', done),
      }),
    }).finally(() => display.stop());
    const step = metadata['step'] === undefined ? '' : `, step ${metadata['step']}`;
    console.log(`${file}: from ${source}${step}`);
    for (const { name, dtype, shape } of tensors) console.log(`  ${name}  ${dtype}[${shape.join(', ')}]`);
    if (ignored.length > 0) console.log(`left out, no part of the projection: ${ignored.join(', ')}`);
    console.log(`read back: all ${tensors.length} tensors are equal to the checkpoint's, bit for bit`);
    if (probe)
      console.log(
        `probe: ${probe.logits.toLocaleString('en')} logits of a batch of 2 are equal, up to ${probe.largest.toFixed(1)} large`,
      );
    else if (wanted) console.log('probe: none, since the file lies in no run that names its LLM');
  },
});
