/** Dictionaries of an Arrow file: values that the rows of many batches refer to, such as captions that come again. */

import { RecordBatchReader, type Vector } from 'apache-arrow';
import type { ArrowIndex, DictionaryBlock } from './arrowFile.js';
import type { Block } from './arrowMessage.js';
import { RangeReader } from '../bytes/byteFile.js';
import { decodeOrFault, type ByteRange } from '../bytes/fileBytes.js';

/** Decoded dictionaries; many batches may share them. */
export interface Dictionaries {
  readonly byId: ReadonlyMap<number, Vector>;
  /** Memory that they hold. */
  readonly heldBytes: number;
}

/** Gives the dictionaries that lie in these blocks of a file: reads them, or has them from before. */
export type DictionarySource = (
  index: ArrowIndex,
  blocks: readonly DictionaryBlock[],
) => Promise<Dictionaries>;

/** The dictionaries that a batch's columns refer to, in the order in which they build on each other. */
export function dictionariesOf(index: ArrowIndex, block: Block): DictionaryBlock[] {
  let current: DictionaryBlock[] = [];
  for (const dictionary of index.dictionaries) {
    if (index.format === 'stream' && dictionary.offset > block.offset) break;
    if (!dictionary.isDelta) current = current.filter(({ id }) => id !== dictionary.id);
    current.push(dictionary);
  }
  return current;
}

/** Reads dictionaries. @throws UserError if the file is damaged there */
export async function readDictionaries(
  index: ArrowIndex,
  blocks: readonly DictionaryBlock[],
): Promise<Dictionaries> {
  if (blocks.length === 0) return { byId: new Map(), heldBytes: 0 };
  const ranges = blocks.map(({ offset, metadataBytes, bodyBytes }): ByteRange => ({
    offset,
    length: metadataBytes + bodyBytes,
  }));
  const reader = await RangeReader.read(index.file, ranges);
  return decodeOrFault(index.path, () => {
    const messages = RecordBatchReader.from([index.schemaMessage, ...ranges.map((one) => reader.bytes(one))]);
    messages.next(); // reads to the end, as no batch follows
    // apache-arrow would keep every text that was ever looked up, beside the bytes
    const byId = new Map([...messages.dictionaries].map(([id, vector]) => [id, vector.unmemoize()]));
    return { byId, heldBytes: [...byId.values()].reduce((sum, { byteLength }) => sum + byteLength, 0) };
  });
}
