/**
 * TensorBoard's events as bytes: the few protobuf messages they are made of, in TFRecord frames.
 * Source: tensorflow, core/util/event.proto and core/framework/summary.proto (field numbers), lib/io/record_writer.cc (frame).
 */

/** What an event says. */
export type EventContent =
  /** First of a file. */
  | { readonly kind: 'version' }
  /** The run goes on at this step: readers drop what earlier files hold from it on. */
  | { readonly kind: 'start' }
  | { readonly kind: 'scalars'; readonly values: Readonly<Record<string, number>> }
  | { readonly kind: 'histogram'; readonly tag: string; readonly values: Float32Array }
  | { readonly kind: 'image'; readonly tag: string; readonly image: PngImage }
  | { readonly kind: 'text'; readonly tag: string; readonly text: string };

/** An encoded picture. */
export interface PngImage {
  /** A PNG file's bytes. */
  readonly png: Uint8Array;
  readonly width: number;
  readonly height: number;
}

const HISTOGRAM_BUCKETS = 64;
const DT_STRING = 7;
const RGB = 3; // channels of `colorspace`
const CRC32C_POLYNOMIAL = 0x82f63b78; // Castagnoli, reflected

/** An event in its TFRecord frame: length, masked CRC of the length, event, masked CRC of the event. */
export function eventRecord(step: number, wallTimeSeconds: number, content: EventContent): Uint8Array {
  const event = concat([doubleField(1, wallTimeSeconds), varintField(2, step), contentField(content)]);
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(event.length), true);
  return concat([length, maskedCrc(length), event, maskedCrc(event)]);
}

/** CRC-32C (Castagnoli) of bytes, as an unsigned 32-bit number. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ (CRC_TABLE[(crc ^ byte) & 0xff] ?? 0);
  return (crc ^ 0xffffffff) >>> 0;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ CRC32C_POLYNOMIAL : crc >>> 1;
  return crc >>> 0;
});

function contentField(content: EventContent): Uint8Array {
  switch (content.kind) {
    case 'version':
      return textField(3, 'brain.Event:2');
    case 'start':
      return messageField(7, [varintField(1, 1)]); // SessionLog.START
    case 'scalars': {
      const values = Object.entries(content.values);
      return messageField(5, values.map(([tag, value]) => valueField(tag, floatField(2, value)))); // prettier-ignore
    }
    case 'histogram':
      return messageField(5, [valueField(content.tag, messageField(5, histogramFields(content.values)))]);
    case 'image': {
      const { png, width, height } = content.image;
      const fields = [varintField(1, height), varintField(2, width), varintField(3, RGB), bytesField(4, png)];
      return messageField(5, [valueField(content.tag, messageField(4, fields))]);
    }
    case 'text': {
      const tensor = [varintField(1, DT_STRING), messageField(2, [messageField(2, [varintField(1, 1)])])];
      const plugin = messageField(9, [messageField(1, [textField(1, 'text')])]);
      const text = messageField(8, [...tensor, textField(8, content.text)]);
      return messageField(5, [valueField(content.tag, text, plugin)]);
    }
  }
}

const valueField = (tag: string, ...fields: Uint8Array[]) => messageField(1, [textField(1, tag), ...fields]);

/** HistogramProto of the finite values, in equal buckets between their smallest and largest. */
function histogramFields(all: Float32Array): Uint8Array[] {
  const values = all.filter(Number.isFinite);
  let [min, max, sum, squares] = [Infinity, -Infinity, 0, 0];
  for (const value of values) {
    min = Math.min(min, value);
    max = Math.max(max, value);
    sum += value;
    squares += value * value;
  }
  if (values.length === 0) [min, max] = [0, 0];
  const width = (max - min) / HISTOGRAM_BUCKETS || 1; // all equal: any width does
  const counts = new Float64Array(HISTOGRAM_BUCKETS);
  for (const value of values) {
    const bucket = Math.min(HISTOGRAM_BUCKETS - 1, Math.floor((value - min) / width));
    counts[bucket] = (counts[bucket] ?? 0) + 1;
  }
  const limits = Float64Array.from(counts, (_, bucket) => min + (bucket + 1) * width);
  const numbers = [min, max, values.length, sum, squares].map((value, index) =>
    doubleField(index + 1, value),
  );
  return [...numbers, bytesField(6, doubles(limits)), bytesField(7, doubles(counts))];
}

/** Masked as in TensorFlow's crc32c.h, so that a CRC over data that holds CRCs stays sound. */
function maskedCrc(bytes: Uint8Array): Uint8Array {
  const crc = crc32c(bytes);
  return uint32((((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0);
}

// Protobuf wire types: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.

const key = (field: number, wireType: number) => varint((field << 3) | wireType);

// Zeros are left out, as protobuf's own writers do.
const varintField = (field: number, value: number) =>
  value === 0 ? new Uint8Array() : concat([key(field, 0), varint(value)]);

const bytesField = (field: number, bytes: Uint8Array) => concat([key(field, 2), varint(bytes.length), bytes]);

const textField = (field: number, text: string) => bytesField(field, Buffer.from(text));

const messageField = (field: number, fields: readonly Uint8Array[]) => bytesField(field, concat(fields));

const doubleField = (field: number, value: number) =>
  concat([key(field, 1), doubles(Float64Array.of(value))]);

function floatField(field: number, value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setFloat32(0, value, true);
  return concat([key(field, 5), bytes]);
}

function doubles(values: Float64Array): Uint8Array {
  const view = new DataView(new ArrayBuffer(values.length * 8));
  values.forEach((value, index) => view.setFloat64(index * 8, value, true));
  return new Uint8Array(view.buffer);
}

function uint32(value: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, value, true);
  return new Uint8Array(view.buffer);
}

/** Seven bits a byte, the lowest first; `value` is a whole number ≥ 0. */
function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  for (; rest > 0x7f; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 0x80);
  return Uint8Array.of(...bytes, rest);
}

const concat = (parts: readonly Uint8Array[]): Uint8Array => Buffer.concat(parts);
