/** `minigpt4 evaluate` */
import { join } from 'node:path';

import { requiredText, settings, text, verb } from './verb.js';

/** Evaluates a projection on held-out pairs. */
export const evaluate = verb({
  command: 'evaluate',
  describe: 'Measures a trained projection on the held-out pairs of a configuration and writes a report.',
  options: {
    config: requiredText('config', 'configuration file (YAML) that the projection was trained with'),
    set: settings('evaluate.captions=8'),
    from: text(
      'from',
      "run folder, checkpoint folder or .safetensors file; the configuration's run if not given",
    ),
    out: text('out', 'folder of report.html and evaluation.json; RUN/evaluation if not given'),
  },
  example: 'evaluate --config configs/quickstart/stage1.yaml',
  async run({ config: file, set, from, out }) {
    const { loadConfig } = await import('../config/load.js');
    const config = await loadConfig(file, { set });
    const { modelFolders } = await import('../setup/setup.js');
    const { runEvaluation } = await import('../evaluate/run.js');
    const { Display } = await import('./display.js');
    const display = new Display();
    try {
      const { lines, reportFile } = await runEvaluation(config, {
        folders: await modelFolders(config),
        from: from ?? config.run.folder,
        out: out ?? join(config.run.folder, 'evaluation'),
        events: {
          note: (line) => display.note(line),
          loading: (part, done) => display.loading(part, done),
          progress: (task, done, total) => display.show(task, done, total),
        },
      });
      display.stop();
      console.log(lines.join('\n'));
      console.log(`report: ${reportFile}`);
    } finally {
      display.stop();
    }
  },
});
