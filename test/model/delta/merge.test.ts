import { createHash } from 'node:crypto';
import { open, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { readBack, writeMerged } from '../../../src/model/delta/merge.js';
import { planMerge, type MergePlan } from '../../../src/model/delta/plan.js';
import { openHuggingFaceFolder } from '../../../src/model/weights/huggingface.js';
import { openSafetensors } from '../../../src/model/weights/safetensors.js';
import type { WeightSource } from '../../../src/model/weights/weights.js';
import { temporaryFolder } from '../weights/weightsFixture.js';
import { copyFixture } from './deltaFixture.js';

/** Runs `use` on the fixture's plan and a new folder with the delta's config.json. */
async function withPlan(use: (plan: MergePlan, folder: string) => Promise<void>): Promise<void> {
  const { base, delta } = await copyFixture();
  const sources = [await openHuggingFaceFolder(base), await openHuggingFaceFolder(delta)] as const;
  const folder = await temporaryFolder();
  await writeFile(join(folder, 'config.json'), '{}');
  await use(await planMerge(...sources), folder);
  for (const source of sources) await source.close();
}

describe('writeMerged', () => {
  it('fills files up to the size asked for, and names them in an index as transformers does', () =>
    withPlan(async (plan, folder) => {
      const { shards, tensors } = await writeMerged(folder, plan, { shardBytes: 20_000 });
      // two embeddings of 19232 bytes each, and 8864 bytes of all else
      expect(shards.map(({ file }) => file)).toEqual([
        'model-00001-of-00003.safetensors',
        'model-00002-of-00003.safetensors',
        'model-00003-of-00003.safetensors',
      ]);
      const index = JSON.parse(await readFile(join(folder, 'model.safetensors.index.json'), 'utf8')) as {
        metadata: unknown;
        weight_map: Record<string, string>;
      };
      expect(index.metadata).toEqual({ total_size: 47328 });
      expect(Object.keys(index.weight_map)).toEqual(Object.keys(tensors));
      expect(Object.keys(tensors)).toEqual(plan.tensors.map(({ name }) => name).sort());
      for (const { file, sizeBytes, sha256 } of shards) {
        const bytes = await readFile(join(folder, file));
        expect(sizeBytes).toBe(bytes.length);
        expect(sha256).toBe(createHash('sha256').update(bytes).digest('hex'));
        const source = await openSafetensors(join(folder, file));
        expect(source.metadata).toEqual({ format: 'pt' });
        for (const name of source.names()) expect(index.weight_map[name]).toBe(file);
        await source.close();
      }
    }));

  it('gives a tensor that is larger than a file may be one of its own', () =>
    withPlan(async (plan, folder) => {
      const { shards } = await writeMerged(folder, plan, { shardBytes: 1 });
      expect(shards).toHaveLength(plan.tensors.length);
      expect(shards.at(-1)?.file).toBe('model-00021-of-00021.safetensors');
    }));

  it('has one tensor of base and delta at a time: the last sum is on disk before the next is read', () =>
    withPlan(async (plan, folder) => {
      const events: string[] = [];
      const onDisk = async (): Promise<number> => {
        const files = (await readdir(folder)).filter((file) => file.includes('safetensors'));
        const sizes = await Promise.all(files.map(async (file) => (await stat(join(folder, file))).size));
        return sizes.reduce((sum, size) => sum + size, 0);
      };
      let sumBytes = 0;
      const watched = (which: string, source: WeightSource): WeightSource => ({
        ...source,
        read: async (name) => {
          events.push(`${which} ${name}`);
          if (which === 'base') expect(await onDisk()).toBeGreaterThanOrEqual(sumBytes);
          return source.read(name);
        },
      });
      const [base, delta] = [watched('base', plan.base), watched('delta', plan.delta)];
      const onTensor = (sizeBytes: number) => (sumBytes += sizeBytes);
      await writeMerged(folder, { ...plan, base, delta }, { shardBytes: 20_000, onTensor });
      expect(sumBytes).toBe(plan.sizeBytes);
      const bases = events.filter((_, i) => i % 2 === 0);
      expect(bases.map((event) => event.replace('base ', '')).sort()).toEqual(
        plan.tensors.map(({ name }) => name).sort(),
      );
      expect(events).toEqual(bases.flatMap((event) => [event, event.replace('base', 'delta')]));
    }));

  it('stops between tensors', () =>
    withPlan(async (plan, folder) => {
      const stop = new AbortController();
      let tensors = 0;
      const onTensor = () => (++tensors === 5 ? stop.abort() : undefined);
      const writing = writeMerged(folder, plan, { shardBytes: 1e9, signal: stop.signal, onTensor });
      await expect(writing).rejects.toThrow(expect.objectContaining({ name: 'AbortError' }));
      expect(tensors).toBe(5);
      expect(await readdir(folder)).toEqual(['config.json']);
    }));
});

describe('readBack', () => {
  it('passes what was written, and finds one flipped bit', () =>
    withPlan(async (plan, folder) => {
      const { tensors, shards } = await writeMerged(folder, plan, { shardBytes: 20_000 });
      let bytes = 0;
      await readBack(folder, plan, tensors, { onTensor: (sizeBytes) => (bytes += sizeBytes) });
      expect(bytes).toBe(plan.sizeBytes);
      const path = join(folder, shards[2]?.file ?? '');
      const file = await open(path, 'r+');
      const { size } = await file.stat();
      const { buffer } = await file.read(Buffer.alloc(1), 0, 1, size - 1);
      buffer[0] = (buffer[0] ?? 0) ^ 1;
      await file.write(buffer, 0, 1, size - 1);
      await file.close();
      await expect(readBack(folder, plan, tensors)).rejects.toThrow(
        /must read back as it was computed, got [0-9a-f]{64} for model\.norm\.weight, not/,
      );
    }));

  it('finds a tensor that should be there', () =>
    withPlan(async (plan, folder) => {
      const { tensors } = await writeMerged(folder, plan, { shardBytes: 20_000 });
      await expect(readBack(folder, plan, { ...tensors, more: '' })).rejects.toThrow('for names, not');
    }));
});
