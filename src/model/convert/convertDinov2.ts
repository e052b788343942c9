/**
 * The DINOv2 encoder inside an ONNX export, in Hugging Face's terms. Biases and norms keep their names through torch's
 * export; linear weights lose theirs (they are folded into MatMul, transposed), so nodes and edges tell which is which.
 */
import { UserError } from '../../errors.js';
import { toFloat32 } from '../../tensorflow/halfFloats.js';
import { shortestFloat32, type ModelContent } from './convertContent.js';
import { consumersOf, nodeNamed, producerOf, type OnnxFile, type OnnxNode } from '../weights/onnx.js';
import type { SafetensorsEntry } from '../weights/safetensors.js';
import { missingTensor } from '../weights/weights.js';

/** Mean and standard deviation of ImageNet's RGB, which DINOv2 was trained with. */
const IMAGENET = { image_mean: [0.485, 0.456, 0.406], image_std: [0.229, 0.224, 0.225] };

/** Linear layers of an encoder layer. */
const LINEARS = [
  'attention.attention.query',
  'attention.attention.key',
  'attention.attention.value',
  'attention.output.dense',
  'mlp.fc1',
  'mlp.fc2',
];
const NORMS = ['norm1.weight', 'norm1.bias', 'norm2.weight', 'norm2.bias'];
const LAYER_SCALES = ['layer_scale1.lambda1', 'layer_scale2.lambda1'];

/** The graph, and what its names begin with: `backbone.` where the encoder sits in a larger module, else nothing. */
interface Encoder {
  readonly onnx: OnnxFile;
  readonly prefix: string;
}

/**
 * What `convertOnnxDinov2` writes. Weights are read when their turn comes.
 *
 * @throws UserError if the graph holds no DINOv2, or one whose linear layers cannot be told apart for sure
 */
export function dinov2Model(onnx: OnnxFile): ModelContent {
  const clsToken = onnx.names().find((name) => name.endsWith('embeddings.cls_token'));
  if (clsToken === undefined) throw missingTensor(onnx.path, 'embeddings.cls_token', onnx.names());
  const encoder = { onnx, prefix: clsToken.slice(0, -'embeddings.cls_token'.length) };
  const layers = countLayers(encoder);
  const positions = positionEmbeddings(encoder);
  const tensors = [
    ...['cls_token', 'patch_embeddings.projection.weight', 'patch_embeddings.projection.bias'].map((name) =>
      sameName(encoder, `embeddings.${name}`),
    ),
    positions,
    sameName(encoder, 'layernorm.weight'),
    sameName(encoder, 'layernorm.bias'),
    ...Array.from({ length: layers }, (_, layer) => layerTensors(encoder, `encoder.layer.${layer}.`)).flat(),
  ];
  return { config: dinov2Config(encoder, layers, positions), tensors };
}

function dinov2Config(
  { onnx, prefix }: Encoder,
  layers: number,
  positions: SafetensorsEntry,
): Record<string, unknown> {
  const [, positionCount = 0, hidden = 0] = positions.shape;
  const [, channels, patch = 0] = onnx.info(`${prefix}embeddings.patch_embeddings.projection.weight`).shape;
  const [mlp = 0] = onnx.info(`${prefix}encoder.layer.0.mlp.fc1.bias`).shape;
  const gridSide = Math.sqrt(positionCount - 1);
  if (!Number.isInteger(gridSide)) {
    throw new UserError(`${onnx.path}: position embeddings must be 1 + a square, got ${positionCount}`);
  }
  return {
    architectures: ['Dinov2Model'],
    model_type: 'dinov2',
    torch_dtype: 'float32',
    hidden_size: hidden,
    num_hidden_layers: layers,
    num_attention_heads: headCount({ onnx, prefix }, hidden),
    mlp_ratio: mlp / hidden,
    hidden_act: 'gelu',
    layer_norm_eps: layerNormEps({ onnx, prefix }),
    layerscale_value: 1,
    qkv_bias: true,
    use_swiglu_ffn: false,
    use_mask_token: false,
    image_size: gridSide * patch,
    patch_size: patch,
    num_channels: channels,
    ...IMAGENET,
  };
}

/** Layers are numbered from 0 without gaps. */
function countLayers({ onnx, prefix }: Encoder): number {
  const names = new Set(onnx.names());
  let layers = 0;
  while (names.has(`${prefix}encoder.layer.${layers}.norm1.weight`)) layers++;
  if (layers === 0) throw missingTensor(onnx.path, `${prefix}encoder.layer.0.norm1.weight`, [...names]);
  return layers;
}

function layerTensors(encoder: Encoder, layer: string): SafetensorsEntry[] {
  return [
    ...[...NORMS, ...LAYER_SCALES].map((name) => sameName(encoder, layer + name)),
    ...LINEARS.flatMap((name) => [
      linearWeight(encoder, layer + name),
      sameName(encoder, `${layer}${name}.bias`),
    ]),
  ];
}

function sameName({ onnx, prefix }: Encoder, name: string): SafetensorsEntry {
  const { shape } = onnx.info(prefix + name);
  return { name, dtype: 'float32', shape, read: async () => bytesOf(await floats(onnx, prefix + name)) };
}

/**
 * The weight of a linear layer: the initializer of the MatMul in the layer's scope, [in, out] there, [out, in] here.
 * The bias added to that MatMul carries the layer's own name, which proves that it is the right one.
 */
