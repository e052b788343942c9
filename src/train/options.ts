/** How a training run is started, what it tells while it lasts, and how it ended. */
import type { MiniGpt4, ModelFolders } from '../model/miniGpt4.js';
import type { Projection } from '../model/projection.js';
import type { FeatureReader } from './features.js';
import type { Run } from './run.js';

/** What a run tells whoever watches it; the run itself prints nothing. */
export interface TrainEvents {
  /** What is frozen, what trains, where it resumes: lines worth reading. */
  readonly note?: (text: string) => void;
  /** A part is being loaded: share done, 0…1. */
  readonly loading?: (part: string, done: number) => void;
  /** After each step. */
  readonly step?: (report: StepReport) => void;
}

/** Where the run stands after a step. */
export interface StepReport {
  /** Steps taken, 1…steps. */
  readonly step: number;
  readonly steps: number;
  /** Mean loss of the step's target tokens, nats. */
  readonly loss: number;
}

/** How a run is started. */
export interface TrainOptions {
  readonly folders: ModelFolders;
  /** Refuse to resume. */
  readonly fresh?: boolean;
  readonly events?: TrainEvents;
  /** Called every `train.evalEvery` steps; what it returns is logged. Given by the caller: evaluation stands above training. */
  readonly evaluate?: (context: EvaluationContext) => Promise<Readonly<Record<string, number>>>;
  /** When it aborts, the last whole step is saved at once, also in the middle of a step, and `train` rejects with `Interrupted`. */
  readonly signal?: AbortSignal;
}

/** What an evaluation during training works with. */
export interface EvaluationContext {
  readonly step: number;
  readonly model: MiniGpt4;
  readonly projection: Projection;
  /** The run's own, so that held-out pictures share its cache. */
  readonly features: FeatureReader;
  readonly run: Run;
}

/** How a run ended. */
export interface TrainResult {
  /** Folder of the last checkpoint. */
  readonly checkpoint: string;
  readonly step: number;
}
