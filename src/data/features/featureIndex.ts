/**
 * Where the features of each image lie, by the hash of the image's bytes: 32 bytes an image in plain memory and 4 to 11
 * more to find them by. A `Map` of texts would need some 300, and millions of objects for the garbage collector to visit.
 */

/** Bytes of a hash that tell images apart here; the check of a value is made over all of its bytes. */
export const HASH_BYTES = 16;
/** Bytes of a value's check. */
export const CHECK_BYTES = 8;

/** Where one image's features lie. */
export interface Place {
  /** Number of the file, as the caller counts them. */
  readonly file: number;
  /** Byte position of the values in it, below 2^32. */
  readonly position: number;
}

const ENTRY_BYTES = HASH_BYTES + CHECK_BYTES + 8; // hash, check, file, position
const BLOCK_ENTRIES = 2 ** 16; // entries come in blocks, so that growing copies none of them
const FILE_AT = HASH_BYTES + CHECK_BYTES;
const POSITION_AT = FILE_AT + 4;
const REMOVED = 0xffffffff;
const SMALLEST_TABLE = 2 ** 10;
const FULL = 0.75; // share of the table's slots in use at which it doubles

/** A table from hashes to places: open addressing with linear probing over entries that never move. */
export class FeatureIndex {
  private readonly blocks: Buffer[] = [];
  /** Number of the entry + 1; 0 = free. */
  private slots = new Uint32Array(SMALLEST_TABLE);
  private entries = 0;
  private removed = 0;

  /** Images that have a place. */
  get size(): number {
    return this.entries - this.removed;
  }

  /** Bytes of memory that the index holds. */
  get sizeBytes(): number {
    return this.slots.byteLength + this.blocks.length * BLOCK_ENTRIES * ENTRY_BYTES;
  }

  /** Where an image's features lie; undefined if they have no place. */
  get(hash: Uint8Array): Place | undefined {
    const entry = this.find(hash);
    if (entry === undefined) return undefined;
    const { block, at } = this.locate(entry);
    const file = block.readUInt32LE(at + FILE_AT);
    return file === REMOVED ? undefined : { file, position: block.readUInt32LE(at + POSITION_AT) };
  }

  /** The check that an image's features were stored with: a view, valid until the next `set`; undefined if there is none. */
  check(hash: Uint8Array): Uint8Array | undefined {
    const entry = this.find(hash);
    if (entry === undefined) return undefined;
    const { block, at } = this.locate(entry);
    return block.subarray(at + HASH_BYTES, at + HASH_BYTES + CHECK_BYTES);
  }

  /**
   * Gives an image its place, in place of one it had.
   *
   * @param hash at least `HASH_BYTES` bytes, copied
   * @param check `CHECK_BYTES` bytes, copied
   */
  set(hash: Uint8Array, check: Uint8Array, { file, position }: Place): void {
    const { block, at } = this.locate(this.find(hash) ?? this.append(hash));
    if (block.readUInt32LE(at + FILE_AT) === REMOVED) this.removed -= 1;
    block.set(check.subarray(0, CHECK_BYTES), at + HASH_BYTES);
    block.writeUInt32LE(file, at + FILE_AT);
    block.writeUInt32LE(position, at + POSITION_AT);
  }

  /** Forgets an image's place. Its entry stays and is used again if the image gets another place. */
  remove(hash: Uint8Array): void {
    const entry = this.find(hash);
    if (entry === undefined) return;
    const { block, at } = this.locate(entry);
    if (block.readUInt32LE(at + FILE_AT) !== REMOVED) this.removed += 1;
    block.writeUInt32LE(REMOVED, at + FILE_AT);
  }

  /** Forgets all. */
  clear(): void {
    this.blocks.length = 0;
    this.slots = new Uint32Array(SMALLEST_TABLE);
    this.entries = this.removed = 0;
  }

  /** An entry of its own for a new hash, marked as removed until `set` fills it. */
  private append(hash: Uint8Array): number {
    if (this.entries + 1 > this.slots.length * FULL) this.grow();
    const entry = this.entries++;
    if (entry % BLOCK_ENTRIES === 0) this.blocks.push(Buffer.alloc(BLOCK_ENTRIES * ENTRY_BYTES));
    const { block, at } = this.locate(entry);
    block.set(hash.subarray(0, HASH_BYTES), at);
    block.writeUInt32LE(REMOVED, at + FILE_AT);
    this.removed += 1;
    this.slots[this.freeSlot(block, at)] = entry + 1;
    return entry;
  }

  private find(hash: Uint8Array): number | undefined {
    const mask = this.slots.length - 1;
    for (let slot = startOf(hash, 0) & mask; ; slot = (slot + 1) & mask) {
      const entry = (this.slots[slot] ?? 0) - 1;
      if (entry < 0) return undefined;
      const { block, at } = this.locate(entry);
      if (sameHash(block, at, hash)) return entry;
    }
  }

  private freeSlot(block: Uint8Array, at: number): number {
    const mask = this.slots.length - 1;
    let slot = startOf(block, at) & mask;
    while (this.slots[slot] !== 0) slot = (slot + 1) & mask;
    return slot;
  }

  private grow(): void {
    this.slots = new Uint32Array(this.slots.length * 2);
    for (let entry = 0; entry < this.entries; entry++) {
      const { block, at } = this.locate(entry);
      this.slots[this.freeSlot(block, at)] = entry + 1;
    }
  }

  private locate(entry: number): { readonly block: Buffer; readonly at: number } {
    const block = this.blocks[Math.floor(entry / BLOCK_ENTRIES)];
    if (!block) throw new Error(`FeatureIndex: entry must be below ${this.entries}, got ${entry}`);
    return { block, at: (entry % BLOCK_ENTRIES) * ENTRY_BYTES };
  }
}

/** Hashes are evenly spread already: their first bytes say where to look first. */
function startOf(bytes: Uint8Array, at: number): number {
  return (
    ((bytes[at] ?? 0) |
      ((bytes[at + 1] ?? 0) << 8) |
      ((bytes[at + 2] ?? 0) << 16) |
      ((bytes[at + 3] ?? 0) << 24)) >>>
    0
  );
}

function sameHash(block: Uint8Array, at: number, hash: Uint8Array): boolean {
  for (let i = 0; i < HASH_BYTES; i++) if (block[at + i] !== hash[i]) return false;
  return true;
}
