/** The record batches and dictionaries of a set that were read last, in bounded memory. */

import type { ArrowIndex } from '../arrow/arrowFile.js';
import { openBatch, type BatchRows } from '../arrow/batchRows.js';
import { readDictionaries, type Dictionaries, type DictionarySource } from '../arrow/dictionaries.js';
import { Recent } from './recent.js';

const CACHED_BYTES = 96 * 2 ** 20; // record batches held open: some thousand, at about 50 kB
const COMPRESSED_BYTES = 160 * 2 ** 20; // those are held whole: the 16 that order `local` reads at a time, at up to 10 MB
const DICTIONARY_BYTES = 256 * 2 ** 20; // some million captions
const UNREAD_BYTES = 64 * 2 ** 10; // what a batch is taken to hold until it is read

/** Dictionaries, and the file that they are of. */
interface HeldDictionaries {
  readonly index: ArrowIndex;
  readonly reading: Promise<Dictionaries>;
}

/** Opens batches, and keeps those that were wanted last. */
export class BatchCache {
  private readonly plain = new Recent<Promise<BatchRows>>(CACHED_BYTES);
  private readonly compressed = new Recent<Promise<BatchRows>>(COMPRESSED_BYTES);
  // With its dictionaries a file's batches go too: they refer to them, and would keep their memory
  private readonly shared = new Recent<HeldDictionaries>(DICTIONARY_BYTES, ({ index }) => this.forget(index));

  /** Opens a batch, or has it from before. @throws UserError if the file is damaged there */
  batch(index: ArrowIndex, batch: number): Promise<BatchRows> {
    const key = keyOf(index, batch);
    const batches = index.batches[batch]?.compressed === true ? this.compressed : this.plain;
    const cached = batches.get(key);
    if (cached !== undefined) return cached;
    const opening = openBatch(index, batch, this.dictionaries);
    batches.set(key, opening, UNREAD_BYTES);
    opening.then(
      ({ heldBytes }) => batches.setCost(key, heldBytes),
      () => batches.delete(key), // the caller gets the error; a later read may try again
    );
    return opening;
  }

  /** Reads dictionaries once for all batches of a file that refer to them. */
  readonly dictionaries: DictionarySource = (index, blocks) => {
    if (blocks.length === 0) return readDictionaries(index, blocks);
    const key = `${index.path}:${blocks.map(({ offset }) => offset).join(',')}`;
    const cached = this.shared.get(key);
    if (cached !== undefined) return cached.reading;
    const reading = readDictionaries(index, blocks);
    this.shared.set(key, { index, reading }, UNREAD_BYTES);
    reading.then(
      ({ heldBytes }) => this.shared.setCost(key, heldBytes),
      () => this.shared.delete(key),
    );
    return reading;
  };

  /** Drops everything. */
  clear(): void {
    this.plain.clear();
    this.compressed.clear();
    this.shared.clear();
  }

  private forget(index: ArrowIndex): void {
    for (const batch of index.batches.keys()) {
      this.plain.delete(keyOf(index, batch));
      this.compressed.delete(keyOf(index, batch));
    }
  }
}

function keyOf(index: ArrowIndex, batch: number): string {
  return `${index.path}:${batch}`;
}
