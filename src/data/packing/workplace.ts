/**
 * Where a packing is done until it is whole: a hidden folder beside the output, whose name follows from the output's. A
 * journal in it says what is packed and how far it is, so that the same command goes on after a kill.
 */

import { mkdir, readFile, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { UserError } from '../../errors.js';
import { fileError, hasCode, syncFolder, writeFileWhole } from '../../files.js';
import { isRecord } from '../importers/source.js';
import { MANIFEST_FILE, type ShardManifest } from '../shards/manifest.js';
import { writeManifest, type WrittenShard } from '../shards/shardWriter.js';

/** What decides the bytes of a packing, by the names that a message calls it: options, the source's files. */
export type Identity = Readonly<Record<string, string>>;

/** How far a packing is: behind the last pair of its last whole shard. */
export interface PackState {
  /** Part of the source, and items of it that are passed. */
  readonly part: number;
  readonly item: number;
  readonly duplicates: number;
  /** Problems by their reasons. */
  readonly reasons: Readonly<Record<string, number>>;
  /** Images whose bytes are not the source's. */
  readonly recoded: number;
  /** Lengths of the two files that grow with the packing. */
  readonly problemBytes: number;
  readonly digestBytes: number;
}

interface Journal {
  readonly version: number;
  readonly identity: Identity;
  readonly shards: readonly WrittenShard[];
  readonly state: PackState;
  /** The folder of shards is whole and may take the output's place. */
  readonly done: boolean;
}

/** File in the output that lists what was left out, a JSON object `{where, reason, detail?}` a line. */
export const PROBLEMS_FILE = 'problems.jsonl';

const VERSION = 2; // raise when the same source and options make other bytes
const JOURNAL_FILE = 'journal.json';
const DIGESTS_FILE = 'digests';
const START: PackState = { part: 0, item: 0, duplicates: 0, reasons: {}, recoded: 0, problemBytes: 0, digestBytes: 0 }; // prettier-ignore

/** The hidden folder in which `out` is packed. */
export function workFolder(out: string): string {
  return beside(out, '.pack');
}

/** An open workplace. Nobody else may use it: whoever opens it holds the lock of the output. */
export class Workplace {
  private constructor(
    private readonly out: string,
    private journal: Journal,
    /** Whether the output's place was taken already, and only the leftovers of that are there. */
    readonly isPublished: boolean,
  ) {}

  /**
   * Opens the workplace of an output, at the state that it was left in.
   *
   * @param startAnew throws away what was begun with another identity; otherwise that is an error
   * @throws UserError if it cannot be made, or belongs to another packing
   */
  static async open(out: string, identity: Identity, startAnew: boolean): Promise<Workplace> {
    const folder = workFolder(out);
    const found = await readJournal(folder);
    const fits =
      found !== null && !startsAnew(out, found, identity, startAnew) && (await isWhole(out, found));
    const journal = fits ? found : { version: VERSION, identity, shards: [], state: START, done: false };
    try {
      const shards = join(folder, 'shards');
      const isPublished = journal.done && !(await exists(shards));
      if (!fits) await rm(folder, { recursive: true, force: true });
      if (!journal.done) {
        await mkdir(shards, { recursive: true });
        await removeUnlisted(shards, journal);
      }
      return new Workplace(out, journal, isPublished);
    } catch (error) {
      throw fileError(folder, error);
    }
  }

  /** Folder that the shards are written into. */
  get shardsFolder(): string {
    return join(workFolder(this.out), 'shards');
  }

  /** Where the problems are listed. */
  get problemsFile(): string {
    return join(this.shardsFolder, PROBLEMS_FILE);
  }

  /** Where the digests of a de-duplication are kept. */
  get digestsFile(): string {
    return join(workFolder(this.out), DIGESTS_FILE);
  }

  /** Shards that are whole. */
  get shards(): readonly WrittenShard[] {
    return this.journal.shards;
  }

  /** How far the packing is. */
  get state(): PackState {
    return this.journal.state;
  }

  /** Whether nothing is left to be packed. */
  get isDone(): boolean {
    return this.journal.done;
  }

  /** Puts a whole shard on record with the state after it. */
  async record(shard: WrittenShard, state: PackState): Promise<void> {
    await this.#write({ ...this.journal, shards: [...this.journal.shards, shard], state });
  }

  /** Puts on record that all is packed, and writes the manifest. */
  async finish(manifest: ShardManifest, state: PackState): Promise<void> {
    await writeManifest(this.shardsFolder, manifest);
    await this.#write({ ...this.journal, state, done: true });
  }

  /** Puts the shards in the output's place and leaves nothing else. */
  async publish(): Promise<void> {
    const [folder, old] = [workFolder(this.out), beside(this.out, '.pack.old')];
    try {
      await rm(old, { recursive: true, force: true });
      if (await exists(this.shardsFolder)) {
        if (await exists(this.out)) await rename(this.out, old);
        await rename(this.shardsFolder, this.out);
        await syncFolder(dirname(resolve(this.out)));
      }
      await rm(old, { recursive: true, force: true });
      await rm(folder, { recursive: true, force: true });
    } catch (error) {
      throw fileError(this.out, error);
    }
  }

  /** Throws away all that was packed. */
  async discard(): Promise<void> {
    await rm(workFolder(this.out), { recursive: true, force: true });
  }

  async #write(journal: Journal): Promise<void> {
    await writeFileWhole(join(workFolder(this.out), JOURNAL_FILE), `${JSON.stringify(journal)}\n`);
    this.journal = journal;
  }
}

