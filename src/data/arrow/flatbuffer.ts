/**
 * Bounds check of Arrow's FlatBuffers metadata. The decoder believes every length it finds: one flipped bit in a footer
 * can keep it busy for hours. So each offset and vector is checked to lie inside before it sees them.
 *
 * Source: the layouts are apache/arrow's format/File.fbs, Schema.fbs and Message.fbs; field numbers are those there.
 */

/** What hangs on a table's fields, by field number; scalar fields need no check and are left out. */
type Table = ReadonlyMap<number, Part>;
type Part =
  | { readonly kind: 'bytes'; readonly bytesEach: number } // a string, or a vector of scalars or structs
  | { readonly kind: 'table'; readonly table: Table }
  | { readonly kind: 'tables'; readonly table: Table };

const vectorOf = (bytesEach: number): Part => ({ kind: 'bytes', bytesEach });
const text = vectorOf(1);
const tableOf = (table: Table): Part => ({ kind: 'table', table });
const tablesOf = (table: Table): Part => ({ kind: 'tables', table });

const keyValue: Table = new Map([
  [0, text],
  [1, text],
]);
const field = new Map<number, Part>([
  [0, text], // name
  [3, tableOf(new Map())], // type
  [4, tableOf(new Map([[1, tableOf(new Map())]]))], // dictionary encoding, its index type
  [6, tablesOf(keyValue)],
]);
field.set(5, tablesOf(field)); // children
const schema: Table = new Map([
  [1, tablesOf(field)],
  [2, tablesOf(keyValue)],
]);
const footer: Table = new Map([
  [1, tableOf(schema)],
  [2, vectorOf(24)], // dictionary blocks
  [3, vectorOf(24)], // record batch blocks
  [4, tablesOf(keyValue)],
]);
const recordBatch: Table = new Map([
  [1, vectorOf(16)], // nodes
  [2, vectorOf(16)], // buffers
  [3, tableOf(new Map())],
  [4, vectorOf(8)], // counts of view buffers
]);
const headers: readonly (Table | undefined)[] = [
  undefined,
  schema,
  new Map([[1, tableOf(recordBatch)]]), // dictionary batch
  recordBatch,
];

/** Throws a RangeError if a footer's offsets or lengths leave its bytes. */
export function checkFooter(bytes: Uint8Array): void {
  const walk = new Walk(bytes);
  walk.table(walk.reference(0), footer);
}

/** Throws a RangeError if a message's offsets or lengths leave its bytes, or if it is none that Arrow files hold. */
export function checkMessage(bytes: Uint8Array): void {
  const walk = new Walk(bytes);
  const root = walk.reference(0);
  const typeAt = walk.fieldAt(root, 1);
  const header = typeAt === undefined ? undefined : headers[bytes[typeAt] ?? 0];
  if (header === undefined) throw new RangeError('the message is of no known type');
  walk.table(root, new Map([[2, tableOf(header)], [4, tablesOf(keyValue)]])); // prettier-ignore
}

/** One pass over a buffer; the number of steps is bounded, as tables may be shared and so multiply. */
class Walk {
  private readonly view: DataView;
  private steps: number;

  constructor(bytes: Uint8Array) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.steps = bytes.byteLength;
  }

  /** Where the offset stored at `at` points. DataView throws a RangeError outside of the buffer. */
  reference(at: number): number {
    return at + this.view.getUint32(at, true);
  }

  /** Where field `number` of a table is stored; undefined if the table leaves it out. */
  fieldAt(table: number, number: number): number | undefined {
    const vtable = table - this.view.getInt32(table, true);
    const slot = 4 + 2 * number;
    if (slot >= this.view.getInt16(vtable, true)) return undefined; // signed, as the decoder reads them
    const offset = this.view.getInt16(vtable + slot, true);
    return offset === 0 ? undefined : table + offset;
  }

  table(table: number, parts: Table): void {
    if (this.steps-- <= 0) throw new RangeError('the metadata refers to itself');
    this.view.getInt32(table, true);
    for (const [number, part] of parts) {
      const at = this.fieldAt(table, number);
      if (at !== undefined) this.part(this.reference(at), part);
    }
  }

  private part(at: number, part: Part): void {
    if (part.kind === 'table') {
      this.table(at, part.table);
      return;
    }
    const count = this.view.getUint32(at, true);
    const bytesEach = part.kind === 'tables' ? 4 : part.bytesEach;
    if (at + 4 + count * bytesEach > this.view.byteLength)
      throw new RangeError(`${count} entries do not fit`);
    if (part.kind === 'tables')
      for (let i = 0; i < count; i++) this.table(this.reference(at + 4 + 4 * i), part.table);
  }
}
