/**
 * SHA-256 of weights. Those of large files are remembered in the per-user cache, so that a start need not read 16 GB
 * twice; a file that was written, replaced or touched since is hashed anew.
 */
import { mkdir, readdir, readFile, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { cacheFolder } from '../../cache.js';
import { fileError, sha256OfFile, writeFileWhole } from '../../files.js';

/** Smaller weights are hashed each time: that costs less than remembering them is worth. */
const REMEMBERED_BYTES = 2 ** 26;
const FILE = 'hashes.json';

/**
 * SHA-256 over weights: of a folder its `config.json` and weight files one after the other by name, else the file itself.
 *
 * @returns hex
 * @throws UserError if one is missing or cannot be read
 */
export async function hashWeights(path: string): Promise<string> {
  const files = await weightFiles(path);
  const before = await stampOf(files);
  if (before.bytes < REMEMBERED_BYTES) return sha256OfFile(...files);
  const known = (await remembered())[resolve(path)];
  if (known?.stamp === before.stamp) return known.sha256;
  const sha256 = await sha256OfFile(...files);
  const after = await stampOf(files);
  if (after.stamp === before.stamp) await remember(resolve(path), { stamp: before.stamp, sha256 });
  return sha256;
}

async function weightFiles(path: string): Promise<string[]> {
  const kind = await stat(path).catch((error: unknown) => {
    throw fileError(path, error);
  });
  if (!kind.isDirectory()) return [path];
  const names = (await readdir(path)).filter(
    (name) => name === 'config.json' || /\.(safetensors|bin)$/.test(name),
  );
  return names.sort().map((name) => join(path, name));
}

/** What changes whenever the files' bytes may have: names, sizes, inodes, and both times to the nanosecond. */
async function stampOf(files: readonly string[]): Promise<{ bytes: number; stamp: string }> {
  const stats = await Promise.all(files.map((file) => stat(file, { bigint: true })));
  return {
    bytes: stats.reduce((sum, { size }) => sum + Number(size), 0),
    stamp: stats
      .map(({ dev, ino, size, mtimeNs, ctimeNs }, i) =>
        [basename(files[i] ?? ''), dev, ino, size, mtimeNs, ctimeNs].map(String).join(' '),
      )
      .join('; '),
  };
}

type Remembered = Record<string, { readonly stamp: string; readonly sha256: string }>;

async function remembered(): Promise<Remembered> {
  try {
    return JSON.parse(await readFile(join(cacheFolder(), FILE), 'utf8')) as Remembered; // our own; a wrong entry matches no stamp
  } catch {
    return {}; // none yet, or damaged: only a saving is lost
  }
}

async function remember(path: string, entry: Remembered[string]): Promise<void> {
  try {
    await mkdir(cacheFolder(), { recursive: true });
    await writeFileWhole(
      join(cacheFolder(), FILE),
      `${JSON.stringify({ ...(await remembered()), [path]: entry }, undefined, 2)}\n`,
    );
  } catch {
    // a cache that cannot be written costs time at the next start, nothing else
  }
}
