/** Which files make up a set of shards: what a path or an http(s) address stands for. */

import { createHash } from 'node:crypto';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import pLimit from 'p-limit';
import { indexArrow, type ArrowIndex } from '../arrow/arrowFile.js';
import { localFile, type ByteFile } from '../bytes/byteFile.js';
import { findColumns } from '../arrow/columns.js';
import { fault, reasonOf } from '../bytes/fileBytes.js';
import { isCachedMap, savedFiles, splitNames, splitOf } from './datasetsFolder.js';
import {
  MANIFEST_FILE,
  manifestFingerprint,
  parseManifest,
  readManifest,
  type ManifestShard,
  type ShardManifest,
} from './manifest.js';
import { addressOf, fetchText, isAddress, remoteFile } from '../bytes/remoteFile.js';
import { shownAddress, type RemoteOptions } from '../bytes/remoteRequest.js';

/** One shard of a set. */
export interface FoundShard {
  readonly file: ByteFile;
  readonly rows: number;
  /** What the manifest says of it, if there is one. */
  readonly listed: ManifestShard | undefined;
  /** There where it had to be read to know the rows. */
  readonly index: ArrowIndex | undefined;
}

/** The shards of a set in row order, and what is said of them all. */
export interface FoundSet {
  readonly shards: readonly FoundShard[];
  readonly fingerprint: string;
  readonly about: string | undefined;
}

const FILES_AT_ONCE = 8;

/**
 * Finds the shards of a folder with `manifest.json`, a folder of `.arrow` files, one file, or an address of either kind.
 *
 * @throws UserError if nothing is there, or a shard is missing or of another size than the manifest says
 */
export async function findShards(place: string, options: RemoteOptions): Promise<FoundSet> {
  if (isAddress(place)) return findRemote(addressOf(place), options);
  const found = await stat(place).catch((cause: unknown) => {
    throw fault(
      place,
      `no such shard or folder, ${reasonOf(cause)}`,
      'check the path, or pack the data first',
      cause,
    );
  });
  if (!found.isDirectory()) return foundSet([localFile(place)]);
  const manifest = await readManifest(place);
  if (manifest === null) return foundSet((await arrowFilesOf(place)).map(localFile));
  const limit = pLimit(FILES_AT_ONCE);
  const files = await Promise.all(
    manifest.shards.map((listed) => limit(() => listedFile(join(place, listed.file), listed))),
  );
  return listedSet(manifest, files);
}

/** A set of files without a manifest: each is looked into for its rows. @throws UserError if one is not a shard */
export async function foundSet(files: readonly ByteFile[]): Promise<FoundSet> {
  const limit = pLimit(FILES_AT_ONCE);
  const indexes = await Promise.all(files.map((file) => limit(() => indexArrow(file))));
  const hash = createHash('sha256');
  const shards = files.map((file, i): FoundShard => {
    const index = indexes[i];
    if (index === undefined) throw new Error('shardFiles: a file has no index');
    findColumns(index.schema, file.name);
    hash.update(`${file.baseName} ${index.sizeBytes} ${index.rows}\n`);
    return { file, rows: index.rows, listed: undefined, index };
  });
  return { shards, fingerprint: hash.digest('hex'), about: undefined };
}

function listedSet(manifest: ShardManifest, files: readonly ByteFile[]): FoundSet {
  const shards = manifest.shards.map((listed, i): FoundShard => {
    const file = files[i];
    if (file === undefined) throw new Error('shardFiles: a listed shard has no file');
    return { file, rows: listed.rows, listed, index: undefined };
  });
  return { shards, fingerprint: manifestFingerprint(manifest), about: manifest.about };
}

async function listedFile(path: string, { bytes }: ManifestShard): Promise<ByteFile> {
  const found = await stat(path).catch((cause: unknown) => {
    throw fault(
      path,
      `a shard that the manifest lists is missing, ${reasonOf(cause)}`,
      'copy it there or pack again',
      cause,
    );
  });
  if (found.size === bytes) return localFile(path);
  throw fault(
    path,
    `the manifest says ${bytes} bytes, got ${found.size}`,
    'copy the shard again or pack again',
  );
}

/** The files of a folder without a manifest, by the rules of `pack`. @throws UserError if there are none, or of several splits */
async function arrowFilesOf(folder: string): Promise<string[]> {
  const saved = await savedFiles(folder);
  if (saved) return saved;
  const all = (await readdir(folder)).filter((name) => name.endsWith('.arrow')).sort();
  const names = all.filter((name) => !isCachedMap(name));
  if (names.length === 0) {
    const but = all.length > 0 ? ' but cached ones of `datasets`' : '';
    throw fault(folder, `no .arrow file in the folder${but}`, 'pack the data into it first');
  }
  const splits = new Set(names.map(splitOf));
  if (splits.size === 1) return names.map((name) => join(folder, name));
  throw fault(
    folder,
    `a set must be of one split, got ${splitNames(splits)}`,
    'name one file, or pack one split with minigpt4 pack --split',
  );
}

/** An address that ends in `.arrow` is one shard, any other a folder, whose query (a storage token) goes to each file. */
async function findRemote(address: URL, options: RemoteOptions): Promise<FoundSet> {
  if (address.pathname.endsWith('.arrow')) return foundSet([remoteFile(address, options)]);
  const place = address.pathname.endsWith(`/${MANIFEST_FILE}`) ? address : below(address, MANIFEST_FILE);
  const text = await fetchText(place, options);
  if (text === null) {
    throw fault(
      shownAddress(place),
      'no manifest at that address',
      'an address must be that of an .arrow file, or of a folder with manifest.json as pack writes it',
    );
  }
  const manifest = parseManifest(shownAddress(place), text);
  const folder = new URL('./', place);
  folder.search = place.search;
  return listedSet(
    manifest,
    manifest.shards.map(({ file, bytes }) => remoteFile(below(folder, file), options, bytes)),
  );
}

/** The address of a file in a folder, with the folder's query. */
function below(folder: URL, name: string): URL {
  const address = new URL(folder);
  address.pathname = `${folder.pathname.replace(/\/$/, '')}/${encodeURIComponent(name)}`;
  return address;
}
