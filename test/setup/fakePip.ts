/** A `python3` on the PATH that plays pip: it hands out a file, or fails with the words of the real one. */
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/**
 * Writes the fake; its calls are logged one a line into `calls.txt` beside it.
 *
 * @param download shell lines run for `pip download`, with $DEST the wanted folder
 * @returns the folder to put on the PATH
 */
export async function fakePip(
  folder: string,
  download: string,
  { version = '23.2.1', program = 'python3' } = {},
): Promise<string> {
  await mkdir(folder, { recursive: true });
  const script = `#!/bin/sh
PATH=/usr/bin:/bin
echo "$@" >> "${folder}/calls.txt"
DEST=
while [ $# -gt 0 ]; do
  case "$1" in
    --version) echo "pip ${version} from somewhere (python 3.11)"; exit 0 ;;
    --dest) DEST="$2" ;;
    -r) cp "$2" "${folder}/requirements.txt" ;;
  esac
  shift
done
mkdir -p "$DEST"
${download}
`;
  await writeFile(join(folder, program), script);
  await chmod(join(folder, program), 0o755);
  return folder;
}
