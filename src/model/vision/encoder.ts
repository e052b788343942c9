/**
 * The frozen vision encoder: pixels in, features of one image out. The transformer's tokens go through `ln_vision`,
 * a choice and a Q-Former, each where there is one.
 */
import { Graph, type GraphTensor } from '../../tensorflow/graph.js';
import type { Session, TensorFlow } from '../../tensorflow/session.js';
import { assignWeights, type FrozenWeight } from '../weights/frozenWeights.js';
import { requireMemory } from '../weights/memory.js';
import type { Precision } from '../layers.js';
import { lnVision, QFormer } from './qformer.js';
import { lnVisionWeights, qformerWeights, type QFormerLayout, type QFormerPart } from './qformerWeights.js';
import { chooseTokens, tokenCount, tokenWidth, Vit, type TokenChoice, type VitConfig } from './vit.js';
import { clipWeights, type ClipLayout } from './vitClip.js';
import { dinov2Weights } from './vitDinov2.js';
import { evaWeights, type EvaLayout } from './vitEva.js';
import type { WeightSource } from '../weights/weights.js';

/** How the weights file of a vision transformer names its tensors, and so which transformer it is. */
export type VitLayout = { readonly kind: 'dinov2' } | EvaLayout | ClipLayout;

/** What decides an encoder's features, besides its weights. Plain data: feature caches are named after it. */
export interface EncoderSpec {
  readonly vit: VitConfig;
  /** Left out: DINOv2. */
  readonly layout?: VitLayout;
  /** Blocks to run. */
  readonly depth: number;
  /** BLIP-2's norm over the transformer's tokens, from a file of this layout, or with weight 1 and bias 0; left out: none. */
  readonly lnVision?: QFormerLayout | 'plain';
  /** Which of the tokens become features, or go on into the Q-Former: that takes all. */
  readonly tokens: TokenChoice;
  /** Left out: the chosen tokens themselves are the features. */
  readonly qformer?: QFormerPart;
  readonly precision: Precision;
  /** bfloat16 weights are made float32 for each product: for CPUs that only emulate bfloat16's. Left out: they are not. */
  readonly widen?: boolean;
}

/** Where the weights are when the transformer's lie apart from those of `ln_vision` and Q-Former, as MiniGPT-4's do. */
export interface EncoderSources {
  readonly vit: WeightSource;
  readonly qformer: WeightSource;
}

/** A loaded encoder. */
export class Encoder {
  private constructor(
    readonly session: Session,
    readonly spec: EncoderSpec,
  ) {}

  /**
   * Builds and loads the graph and assigns the weights.
   *
   * @param source one file or folder, or two
   * @param onProgress told the share done, 0…1
   * @throws UserError if sizes do not fit, or a tensor is missing or of another shape
   */
  static async open(
    tensorflow: TensorFlow,
    spec: EncoderSpec,
    source: WeightSource | EncoderSources,
    onProgress?: (done: number) => void,
  ): Promise<Encoder> {
    const graph = new Graph({ widen: spec.widen ?? false });
    const sources = 'vit' in source ? source : { vit: source, qformer: source };
    const weights = { vit: vitWeights(spec), qformer: bridgeWeights(spec) };
    buildGraph(graph, spec, weights.vit);
    for (const part of ['vit', 'qformer'] as const) checkNames(sources[part], weights[part]);
    const session = await tensorflow.load(graph);
    requireMemory(session, 'vision encoder');
    const share = weights.vit.length / (weights.vit.length + weights.qformer.length);
    await assignWeights(session, sources.vit, weights.vit, (done) => onProgress?.(share * done));
    await assignWeights(session, sources.qformer, weights.qformer, (done) =>
      onProgress?.(share + (1 - share) * done),
    );
    return new Encoder(session, spec);
  }

  /** [Q, C] of one image's features. */
  get featureShape(): readonly [Q: number, C: number] {
    const { qformer, vit, tokens } = this.spec;
    if (qformer) return [qformer.config.queries, qformer.config.hiddenSize];
    return [tokenCount(vit, tokens), tokenWidth(vit, tokens)];
  }

  /**
   * Encodes one image. One image is the unit of computation: its features never depend on its neighbours. Images that are
   * asked for together are computed side by side where `model.concurrency` says so.
   *
   * @param pixels float32[3, H, W], normalised
   * @returns float32[Q, C]
   */
  async encode(pixels: Float32Array): Promise<Float32Array> {
    const { imageSize } = this.spec.vit;
    const { features } = await this.session.run(
      'encode',
      { pixels: { shape: [1, 3, imageSize, imageSize], data: pixels } },
      ['features'],
    );
    return features.data as Float32Array; // the graph's output is float32
  }

  /** Frees the session. */
  close(): Promise<void> {
    return this.session.close();
  }
}

/** The entry point `encode`: float32 pixels [B, 3, H, W] → features [B, Q, C], and the transformer's tokens [B, N + 1, C]. */
function buildGraph(graph: Graph, spec: EncoderSpec, weights: readonly FrozenWeight[]): void {
  const vit = new Vit(graph, spec.vit, spec.precision, spec.depth, weights);
  const { imageSize } = spec.vit;
  const pixels = graph.placeholder('pixels', 'float32', ['B', 3, imageSize, imageSize]);
  const tokens = vit.forward(pixels);
  graph.entryPoint('encode', { inputs: { pixels }, outputs: { features: bridge(spec, tokens), tokens } });
}

/** From the transformer's tokens to the features: norm, choice, Q-Former. */
function bridge(spec: EncoderSpec, tokens: GraphTensor): GraphTensor {
  const { graph } = tokens;
  const chosen = chooseTokens(normalise(spec, tokens), spec.tokens);
  return spec.qformer ? new QFormer(graph, spec.qformer.config, spec.precision).forward(chosen) : chosen;
}

function normalise({ lnVision: norm }: EncoderSpec, tokens: GraphTensor): GraphTensor {
  return norm ? lnVision(tokens.graph, tokens, norm === 'plain' ? norm : 'learned') : tokens;
}

/** Before the gigabytes: a tensor that is missing is named now. */
function checkNames(source: WeightSource, weights: readonly FrozenWeight[]): void {
  for (const { sources } of weights) for (const name of sources) source.info(name);
}

function vitWeights({ vit, depth, layout }: EncoderSpec): FrozenWeight[] {
  switch (layout?.kind) {
    case 'eva':
    case 'blip2':
      return evaWeights(vit, depth, layout);
    case 'clip':
      return clipWeights(vit, depth, layout);
    default:
      return dinov2Weights(vit, depth);
  }
}

function bridgeWeights({ lnVision: norm, qformer }: EncoderSpec): FrozenWeight[] {
  return [
    ...(norm && norm !== 'plain' ? lnVisionWeights(norm) : []),
    ...(qformer ? qformerWeights(qformer.config, qformer.layout) : []),
  ];
}
