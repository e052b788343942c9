/** lz4js ships no types; this is the part in use. */
declare module 'lz4js' {
  export function decompress(frame: Uint8Array): Uint8Array;
}