/** @throws UserError if the journal is another packing's, and that must not be thrown away */
function startsAnew(out: string, { identity: before }: Journal, now: Identity, startAnew: boolean): boolean {
  const names = [...new Set([...Object.keys(before), ...Object.keys(now)])];
  const changed = names.filter((name) => before[name] !== now[name]);
  if (changed.length === 0 || startAnew) return changed.length > 0;
  const words = changed.map(
    (name) => `${name} was ${before[name] ?? 'not given'}, is ${now[name] ?? 'not given'}`,
  );
  throw new UserError(
    `${out}: was begun with another source or other options, ${words.join('; ')} (give the same again to go on, --force to start anew, or delete ${workFolder(out)})`,
  );
}

/** Whether all on record is there; the shards of a packing that is done may be in the output's place already. */
async function isWhole(out: string, { shards, state, done }: Journal): Promise<boolean> {
  const folder = join(workFolder(out), 'shards');
  if (done && !(await exists(folder))) return exists(join(out, MANIFEST_FILE));
  const sizes = await Promise.all(shards.map(({ file }) => sizeOf(join(folder, file))));
  const isLong = async (path: string, bytes: number) => (await sizeOf(path)) >= bytes; // it may have grown since
  return (
    shards.every(({ bytes }, i) => sizes[i] === bytes) &&
    (await isLong(join(folder, PROBLEMS_FILE), state.problemBytes)) &&
    (await isLong(join(workFolder(out), DIGESTS_FILE), state.digestBytes))
  );
}

/** 0 for a file that is not there. */
async function sizeOf(path: string): Promise<number> {
  return stat(path).then(
    ({ size }) => size,
    () => 0,
  );
}

/** Removes what a killed process was writing. */
async function removeUnlisted(folder: string, { shards }: Journal): Promise<void> {
  const listed = new Set([...shards.map(({ file }) => file), PROBLEMS_FILE]);
  for (const name of await readdir(folder))
    if (!listed.has(name)) await rm(join(folder, name), { recursive: true });
}

/** Null if there is none of this version: what lies there cannot be gone on with. */
async function readJournal(folder: string): Promise<Journal | null> {
  const path = join(folder, JOURNAL_FILE);
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    if (hasCode(error, 'ENOENT')) return '';
    throw fileError(path, error);
  });
  if (text === '') return null;
  const value: unknown = JSON.parse(text); // written whole, so it is
  return isRecord(value) && value['version'] === VERSION ? (value as unknown as Journal) : null; // this file wrote it
}

function beside(out: string, ending: string): string {
  const whole = resolve(out);
  return join(dirname(whole), `.${basename(whole)}${ending}`);
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
