/** `minigpt4 evaluate`: what a trained projection is worth on pairs it never saw. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import pLimit from 'p-limit';
import type { Config } from '../config/schema.js';
import { writeFileWhole } from '../files.js';
import { openMiniGpt4, type MiniGpt4, type ModelFolders } from '../model/miniGpt4.js';
import type { Projection } from '../model/projection.js';
import { Prompter } from '../model/conversation/prompt.js';
import {
  blankImage,
  cacheLine,
  featureReader,
  noCounts,
  openStore,
  type FeatureReader,
} from '../train/features.js';
import { loadProjection } from '../train/start.js';
import { sharesWord, writeTexts, writtenCaption, type WrittenCaption } from './captions.js';
import { readHeldOut, tokenLosses, type HeldOutSet } from './heldOut.js';
import { contentTokens, imageGap, rotations, type ImageGap } from './imageGap.js';
import type { Evaluation } from './evaluation.js';
import { writeReport } from './report.js';
import { chance, likelihoods, rank, type RetrievalChance, type RetrievalResult } from './retrieval.js';
import { summaryLines } from './summary.js';

/** What an evaluation tells whoever watches it. */
export interface EvaluationEvents {
  readonly note?: (text: string) => void;
  readonly loading?: (part: string, done: number) => void;
  readonly progress?: (task: string, done: number, total: number) => void;
}

/** How an evaluation is started. */
export interface EvaluationOptions {
  readonly folders: ModelFolders;
  /** Run folder, checkpoint folder or projection file. */
  readonly from: string;
  /** Folder of report.html and evaluation.json. */
  readonly out: string;
  readonly events?: EvaluationEvents;
}

/** Evaluates and writes `report.html` and `evaluation.json`. @throws UserError as the parts do */
export async function runEvaluation(
  config: Config,
  { folders, from, out, events = {} }: EvaluationOptions,
): Promise<{ lines: string[]; reportFile: string; evaluation: Evaluation }> {
  const model = await openMiniGpt4(config.model, folders, events.loading);
  const store = await openStore(config, model, events.note);
  const counts = noCounts();
  try {
    const projection = await loadProjection(from, config, model, { note: events.note });
    const { workers, verifyCache: verify } = config.data;
    const features = featureReader(model.encoder, store, { workers, verify, counts });
    const prompter = new Prompter(model.tokenizer, config.prompt);
    const heldOut = await readHeldOut(config, features, prompter, (done, total) =>
      events.progress?.('encoding', done, total),
    );
    const evaluation = await measure({
      config,
      model,
      projection,
      prompter,
      features,
      heldOut,
      from,
      events,
    });
    await mkdir(out, { recursive: true });
    await writeFileWhole(join(out, 'evaluation.json'), `${JSON.stringify(evaluation, null, 2)}\n`);
    const reportFile = join(out, 'report.html');
    await writeReport(reportFile, config, evaluation, heldOut);
    if (store) events.note?.(cacheLine(counts));
    return { lines: summaryLines(evaluation), reportFile, evaluation };
  } finally {
    await store?.flush();
    store?.close();
    await model.close();
  }
}

interface Setting {
  readonly config: Config;
  readonly model: MiniGpt4;
  readonly projection: Projection;
  readonly prompter: Prompter;
  readonly features: FeatureReader;
  readonly heldOut: HeldOutSet;
  readonly from: string;
  readonly events: EvaluationEvents;
}

async function measure(setting: Setting): Promise<Evaluation> {
  const { config, model, heldOut, from } = setting;
  const gap = await measureGap(setting);
  const retrieval = config.evaluate.retrieval ? await measureRetrieval(setting) : undefined;
  const captions = await writeCaptions(setting);
  const byChance = chanceOfSharing(heldOut, captions);
  return {
    stage: config.train.stage,
    from,
    items: heldOut.items.length,
    skipped: heldOut.skipped,
    precision: model.language.spec.precision,
    gap,
    ...(retrieval && { retrieval }),
    captions,
    ...(byChance === undefined ? {} : { sharesWordByChance: byChance }),
  };
}

/** Loss with the own image, with exchanged ones, and on content words. */
export async function measureGap({
  config,
  model,
  projection,
  heldOut: { items },
  events,
}: Pick<Setting, 'config' | 'model' | 'projection' | 'heldOut' | 'events'>): Promise<ImageGap> {
  const shape = model.encoder.featureShape;
  const pairings = [(item: number) => item, ...rotations(items.length)];
  const { batchSize } = config.evaluate;
  let done = 0;
  const losses = await pLimit(model.language.concurrency).map(pairings, async (imageOf) => {
    const own = await tokenLosses(model.language, projection, items, imageOf, { batchSize, shape });
    events.progress?.('losses', ++done, pairings.length);
    return own;
  });
  const [own = [], ...exchanged] = losses;
  const marks = items.map((item) =>
    contentTokens(
      item,
      item.example.target.map((id) => model.tokenizer.decode([id])),
    ),
  );
  const content =
    config.train.stage === 'finetune' && marks.every((mark) => mark !== undefined) ? marks : undefined;
  return imageGap(own, exchanged, content);
}

async function measureRetrieval({
  config,
  model,
  projection,
  prompter,
  features,
  heldOut: { items },
  events,
}: Setting): Promise<{ results: RetrievalResult[]; chance: RetrievalChance }> {
  const blank = await blankImage(config, features);
  const shape = model.encoder.featureShape;
  const question = config.train.stage === 'finetune' ? config.prompt.questions[0] : undefined;
  const images = [...items.map((item) => item.features), blank];
  const texts = items.map(({ example }) => example.target);
  const table = await likelihoods(
    model.language,
    projection,
    prompter.prefix(question),
    images,
    texts,
    shape,
    (done) => events.progress?.('retrieval', done, images.length),
  );
  const lengths = texts.map(({ length }) => length);
  const blankScores = table.pop() ?? new Float32Array();
  const names = items.map(({ pair }) => pair.extra['group']);
  const groups = names.every((name) => name !== undefined) ? names : undefined;
  const results = (['none', 'pmi', 'centred'] as const).map((correction) =>
    rank(table, correction, blankScores, lengths, groups),
  );
  return { results, chance: chance(items.length, groups) };
}

async function writeCaptions({
  config,
  model,
  projection,
  heldOut: { items },
  prompter,
  events,
}: Setting): Promise<WrittenCaption[]> {
  const chosen = items.slice(0, config.evaluate.captions);
  const texts = await writeTexts(model, projection, chosen, {
    ...config.evaluate,
    endId: prompter.endId,
    stopSequences: prompter.stopSequences,
    onProgress: (done) => events.progress?.('captions', done, chosen.length),
  });
  const describes = config.train.stage === 'finetune';
  return chosen.flatMap((item, i) => (texts[i] ? [writtenCaption(item, texts[i], describes)] : []));
}

function chanceOfSharing({ items }: HeldOutSet, captions: readonly WrittenCaption[]): number | undefined {
  const shared = captions.map(({ written }, i) =>
    sharesWord(written, items[(i + Math.ceil(items.length / 2)) % items.length]?.pair.extra ?? {}),
  );
  return shared.some((share) => share === undefined) || !shared.length
    ? undefined
    : shared.filter(Boolean).length / shared.length;
}
