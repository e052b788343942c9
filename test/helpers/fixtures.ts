/** Reading the files of test/fixtures. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { openSafetensors } from '../../src/model/weights/safetensors.js';
import { toFloat32 } from '../../src/tensorflow/halfFloats.js';

/** A JSON file of test/fixtures, whose shape its script in scripts/fixtures decides. */
export async function readFixture<T>(path: string): Promise<T> {
  return JSON.parse(await readFile(fixture(path), 'utf8')) as T; // our own script's file
}

/** Every float tensor of a safetensors file of test/fixtures, by name. */
export async function readTensors<Name extends string>(path: string): Promise<Record<Name, Float32Array>> {
  const source = await openSafetensors(fixture(path));
  try {
    const entries: [string, Float32Array][] = [];
    for (const name of source.names()) entries.push([name, toFloat32(await source.read(name)).slice()]);
    return Object.fromEntries(entries) as Record<Name, Float32Array>; // the names that the script writes
  } finally {
    await source.close();
  }
}

function fixture(path: string): string {
  return join(import.meta.dirname, '..', 'fixtures', path);
}
