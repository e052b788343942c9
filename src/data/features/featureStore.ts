/**
 * The frozen encoder's features on disk, found by the hash of the image's bytes: each image is encoded once.
 *
 * `features-<key>-<random>.arrow`: each process appends to a file of its own and reads those of all, so several runs share
 * a folder at the same time. Only positions are held in memory. Nothing that happens to the files ends a run: what is
 * damaged, gone or could not be written is told in a line and encoded again.
 *
 * The folder is bounded as a whole, files of other keys (encoders) counted. When it is full nothing more is written, and
 * nothing is deleted: what lies there may have cost days, and another process or machine may be reading it, so which of
 * it goes is for the user to say.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, open, statfs, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { fileError } from '../../files.js';
import { checkOf, FeatureBatch, SHA_BYTES } from './featureBatch.js';
import { FeatureFileWriter, type FeatureKind } from './featureFile.js';
import { FeatureFiles } from './featureFiles.js';
import { reasonOf } from '../bytes/fileBytes.js';

/** How a store is opened. */
export interface FeatureStoreOptions extends FeatureKind {
  /** Bytes that the folder's feature files may have in all, of this key and of others; no bound if left out. */
  readonly maxBytes?: number;
  /** Told what is wrong with the folder or a file, as it is found. */
  readonly note?: (text: string) => void;
}

/** The file that this process appends to. */
interface OwnFile {
  readonly handle: FileHandle;
  readonly writer: FeatureFileWriter;
}

/** Files end here and another begins: positions in them are 32 bits, and what is deleted by hand goes in such pieces. */
const MOST_FILE_BYTES = 2 ** 30;
/** Full batches that may wait for a slow disk, 16 MB each; beyond that features are not kept, so that nothing waits. */
const MOST_WAITING = 4;
/** Bytes left free on the disk: for the checkpoints, which are worth more. */
const RESERVE_BYTES = 5e8;
const MOST_WARNINGS = 20; // a dying disk has millions

/** Features on disk by image hash. */
export class FeatureStore {
  /** What went wrong, in words: what is damaged, and why nothing more is kept. */
  readonly warnings: string[] = [];
  private readonly files: FeatureFiles;
  /** Batches on their way to the disk, and the one that is being filled. */
  private readonly waiting: FeatureBatch[] = [];
  private filling: FeatureBatch;
  private own: OwnFile | undefined;
  private writing: Promise<void> | undefined;
  private keeps = true;

  private constructor(
    private readonly folder: string,
    private readonly options: FeatureStoreOptions,
  ) {
    this.filling = new FeatureBatch(this.elements);
    this.files = new FeatureFiles(folder, options, (text) => this.warn(text));
  }

  /** Opens the store of one key. The folder is made if it is missing; where that cannot be, the store is empty and says so. */
  static async open(folder: string, options: FeatureStoreOptions): Promise<FeatureStore> {
    if (!/^[\w.-]+$/.test(options.key))
      throw new Error(`FeatureStore: key must be fit for a file name, got ${JSON.stringify(options.key)}`);
    const store = new FeatureStore(folder, options);
    await mkdir(folder, { recursive: true })
      .then(() => store.files.read())
      .catch((cause: unknown) => store.stopKeeping(cause));
    return store;
  }

  /** Images whose features are here, those not written yet included. */
  get size(): number {
    const { index } = this.files; // of a batch that is being written, images may stand here already
    const inMemory = this.batches.flatMap((batch) => batch.hashes());
    return index.size + inMemory.filter((sha) => index.get(sha) === undefined).length;
  }

  /** Bytes of memory that finding the features takes. */
  get indexBytes(): number {
    return this.files.index.sizeBytes;
  }

  /** True if `get` would look for features. */
  has(imageSha256: Uint8Array): boolean {
    return (
      this.batches.some((batch) => batch.has(imageSha256)) || this.files.index.get(imageSha256) !== undefined
    );
  }

  /** Where an image's features lie, for messages. */
  whereIs(imageSha256: Uint8Array): string {
    return this.files.pathOf(imageSha256) ?? `${this.folder}, not written yet`;
  }

  /**
   * The features of an image by the SHA-256 of its bytes. Reads the disk while the caller waits: 50 to 400 kB.
   *
   * @returns float32[Q, C], the caller's own; undefined if they are not here, or were found damaged just now
   */
  get(imageSha256: Uint8Array): Float32Array | undefined {
    for (const batch of this.batches) {
      const features = batch.get(imageSha256);
      if (features) return features;
    }
    try {
      const found = this.files.get(imageSha256, this.elements);
      if (!found) return undefined;
      const { features, check, path } = found;
      if (Buffer.compare(checkOf(imageSha256, features), check) === 0) return features;
      this.warnOf(imageSha256, `is damaged in ${path}`);
    } catch (cause) {
      this.warnOf(imageSha256, `cannot be read: ${this.whereIs(imageSha256)}: ${reasonOf(cause)}`);
    }
    this.files.index.remove(imageSha256);
    return undefined;
  }

