/** A reading position in a GGUF header: every count and length is held against the file's size before it is believed. */
import { UserError } from '../../errors.js';

/** A value of a GGUF file's metadata; 64-bit integers are numbers where a number holds them exactly, else bigints. */
export type GgufValue = number | bigint | boolean | string | readonly GgufValue[];

/** Thrown when the bytes at hand end before the header does, though the file goes on. */
export class NeedsMoreBytes extends Error {
  override readonly name = 'NeedsMoreBytes';
}

const MAX_DEPTH = 8; // arrays of arrays; real files have none
const MAX_ELEMENTS = 4_000_000; // of all arrays; some ten times the largest vocabularies, and a byte takes eight here

/** Least bytes of a value, by type number; an array has its type and count, a text its length. */
const LEAST_BYTES: readonly number[] = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8];
const TEXT = 8;
const ARRAY = 9;

/** Reads numbers, texts and arrays one after the other from the beginning of a file. */
export class GgufCursor {
  private readonly view: DataView;
  private readonly decoder = new TextDecoder();
  position = 0;
  private elements = 0;

  /** @param bytes the beginning of the file, or all of it; @param fileBytes the size of the whole file */
  constructor(
    readonly path: string,
    private readonly bytes: Uint8Array,
    private readonly fileBytes: number,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** The next four bytes. */
  uint32(): number {
    return this.view.getUint32(this.advance(4), true);
  }

  /** A uint64 that must be exact as a number. */
  uint64(what: string): number {
    const value = this.view.getBigUint64(this.advance(8), true);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw this.fault(`${what} must be below 2^53`, value);
    return Number(value);
  }

  /** A uint64 that counts things of at least `leastBytes` each, so that the rest of the file bounds it. */
  count(what: string, leastBytes: number): number {
    const value = this.uint64(what);
    const rest = this.fileBytes - this.position;
    if (value * leastBytes > rest) {
      throw this.fault(`${what} must fit the ${rest} bytes that follow`, `${value} × ${leastBytes} bytes`);
    }
    return value;
  }

  /** A text: its length in bytes, then UTF-8. */
  text(): string {
    const length = this.count('length of a text', 1);
    const start = this.advance(length);
    return this.decoder.decode(this.bytes.subarray(start, start + length));
  }

  /** A value of the given type number; `what` names it in messages. */
  value(type: number, what: string, depth = 0): GgufValue {
    if (type === TEXT) return this.text();
    if (type === ARRAY) return this.array(what, depth);
    const size = LEAST_BYTES[type];
    if (size === undefined)
      throw this.fault(`${what} must have a type from 0 to ${LEAST_BYTES.length - 1}`, type);
    return this.scalar(type, this.advance(size));
  }

  /** The error for a file that breaks a rule. */
  fault(rule: string, got: string | number | bigint): UserError {
    return new UserError(`${this.path}: ${rule}, got ${got} (damaged, or no GGUF file? fetch it again)`);
  }

  private array(what: string, depth: number): GgufValue[] {
    if (depth === MAX_DEPTH) throw this.fault(`${what} must nest at most ${MAX_DEPTH} deep`, 'more');
    const type = this.uint32();
    const count = this.count(`number of elements in the ${what}`, LEAST_BYTES[type] ?? 1);
    this.elements += count;
    if (this.elements > MAX_ELEMENTS) {
      throw this.fault(`arrays must have at most ${MAX_ELEMENTS} elements in all`, this.elements);
    }
    const values: GgufValue[] = [];
    for (let i = 0; i < count; i++) values.push(this.value(type, what, depth + 1));
    return values;
  }

  private scalar(type: number, at: number): GgufValue {
    switch (type) {
      case 0:
        return this.view.getUint8(at);
      case 1:
        return this.view.getInt8(at);
      case 2:
        return this.view.getUint16(at, true);
      case 3:
        return this.view.getInt16(at, true);
      case 4:
        return this.view.getUint32(at, true);
      case 5:
        return this.view.getInt32(at, true);
      case 6:
        return this.view.getFloat32(at, true);
      case 7:
        return this.view.getUint8(at) !== 0;
      case 10:
        return exactNumber(this.view.getBigUint64(at, true));
      case 11:
        return exactNumber(this.view.getBigInt64(at, true));
      default:
        return this.view.getFloat64(at, true);
    }
  }

  /** Steps over `length` bytes; returns where they begin. */
  private advance(length: number): number {
    const start = this.position;
    if (start + length > this.fileBytes) {
      const rule = `header must go on for ${length} bytes from ${start}`;
      throw new UserError(
        `${this.path}: ${rule}, got a file of ${this.fileBytes} (truncated? fetch it again)`,
      );
    }
    if (start + length > this.bytes.byteLength) throw new NeedsMoreBytes();
    this.position = start + length;
    return start;
  }
}

function exactNumber(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
