/** The frozen vision encoder: pixels in, features of one image out. */
import { Graph } from '../tensorflow/graph.js';
import type { Session, TensorFlow } from '../tensorflow/session.js';
import { assignWeights } from './frozenWeights.js';
import type { Precision } from './layers.js';
import { tokenCount, Vit, type TokenChoice, type VitConfig } from './vit.js';
import type { WeightSource } from './weights.js';

/** What decides an encoder's features, besides its weights. */
export interface EncoderSpec {
  readonly vit: VitConfig;
  /** Blocks to run. */
  readonly depth: number;
  readonly tokens: TokenChoice;
  readonly precision: Precision;
}

/** A loaded encoder. */
export class Encoder {
  private constructor(
    readonly session: Session,
    readonly spec: EncoderSpec,
  ) {}

  /** Builds and loads the graph and assigns the weights from `source`. */
  static async open(
    tensorflow: TensorFlow,
    spec: EncoderSpec,
    source: WeightSource,
    onProgress?: (done: number) => void,
  ): Promise<Encoder> {
    const graph = new Graph();
    const vit = new Vit(graph, spec.vit, spec.precision, spec.depth);
    const { imageSize } = spec.vit;
    const pixels = graph.placeholder('pixels', 'float32', ['B', 3, imageSize, imageSize]);
    const tokens = vit.forward(pixels);
    graph.entryPoint('encode', {
      inputs: { pixels },
      outputs: { features: vit.choose(tokens, spec.tokens), tokens },
    });
    const session = await tensorflow.load(graph);
    await assignWeights(session, source, vit.weights(), onProgress);
    return new Encoder(session, spec);
  }

  /** [Q, C] of one image's features. */
  get featureShape(): readonly [Q: number, C: number] {
    return [tokenCount(this.spec.vit, this.spec.tokens), this.spec.vit.hiddenSize];
  }

  /**
   * Encodes one image. One image is the unit of computation: its features never depend on its neighbours,
   * and 257 tokens already fill the matrix products.
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
