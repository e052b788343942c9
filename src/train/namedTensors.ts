/** Small safetensors files as a whole: projections and optimizer states. */
import { openSafetensors, writeSafetensors } from '../model/weights/safetensors.js';
import type { HostTensor } from '../tensorflow/dtypes.js';

/** Tensors by name. */
export type NamedTensors = Readonly<Record<string, HostTensor>>;

/** Reads every tensor of a small safetensors file. */
export async function readTensors(file: string): Promise<NamedTensors> {
  const source = await openSafetensors(file);
  try {
    const tensors: Record<string, HostTensor> = {};
    for (const name of source.names()) tensors[name] = await source.read(name);
    return tensors;
  } finally {
    await source.close();
  }
}

/** Writes tensors as a safetensors file, whole or not at all. @param metadata free text that the file carries */
export async function writeTensors(
  file: string,
  tensors: NamedTensors,
  metadata: Readonly<Record<string, string>>,
): Promise<void> {
  const entries = Object.entries(tensors).map(([name, { dtype, shape, data }]) => ({
    name,
    dtype,
    shape,
    read: () => data,
  }));
  await writeSafetensors(file, entries, metadata);
}