  /**
   * Keeps the features of an image, copied, unless they are here, the folder is full, or the disk cannot keep up. They are
   * on disk soon, at the latest after `flush`.
   */
  put(imageSha256: Uint8Array, features: Float32Array): void {
    const shape = this.options.shape.join(', ');
    if (features.length !== this.elements)
      throw new Error(`FeatureStore.put: features must be [${shape}], got ${features.length} values`);
    if (imageSha256.length !== SHA_BYTES)
      throw new Error(`FeatureStore.put: the hash must have ${SHA_BYTES} bytes, got ${imageSha256.length}`);
    if (!this.keeps || this.has(imageSha256)) return;
    this.handOverFull();
    if (this.filling.isFull) return;
    this.filling.add(imageSha256, features);
    this.handOverFull();
  }

  /** Resolves when all that was put is on disk, or cannot be; never rejects. */
  async flush(): Promise<void> {
    if (this.filling.rows > 0) this.handOver();
    await this.writing;
  }

  /** Closes the files; features that were not flushed are lost. */
  close(): void {
    this.keeps = false;
    this.files.close();
    this.filling = new FeatureBatch(this.elements);
    // A network disk may tell only here what it could not write: checks tell the next run
    const closeOwn = (): Promise<void> =>
      this.own?.handle.close().catch(() => undefined) ?? Promise.resolve();
    void (this.writing ?? Promise.resolve()).then(closeOwn);
  }

  private get elements(): number {
    const [Q, C] = this.options.shape;
    return Q * C;
  }

  private get batches(): readonly FeatureBatch[] {
    return [this.filling, ...this.waiting];
  }

  private handOverFull(): void {
    if (this.filling.isFull && this.waiting.length < MOST_WAITING) this.handOver();
  }

  private handOver(): void {
    this.waiting.push(this.filling);
    this.filling = new FeatureBatch(this.elements);
    this.writing ??= this.writeWaiting().finally(() => (this.writing = undefined));
  }

  /** Writes the batches that wait, one after the other, and learns what other processes have written. */
  private async writeWaiting(): Promise<void> {
    for (let batch = this.waiting[0]; batch; batch = this.waiting[0]) {
      try {
        if (this.keeps && (await this.hasRoomFor(batch))) await this.write(batch);
        await this.files.read(); // before the batch leaves the memory, so that its images are found throughout
      } catch (cause) {
        this.stopKeeping(cause);
      }
      this.waiting.shift();
    }
  }

  private async write(batch: FeatureBatch): Promise<void> {
    const { handle, writer } = await this.ownFile();
    const { size } = await handle.stat();
    try {
      await writer.append(batch);
    } catch (cause) {
      await handle.truncate(size).catch(() => undefined); // part of a batch is of use to nobody
      throw cause;
    }
    if (size + 2 * batch.sizeBytes < MOST_FILE_BYTES) return;
    this.own = undefined;
    await handle.close();
  }

  /** The file that is appended to: another one where somebody has deleted it. */
  private async ownFile(): Promise<OwnFile> {
    if (this.own && (await this.own.handle.stat()).nlink === 0) {
      await this.own.handle.close();
      this.own = undefined;
    }
    return (this.own ??= await this.newFile());
  }

  private async newFile(): Promise<OwnFile> {
    const path = join(this.folder, `${this.files.prefix}${randomUUID()}.arrow`);
    const handle = await open(path, 'ax'); // the name is its own: no other process writes there
    return { handle, writer: new FeatureFileWriter(handle, this.options) };
  }

  private async hasRoomFor({ sizeBytes }: FeatureBatch): Promise<boolean> {
    const { maxBytes = Infinity } = this.options;
    const { folderBytes, ownBytes, prefix } = this.files;
    const free = await statfs(this.folder).then(({ bavail, bsize }) => bavail * bsize);
    const isBounded = folderBytes + sizeBytes > maxBytes;
    if (!isBounded && free - sizeBytes >= RESERVE_BYTES) return true;
    const what = isBounded
      ? `has its ${gigabytes(maxBytes)} GB (raise data.featureCacheGB`
      : `stands on a disk with ${gigabytes(free)} GB left (free some space`;
    const others = `or delete files there that do not begin with ${prefix}: ${gigabytes(folderBytes - ownBytes)} GB of other encoders or settings`;
    this.stopKeeping(`${this.folder} ${what}, ${others})`);
    return false;
  }

  private stopKeeping(cause: unknown): void {
    if (!this.keeps) return;
    this.keeps = false;
    const reason = typeof cause === 'string' ? cause : reasonOf(fileError(this.folder, cause));
    this.warn(
      `feature cache: nothing more is kept, what is not there is computed anew each time, as ${reason}`,
    );
  }

  private warnOf(sha: Uint8Array, problem: string): void {
    const image = Buffer.from(sha).toString('hex');
    this.warn(`feature cache: the value of image ${image} is computed again, as it ${problem}`);
  }

  private warn(text: string): void {
    if (this.warnings.length >= MOST_WARNINGS) return;
    this.warnings.push(text);
    this.options.note?.(text);
  }
}

function gigabytes(bytes: number): string {
  return String(Number((bytes / 1e9).toPrecision(3)));
}
