/** What an evaluation found. */
import type { WrittenCaption } from './captions.js';
import type { ImageGap } from './imageGap.js';
import type { RetrievalChance, RetrievalResult } from './retrieval.js';

/** All figures of one evaluation, as evaluation.json holds them. */
export interface Evaluation {
  readonly stage: 'pretrain' | 'finetune';
  readonly from: string;
  readonly items: number;
  readonly skipped: number;
  readonly precision: string;
  readonly gap: ImageGap;
  readonly retrieval?: { readonly results: readonly RetrievalResult[]; readonly chance: RetrievalChance };
  readonly captions: readonly WrittenCaption[];
  /** The same pictures' captions compared with the next picture's words: what chance shares. */
  readonly sharesWordByChance?: number;
}
