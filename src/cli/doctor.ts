/** `minigpt4 doctor` */
import { verb } from './verb.js';

/** Shows what is there and what is missing. */
export const doctor = verb({
  command: 'doctor',
  describe:
    'Shows what is set up, how fast this machine multiplies and what is missing; exit code 2 if something is.',
  options: {},
  example: 'doctor',
  async run() {
    const { examine, reportLines } = await import('../setup/doctor.js');
    const report = await examine();
    console.log(reportLines(report).join('\n'));
    if (!report.ready) process.exitCode = 2;
  },
});
