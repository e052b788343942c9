#!/usr/bin/env node
import { existsSync } from 'node:fs';
import * as nodeModule from 'node:module';
import { fileURLToPath } from 'node:url';

nodeModule.enableCompileCache?.(); // Node 22: the second start is faster
if (existsSync(fileURLToPath(import.meta.resolve('../dist/cli/main.js')))) {
  const { main } = await import('../dist/cli/main.js');
  await main(process.argv.slice(2));
} else {
  console.error('minigpt4: must be built first, got no dist folder (run: npm run setup)');
  process.exitCode = 2;
}
