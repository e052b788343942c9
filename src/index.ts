/**
 * The library: what the command line does, for programs.
 *
 * ```ts
 * import { exportProjection, loadConfig, modelFolders, runEvaluation, setup, train } from 'minigpt4-align';
 *
 * await setup({ onProgress: ({ task }) => console.error(task) });
 * const config = await loadConfig('configs/quickstart/stage1.yaml', { set: ['train.steps=50'] });
 * const folders = await modelFolders(config);
 * const { checkpoint } = await train(config, {
 *   folders,
 *   events: { step: ({ step, steps, loss }) => console.error(`${step}/${steps} ${loss}`) },
 * });
 * const { lines } = await runEvaluation(config, { folders, from: checkpoint, out: 'report' });
 * await exportProjection(checkpoint, 'projection.safetensors');
 * ```
 *
 * A trained projection answers questions about images:
 *
 * ```ts
 * import { Chat, conversationTemplate, readImage } from 'minigpt4-align';
 *
 * const template = conversationTemplate('config', config); // or one of TEMPLATES
 * const chat = await Chat.open(config, { folders, from: checkpoint, template });
 * await chat.show(await readImage('photo.jpg'));
 * const { text } = await chat.ask('Describe this image in detail.', { maxNewTokens: 100 });
 * await chat.close();
 * ```
 *
 * `ChatSession` is the same over models and features that are already there; `reply` answers a conversation that is a value;
 * `beamSearch` searches after any prefix.
 *
 * What the user can mend is thrown as `UserError`, whose message says what to do; other errors are bugs.
 */
export {
  answerOptions,
  Chat,
  conversationTemplate,
  readImage,
  type AnswerSettings,
  type ChatOptions,
} from './chat.js';
export { loadConfig, type ConfigOptions } from './config/load.js';
export { describeConfig } from './config/describe.js';
export type { Config, Stage } from './config/schema.js';
export { packEmoji, type PackEmojiOptions, type PackedEmoji } from './data/importers/emoji.js';
export type { EmojiStyle } from './data/importers/emojiStyles.js';
export { readFolder, readList, type ImportOptions, type ImportProblem } from './data/importers/folder.js';
export type { ImageTextPair } from './data/pairs.js';
export type { RemoteOptions } from './data/bytes/remoteRequest.js';
export type { PackProgress } from './data/packing/packPairs.js';
export { ShardSet, type ShardFormat, type ShardRow, type VerifyOptions } from './data/shards/shards.js';
export { writeShards, type WriteShardsOptions } from './data/shards/shardWriter.js';
export { UserError } from './errors.js';
export type { Evaluation } from './evaluate/evaluation.js';
export { runEvaluation, type EvaluationEvents, type EvaluationOptions } from './evaluate/run.js';
export { inspectPath, type InspectOptions } from './inspect.js';
export { ChatSession } from './model/conversation/chat.js';
export {
  answer,
  ask,
  conversationPrefix,
  showImage,
  startConversation,
  type Conversation,
  type Message,
} from './model/conversation/conversation.js';
export { reply, type Assistant, type Reply, type ReplyOptions } from './model/conversation/reply.js';
export { promptTemplate, TEMPLATES, type ConversationTemplate } from './model/conversation/template.js';
export { beamSearch, type BeamOptions, type BeamResult } from './model/language/beamSearch.js';
export { openMiniGpt4, type MiniGpt4, type ModelFolders } from './model/miniGpt4.js';
export { lintShards, type LintOptions, type LintReport } from './lint.js';
export { packSource, type PackOptions, type Packed } from './pack.js';
export { examine, type DoctorReport, type Fact } from './setup/doctor.js';
export { modelFolder } from './setup/models.js';
export type { OnProgress, SetupProgress } from './setup/progress.js';
export { modelFolders, setup, type SetupOptions, type SetupResult } from './setup/setup.js';
export { mergeDelta, type MergeDeltaOptions, type MergedModel } from './mergeDelta.js';
export { shuffleLines, type ShuffleOptions } from './shuffle.js';
export { exportProjection, type ExportOptions, type ExportResult } from './train/export.js';
export { loadProjection } from './train/start.js';
export type { StepReport, TrainEvents, TrainOptions, TrainResult } from './train/options.js';
export { Interrupted, train } from './train/train.js';
