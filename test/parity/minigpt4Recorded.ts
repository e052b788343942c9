/** Types of case.json and expected.json in test/fixtures/minigpt4-tiny; its README says what each entry means. */

/** The two stages of training. */
export type Stage = 'stage1' | 'stage2';

interface StageSettings {
  readonly init_lr: number;
  readonly min_lr: number;
  readonly warmup_lr: number;
  readonly weight_decay: number;
  readonly warmup_steps: number;
  readonly max_epoch: number;
  readonly iters_per_epoch: number;
  readonly batch: number;
}

/** case.json, as far as these tests read it. */
export interface CaseFile extends Readonly<Record<Stage, StageSettings>> {
  readonly image_size: number;
  readonly qformer: { readonly hidden: number; readonly num_query_tokens: number };
  readonly llm: { readonly hidden: number; readonly layers: number; readonly vocab_rows: number };
  readonly files: Readonly<Record<'llm' | 'init' | 'stage1' | 'stage2' | 'prompts', string>>;
  readonly stage2_template: string;
  readonly stop_sequences: readonly (readonly number[])[];
}

/** `stage1_batch` and `stage2_batch`. */
export interface RecordedBatch {
  readonly sample_indices: readonly number[];
  readonly prompt: string | null;
  readonly texts: readonly string[];
  readonly end_sym: string;
  readonly max_txt_len: number;
  readonly target_ids: readonly (readonly number[])[];
  readonly target_mask: readonly (readonly number[])[];
  readonly supervised_tokens: number;
  readonly sequence_length: number;
  readonly loss: number;
}

interface RecordedRun {
  readonly steps: number;
  readonly loss: readonly number[];
  readonly lr: readonly number[];
  readonly prompt_index?: readonly number[];
  readonly prompts?: readonly string[];
}

/** One answer of `generation`. */
export interface RecordedTurn {
  readonly question: string;
  readonly prompt_text: string;
  readonly segment_ids: readonly (readonly number[])[];
  readonly prefix_length: number;
  readonly new_token_ids: readonly number[];
  readonly text: string;
  readonly raw_decoded: string;
  readonly finish: string;
}

/** One conversation of `generation`. */
export interface RecordedConversation {
  readonly image?: number;
  readonly images?: readonly number[];
  readonly turns: readonly RecordedTurn[];
}

/** expected.json, as far as these tests read it. */
export interface Expected
  extends Readonly<Record<`${Stage}_batch`, RecordedBatch>>, Readonly<Record<`${Stage}_train`, RecordedRun>> {
  readonly images: readonly {
    readonly index: number;
    readonly file: string;
    readonly size_wh: readonly [width: number, height: number];
  }[];
  readonly crops: readonly (Readonly<Record<'top' | 'left' | 'height' | 'width', number>> & {
    readonly image: number;
  })[];
  readonly stage1_captions: readonly { readonly raw: string; readonly cleaned: string }[];
  readonly stage2_samples: readonly { readonly image_index: number; readonly text: string }[];
  readonly caption_cleaning: readonly {
    readonly raw: string;
    readonly cleaned: string;
    readonly exotic: boolean;
  }[];
  readonly tokenizer: readonly {
    readonly text: string;
    readonly ids: readonly number[];
    readonly ids_with_bos: readonly number[];
    readonly decoded: string;
  }[];
  readonly special_ids: {
    readonly unk: number;
    readonly bos: number;
    readonly eos: number;
    readonly stop_sequences: readonly (readonly number[])[];
  };
  readonly generation: { readonly max_new_tokens: number; readonly runs: readonly RecordedConversation[] };
  readonly answer_postprocess: readonly {
    readonly generated_ids: readonly number[];
    readonly text: string;
  }[];
  readonly sampling_filter: {
    readonly previous_ids: readonly number[];
    readonly cases: readonly {
      readonly repetition_penalty: number;
      readonly temperature: number;
      readonly top_k: number;
      readonly top_p: number;
      readonly ids: readonly number[];
      readonly probs: readonly number[];
    }[];
  };
}
