/** This package's version, as state files and `--version` show it. */
import { createRequire } from 'node:module';

/** Semantic version from package.json. */
export const packageVersion: string = (
  createRequire(import.meta.url)('../package.json') as { version: string }
) // beside src/ and dist/ alike
.version;
