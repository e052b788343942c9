/** `minigpt4 config` */
import { verb } from './verb.js';

/** Describes the configuration. */
export const config = verb({
  command: 'config',
  describe: 'Describes every field of a configuration file: its type, its default and what it does.',
  options: {},
  example: 'config',
  async run() {
    const { describeConfig } = await import('../config/describe.js');
    console.log(describeConfig());
  },
});
