/** A file of bytes in memory, for the readers that take any `ByteFile`. */
import type { ByteFile } from '../../src/data/bytes/byteFile.js';
import { fault, type ByteRange } from '../../src/data/bytes/fileBytes.js';

/** Serves `bytes`; what is read goes into `log`. */
export function memoryFile(bytes: Uint8Array, log: ByteRange[] = []): ByteFile {
  return {
    name: 'memory.arrow',
    baseName: 'memory.arrow',
    size: () => Promise.resolve(bytes.length),
    read: (ranges) => {
      log.push(...ranges);
      const beyond = ranges.find(({ offset, length }) => offset + length > bytes.length);
      if (beyond) return Promise.reject(fault('memory.arrow', 'the file is cut short', 'read less'));
      return Promise.resolve(ranges.map(({ offset, length }) => bytes.slice(offset, offset + length)));
    },
  };
}
