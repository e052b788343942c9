/** Programs on the PATH that stand for npm and a compiler. */
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** Writes a shell script `program` into `folder`; its calls are logged one a line in `PROGRAM.calls`. */
export async function fakeTool(folder: string, program: string, shell: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  const script = `#!/bin/sh
PATH=/usr/bin:/bin
echo "$@" >> "${folder}/${program}.calls"
${shell}
`;
  await writeFile(join(folder, program), script);
  await chmod(join(folder, program), 0o755);
}

/** An npm that says its version and runs `ci` for `npm ci`, with $FOLDER the --prefix. */
export async function fakeNpm(folder: string, ci: string): Promise<void> {
  await fakeTool(
    folder,
    'npm',
    `[ "$1" = --version ] && { echo 10.8.2; exit 0; }
FOLDER="\${2#--prefix=}"
${ci}`,
  );
}

/** A compiler that says its version and otherwise runs `compile`, with $OUTPUT the file to make. */
export async function fakeCompiler(folder: string, compile: string, program = 'g++'): Promise<void> {
  await fakeTool(
    folder,
    program,
    `[ "$1" = --version ] && { echo "${program} (Fake) 12.2.0"; exit 0; }
while [ $# -gt 0 ]; do [ "$1" = -o ] && OUTPUT="$2"; shift; done
${compile}`,
  );
}
