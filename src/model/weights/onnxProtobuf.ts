/**
 * Walks protobuf messages in a file by range: large payloads are stepped over, never read, until they are asked for.
 * Format: protobuf.dev, "Encoding".
 */
import { UserError } from '../../errors.js';
import type { RangeFile } from './weightsFile.js';

/** One field of a message: a varint's value, or where in the file its payload lies. */
export interface ProtobufField {
  readonly number: number;
  readonly wire: 'varint' | 'fixed64' | 'bytes' | 'fixed32';
  /** Value of a varint, else 0n. */
  readonly varint: bigint;
  /** The payload is the file's bytes [start, end). */
  readonly start: number;
  readonly end: number;
}

const WIRES: Readonly<Record<number, ProtobufField['wire']>> = {
  0: 'varint',
  1: 'fixed64',
  2: 'bytes',
  5: 'fixed32',
};
const WINDOW_BYTES = 2 ** 16; // small reads are served from a window, so that a walk costs few system calls
const LONGEST_VARINT = 10;

/** Reads protobuf fields of a file, which stays its opener's to close. */
export class ProtobufReader {
  private window: Uint8Array = new Uint8Array(0);
  private windowStart = 0;

  constructor(private readonly file: RangeFile) {}

  /**
   * The fields of the message at [start, end), in order.
   *
   * @throws UserError if the bytes are no protobuf message
   */
  async *fields(start: number, end: number): AsyncGenerator<ProtobufField> {
    for (let at = start; at < end;) {
      const tag = await this.varint(at, end);
      const number = Number(tag.value >> 3n);
      const wire = WIRES[Number(tag.value & 7n)];
      if (wire === undefined || number === 0)
        throw this.fault(at, 'a known field tag', `0x${tag.value.toString(16)}`);
      const field = await this.payload(wire, tag.end, end);
      yield { number, wire, ...field };
      at = field.end;
    }
  }

  /** The varints packed into [start, end). */
  async varints(start: number, end: number): Promise<bigint[]> {
    const values: bigint[] = [];
    for (let at = start; at < end;) {
      const { value, end: next } = await this.varint(at, end);
      values.push(value);
      at = next;
    }
    return values;
  }

  /** The bytes [start, end), in memory of their own. */
  async bytes(start: number, end: number): Promise<Uint8Array> {
    return end - start > WINDOW_BYTES
      ? this.file.read(start, end - start)
      : (await this.near(start, end)).slice();
  }

  /** The bytes [start, end) as UTF-8. */
  async text(start: number, end: number): Promise<string> {
    return new TextDecoder().decode(await this.bytes(start, end));
  }

  private async payload(
    wire: ProtobufField['wire'],
    at: number,
    limit: number,
  ): Promise<Pick<ProtobufField, 'varint' | 'start' | 'end'>> {
    if (wire === 'varint') {
      const { value, end } = await this.varint(at, limit);
      return { varint: value, start: at, end };
    }
    const length = wire === 'bytes' ? await this.varint(at, limit) : undefined;
    const start = length?.end ?? at;
    const size = length?.value ?? (wire === 'fixed64' ? 8n : 4n);
    if (size > BigInt(limit - start)) {
      throw this.fault(start, `a field that ends within its message, at ${limit}`, `${size} bytes`);
    }
    return { varint: 0n, start, end: start + Number(size) };
  }

  private async varint(at: number, limit: number): Promise<{ value: bigint; end: number }> {
    const end = Math.min(at + LONGEST_VARINT, limit);
    const bytes = await this.near(at, end);
    const last = bytes.findIndex((byte) => byte < 0x80);
    if (last === -1) throw this.fault(at, 'a whole number', 'one without an end');
    let value = 0n;
    for (let i = last; i >= 0; i--) value = (value << 7n) | BigInt((bytes[i] ?? 0) & 0x7f);
    return { value: BigInt.asUintN(64, value), end: at + last + 1 };
  }

  /** A view of [start, end), at most a window long; valid until the next call. */
  private async near(start: number, end: number): Promise<Uint8Array> {
    if (start < this.windowStart || end > this.windowStart + this.window.length) {
      this.file.require(start, end - start);
      this.window = await this.file.read(start, Math.min(WINDOW_BYTES, this.file.sizeBytes - start));
      this.windowStart = start;
    }
    return this.window.subarray(start - this.windowStart, end - this.windowStart);
  }

  private fault(at: number, rule: string, got: string): UserError {
    return new UserError(
      `${this.file.path}: byte ${at} must begin ${rule}, got ${got} (damaged, or no ONNX file? fetch it again)`,
    );
  }
}
