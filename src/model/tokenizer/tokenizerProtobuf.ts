/** Reading protobuf messages, as far as SentencePiece models need it; every length is checked against the bytes there are. */
import { UserError } from '../../errors.js';

/** One field of a message, in file order. */
export interface ProtobufField {
  readonly number: number;
  /** A varint (signed, 64 bits) or a float as number; a string, bytes or an embedded message as bytes. */
  readonly value: number | Uint8Array;
}

const WIRE = { varint: 0, fixed64: 1, bytes: 2, fixed32: 5 } as const;

/**
 * The fields of one message.
 *
 * @param where the file's name, for messages
 * @throws UserError if a field reaches past the end or has an unknown wire type
 */
export function* protobufFields(bytes: Uint8Array, where: string): Generator<ProtobufField, void, undefined> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let position = 0;
  const take = (length: number): number => {
    if (length < 0 || length > bytes.length - position) {
      throw new UserError(
        `${where}: a field must end within ${bytes.length} bytes, got ${length} from byte ${position} (damaged, or not the file it should be)`,
      );
    }
    position += length;
    return position - length;
  };
  const varint = (): number => {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = view.getUint8(take(1));
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return Number(BigInt.asIntN(64, value));
    }
    throw new UserError(
      `${where}: a number must have at most 10 bytes, got more before byte ${position} (damaged?)`,
    );
  };
  while (position < bytes.length) {
    const tag = varint();
    yield { number: Math.floor(tag / 8), value: readValue(tag & 7) };
  }

  function readValue(wire: number): number | Uint8Array {
    if (wire === WIRE.varint) return varint();
    if (wire === WIRE.fixed64) return view.getFloat64(take(8), true);
    if (wire === WIRE.fixed32) return view.getFloat32(take(4), true);
    if (wire !== WIRE.bytes) {
      throw new UserError(
        `${where}: wire type must be 0, 1, 2 or 5, got ${wire} before byte ${position} (damaged, or not the file it should be)`,
      );
    }
    const length = varint();
    const start = take(length);
    return bytes.subarray(start, start + length);
  }
}
