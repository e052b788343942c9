/** One image with its caption: what importers yield, shards hold and training draws. */

/** An image in its stored (encoded) bytes and the text that belongs to it. */
export interface ImageTextPair {
  /** Names the pair in ledgers and reports; unique within its source. */
  readonly id: string;
  /** JPEG, PNG or WebP bytes as they were found; empty if the source had none. The caller owns them. */
  readonly image: Uint8Array;
  /** The text as stored; cleaning is the reader's choice. Empty if the source had none. */
  readonly caption: string;
  /** Where the pair comes from, if the shard says so. */
  readonly source?: string;
  /** Every further text column of the shard, by name; a missing value has no entry. */
  readonly extra: Readonly<Record<string, string>>;
}
