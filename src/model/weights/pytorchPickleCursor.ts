/** A reading position in a pickle: its numbers, texts and byte strings, each length held against the file's end. */
import { NeedsMoreBytes } from './ggufCursor.js';
import { malformed } from './pytorchValues.js';

const MAX_LINE = 1000; // bytes of a module's or class's name
const MAX_LONG = 1024; // bytes of an integer; the largest that torch writes is its magic number, of ten

/** Reads the arguments of pickle opcodes one after the other. */
export class PickleCursor {
  private readonly view: DataView;
  private readonly decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

  /** @param bytes where the pickle is, or begins; @param end where the file ends, which may be beyond `bytes` */
  constructor(
    readonly path: string,
    private readonly bytes: Uint8Array,
    private readonly end: number,
    public position = 0,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** The next byte. */
  uint8(): number {
    return this.view.getUint8(this.advance(1));
  }

  /** The next four bytes, as a number from 0. */
  uint32(): number {
    return this.view.getUint32(this.advance(4), true);
  }

  /** A text that a line feed ends, as GLOBAL has it. */
  line(): string {
    const start = this.position;
    const window = this.bytes.subarray(start, start + MAX_LINE);
    const length = window.indexOf(0x0a);
    if (length < 0 && window.length < MAX_LINE) this.advance(window.length + 1); // throws: the bytes end
    if (length < 0) throw malformed(this.path, `names must have at most ${MAX_LINE} bytes`, 'more');
    this.position = start + length + 1;
    return this.decode(window.subarray(0, length));
  }

  /** The length of a frame, which must be there; what is in it is read as if there were no frame. */
  frame(): void {
    const length = this.uint64();
    this.require(length);
  }

  /** The value of an opcode that pushes one; undefined if it is another opcode. Names as in pickle.py. */
  constant(opcode: number): unknown {
    switch (String.fromCharCode(opcode)) {
      case 'N': // NONE
        return null;
      case '\x88': // NEWTRUE
        return true;
      case '\x89': // NEWFALSE
        return false;
      case 'K': // BININT1
        return this.uint8();
      case 'M': // BININT2
        return this.view.getUint16(this.advance(2), true);
      case 'J': // BININT
        return this.view.getInt32(this.advance(4), true);
      case '\x8a': // LONG1
        return this.long(this.uint8());
      case '\x8b': // LONG4
        return this.long(this.uint32());
      case 'G': // BINFLOAT
        return this.view.getFloat64(this.advance(8), false);
      default:
        return this.run(opcode);
    }
  }

  /** Texts and byte strings; Python 2's strings are taken for texts. */
  private run(opcode: number): string | Uint8Array | undefined {
    switch (String.fromCharCode(opcode)) {
      case 'X': // BINUNICODE
      case 'T': // BINSTRING
        return this.decode(this.take(this.uint32()));
      case '\x8c': // SHORT_BINUNICODE
      case 'U': // SHORT_BINSTRING
        return this.decode(this.take(this.uint8()));
      case '\x8d': // BINUNICODE8
        return this.decode(this.take(this.uint64()));
      case 'B': // BINBYTES
        return this.take(this.uint32()).slice();
      case 'C': // SHORT_BINBYTES
        return this.take(this.uint8()).slice();
      case '\x8e': // BINBYTES8
        return this.take(this.uint64()).slice();
      default:
        return undefined;
    }
  }

  private uint64(): number {
    return Number(this.view.getBigUint64(this.advance(8), true)); // rounded beyond 2^53, where no file ends
  }

  /** A two's complement integer of `length` bytes, the lowest first. */
  private long(length: number): number | bigint {
    if (length > MAX_LONG) throw malformed(this.path, `integers must have at most ${MAX_LONG} bytes`, length);
    const hex = Buffer.from(this.take(length)).reverse().toString('hex');
    const value = BigInt.asIntN(8 * length, BigInt(`0x0${hex}`));
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  }

  private decode(bytes: Uint8Array): string {
    try {
      return this.decoder.decode(bytes);
    } catch {
      throw malformed(this.path, 'texts must be UTF-8', `${bytes.length} bytes that are not`);
    }
  }

  private take(length: number): Uint8Array {
    const start = this.advance(length);
    return this.bytes.subarray(start, start + length);
  }

  /** Steps over `length` bytes; returns where they begin. */
  private advance(length: number): number {
    this.require(length);
    const start = this.position;
    this.position += length;
    return start;
  }

  private require(length: number): void {
    if (this.position + length > this.end) {
      const rule = `the pickle must go on for ${length} bytes from ${this.position}`;
      throw malformed(this.path, rule, `an end at ${this.end}`);
    }
    if (this.position + length > this.bytes.byteLength) throw new NeedsMoreBytes();
  }
}