function linearWeight({ onnx, prefix }: Encoder, name: string): SafetensorsEntry {
  const matMul = nodeNamed(onnx, scope(prefix, `${name}.MatMul`));
  const added = consumersOf(onnx, matMul.outputs[0] ?? '').flatMap((node) => node.inputs);
  const bias = `${prefix}${name}.bias`;
  if (!added.includes(bias)) {
    throw new UserError(
      `${onnx.path}: ${bias} must be added to ${matMul.name}, got ${added.join(', ') || 'nothing'}`,
    );
  }
  const initializer = matMul.inputs[1] ?? '';
  const [inputs = 0, outputs = 0] = onnx.info(initializer).shape;
  const shape = [outputs, inputs];
  const read = async () => bytesOf(transposed(await floats(onnx, initializer), inputs, outputs));
  return { name: `${name}.weight`, dtype: 'float32', shape, read };
}

/**
 * Position embeddings [1, 1 + grid², hidden]. An export for another image size than the trained one keeps them in two
 * pieces: the class token's, and the grid's, which goes through Resize and is then joined to the former.
 */
function positionEmbeddings({ onnx, prefix }: Encoder): SafetensorsEntry {
  const name = 'embeddings.position_embeddings';
  if (onnx.names().includes(prefix + name)) return sameName({ onnx, prefix }, name);
  const resize = nodeNamed(onnx, scope(prefix, 'embeddings.Resize'));
  const grid = followBack(onnx, resize);
  const classToken = onnx.info(joinedTo(onnx, resize));
  const [, cells = 0, hidden = 0] = onnx.info(grid).shape;
  if (classToken.shape.join() !== [1, 1, hidden].join()) {
    const rule = `class token's position embedding must be [1, 1, ${hidden}]`;
    throw new UserError(`${onnx.path}: ${rule}, got "${classToken.name}" [${classToken.shape.join(', ')}]`);
  }
  const read = async () =>
    Buffer.concat([await floatBytes(onnx, classToken.name), await floatBytes(onnx, grid)]);
  return { name, dtype: 'float32', shape: [1, 1 + cells, hidden], read };
}

/** The initializer at the beginning of the chain of first inputs that ends in `node`. */
function followBack(onnx: OnnxFile, node: OnnxNode): string {
  const input = node.inputs[0] ?? '';
  const producer = producerOf(onnx, input);
  return producer === undefined ? onnx.info(input).name : followBack(onnx, producer);
}

/** The initializer that the chain of first outputs that begins at `node` is concatenated to. */
function joinedTo(onnx: OnnxFile, node: OnnxNode): string {
  for (const next of consumersOf(onnx, node.outputs[0] ?? '')) {
    if (next.type === 'Concat') return next.inputs[0] ?? '';
    if (next.type !== 'Shape') return joinedTo(onnx, next);
  }
  throw new UserError(`${onnx.path}: ${node.name} must lead to a Concat with the class token, got none`);
}

/** Heads, from the constant shape […, heads, width of a head] that the keys of the first layer are reshaped to. */
function headCount({ onnx, prefix }: Encoder, hidden: number): number {
  const attention = 'encoder.layer.0.attention.attention';
  const reshape = nodeNamed(onnx, scope(prefix, `${attention}.Reshape`));
  const shape = producerOf(onnx, reshape.inputs[1] ?? '');
  const [heads, width] = (shape?.inputs.slice(-2) ?? []).map((input) => constant(onnx, input));
  if (heads !== undefined && width !== undefined && heads * width === hidden) return heads;
  throw new UserError(
    `${onnx.path}: heads × width must be ${hidden}, got ${heads} × ${width} at ${reshape.name}`,
  );
}

/** Epsilon of the first layer norm, which the export spells out as arithmetic. */
function layerNormEps({ onnx, prefix }: Encoder): number {
  const add = nodeNamed(onnx, scope(prefix, 'encoder.layer.0.norm1.Add'));
  const epsilon = constant(onnx, add.inputs[1] ?? '');
  if (epsilon !== undefined && epsilon > 0) return shortestFloat32(epsilon);
  throw new UserError(`${onnx.path}: ${add.name} must add a positive constant, got ${epsilon ?? 'none'}`);
}

/** The first element of a constant of the graph, float32 or int64. */
function constant(onnx: OnnxFile, output: string): number | undefined {
  const value = producerOf(onnx, output)?.attributes.get('value');
  if (typeof value !== 'object' || !('data' in value) || value.data.byteLength === 0) return undefined;
  if (value.dtype === 'float32') return toFloat32(value)[0];
  const view = new DataView(value.data.buffer, value.data.byteOffset, value.data.byteLength);
  return value.dtype === 'int64' ? Number(view.getBigInt64(0, true)) : undefined;
}

/** A node's name as torch exports it: the module's path with slashes, but for the dots of numbered modules. */
function scope(prefix: string, path: string): string {
  return `/${(prefix + path).replaceAll('.', '/').replace(/\/(\d+)\//g, '.$1/')}`;
}

async function floats(onnx: OnnxFile, name: string): Promise<Float32Array> {
  return toFloat32(await onnx.read(name));
}

async function floatBytes(onnx: OnnxFile, name: string): Promise<Uint8Array> {
  return bytesOf(await floats(onnx, name));
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

function transposed(values: Float32Array, rows: number, columns: number): Float32Array {
  const result = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      result[column * rows + row] = values[row * columns + column] ?? 0;
    }
  }
  return result;
}
