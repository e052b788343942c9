/**
 * The folder of a feature store: which files of its key there are, where the features lie in them, and how large all of
 * it is. Other processes append to their files and add new ones meanwhile; each reading learns what came.
 */
import { closeSync, fstatSync, openSync, readSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { SHA_BYTES } from './featureBatch.js';
import { readFeatureFile, type FeatureKind, type StoredBatch } from './featureFile.js';
import { CHECK_BYTES, FeatureIndex } from './featureIndex.js';
import { reasonOf } from '../bytes/fileBytes.js';

/** Features on disk: their bytes, the check they were stored with, and the file they were read from. */
export interface StoredFeatures {
  readonly features: Float32Array;
  readonly check: Uint8Array;
  readonly path: string;
}

interface KnownFile {
  readonly path: string;
  /** Byte up to which its batches are known. */
  end: number;
  /** Damaged from there on: what comes after is not read. */
  isDamaged: boolean;
}

/** After the key; exact, as one key may begin like another. */
const RANDOM_PART = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.arrow$/;
const MOST_OPEN = 128; // files, of the 1024 that many systems allow a process

/** The files of one key in a folder, and the places of the features in them. */
export class FeatureFiles {
  /** Where each image's features lie. */
  readonly index = new FeatureIndex();
  /** Bytes of all feature files of the folder at the last reading, those of other keys included. */
  folderBytes = 0;
  private readonly files: KnownFile[] = [];
  private readonly numbers = new Map<string, number>();
  /** Open files by number, the last used last. */
  private readonly open = new Map<number, number>();
  private isClosed = false;

  /** @param warn told of each file that is damaged */
  constructor(
    private readonly folder: string,
    private readonly kind: FeatureKind,
    private readonly warn: (text: string) => void,
  ) {}

  /** Bytes of the files of this key, as far as they are known. */
  get ownBytes(): number {
    return this.files.reduce((sum, { end }) => sum + end, 0);
  }

  /** What the files of the store's key begin with; other programs' files are left alone. */
  get prefix(): string {
    return `features-${this.kind.key}-`;
  }

  /**
   * Learns what files there are, and what was appended to them since the last reading.
   *
   * @throws the system's error if the folder cannot be read
   */
  async read(): Promise<void> {
    const files = readdirSync(this.folder)
      .filter((name) => /^features-.*\.arrow$/.test(name))
      .flatMap((name) => {
        const stats = statSync(join(this.folder, name), { throwIfNoEntry: false });
        return stats ? [{ name, size: stats.size, writtenMs: stats.mtimeMs }] : []; // deleted just now
      });
    // The last written last: of two values for an image that one stays, as the first may have been found damaged
    for (const { name, size } of files.sort((a, b) => a.writtenMs - b.writtenMs)) {
      if (this.isClosed) return;
      const isOurs = name.startsWith(this.prefix) && RANDOM_PART.test(name.slice(this.prefix.length));
      if (isOurs && this.readNew(join(this.folder, name), size)) await setImmediate(); // signals have their turn
    }
    this.folderBytes = files.reduce((sum, { size }) => sum + size, 0);
  }

  /**
   * Reads an image's features as they lie on disk, unchecked.
   *
   * @returns undefined if they have no place; `features` are the caller's own
   * @throws the system's error if the file cannot be read
   */
  get(sha: Uint8Array, elements: number): StoredFeatures | undefined {
    const place = this.index.get(sha);
    const check = this.index.check(sha);
    const path = place && this.files[place.file]?.path;
    if (!place || !check || path === undefined) return undefined;
    const features = new Float32Array(elements);
    const bytes = new Uint8Array(features.buffer);
    readSync(this.opened(place.file), bytes, 0, bytes.length, place.position); // cut short: the check will tell
    return { features, check, path };
  }

  /** The file that holds an image's features. */
  pathOf(sha: Uint8Array): string | undefined {
    const place = this.index.get(sha);
    return place && this.files[place.file]?.path;
  }

  /** Closes the files and forgets what is in them. */
  close(): void {
    this.isClosed = true;
    for (const file of this.open.values()) closeSync(file);
    this.open.clear();
    this.index.clear();
  }

  /** Adds what is new in one file. @returns true if there was something to read */
  private readNew(path: string, size: number): boolean {
    const number = this.numbers.get(path) ?? this.files.push({ path, end: 0, isDamaged: false }) - 1;
    this.numbers.set(path, number);
    const file = this.files[number];
    if (!file || file.isDamaged || size <= file.end) return false;
    try {
      const opened = this.opened(number);
      const end = Math.min(fstatSync(opened).size, size);
      readFeatureFile(opened, { from: file.end, to: end }, this.kind, (batch) => {
        file.end = batch.end;
        this.addPlaces(number, batch);
      });
    } catch (cause) {
      file.isDamaged = true;
      this.warn(
        `feature cache: a file is damaged from byte ${file.end} on and the features there are computed again: ${path}: ${reasonOf(cause)}`,
      );
    }
    return true;
  }

  private addPlaces(file: number, { rows, images, checks, position }: StoredBatch): void {
    const [Q, C] = this.kind.shape;
    const bytesPerRow = Q * C * Float32Array.BYTES_PER_ELEMENT;
    for (let row = 0; row < rows; row++) {
      const sha = images.subarray(row * SHA_BYTES, (row + 1) * SHA_BYTES);
      const check = checks.subarray(row * CHECK_BYTES, (row + 1) * CHECK_BYTES);
      this.index.set(sha, check, { file, position: position + row * bytesPerRow });
    }
  }

  /** The file, opened where it is not; the one that was not used for longest is closed for it. */
  private opened(number: number): number {
    const file = this.open.get(number) ?? openSync(this.files[number]?.path ?? '', 'r');
    this.open.delete(number);
    this.open.set(number, file);
    for (const [oldest, other] of this.open) {
      if (this.open.size <= MOST_OPEN) break;
      this.open.delete(oldest);
      closeSync(other);
    }
    return file;
  }
}
