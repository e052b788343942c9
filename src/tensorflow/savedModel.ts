/**
 * Writes a graph as the SavedModel message that TensorFlow loads. Field numbers are those of TensorFlow's protos:
 * saved_model, meta_graph, graph, node_def, attr_value, tensor, tensor_shape.
 */
import type { DType } from './dtypes.js';
import type { Attribute, Graph, GraphNode, GraphTensor } from './graph.js';
import { bytesField, floatField, varintField } from './protobuf.js';
import { replicated } from './replicas.js';

/** TensorFlow's DataType numbers. */
export const TF_TYPE: Readonly<Record<DType | 'resource', number>> = {
  float32: 1,
  int32: 3,
  uint8: 4,
  int8: 6,
  int64: 9,
  bool: 10,
  bfloat16: 14,
  float16: 19,
  resource: 20,
};

/** The tag under which the session loads the graph. */
export const SERVING_TAG = 'serve';

/**
 * The bytes of `saved_model.pb`. The variables' values are not in it: the session assigns them.
 *
 * @param replicas copies of the computations (replicas.ts)
 */
export function encodeSavedModel(graph: Graph, replicas = 1): Buffer {
  const metaInfo = bytesField(1, bytesField(4, SERVING_TAG));
  const nodes = replicated(graph, replicas).map((node) => bytesField(1, encodeNode(node)));
  const graphDef = bytesField(2, Buffer.concat(nodes));
  return Buffer.concat([varintField(1, 1), bytesField(2, Buffer.concat([metaInfo, graphDef]))]);
}

/** TensorFlow's name of a tensor: `node:output`. */
export function tensorName({ node, index }: GraphTensor): string {
  return `${node.name}:${index}`;
}

function encodeNode(node: GraphNode): Buffer {
  const inputs = [...node.inputs.map(tensorName), ...node.control.map((name) => `^${name}`)];
  const attributes = Object.entries(node.attributes).map(([name, attribute]) =>
    bytesField(5, Buffer.concat([bytesField(1, name), bytesField(2, encodeAttribute(attribute))])),
  );
  return Buffer.concat([
    bytesField(1, node.name),
    bytesField(2, node.op),
    ...inputs.map((input) => bytesField(3, input)),
    ...attributes,
  ]);
}

function encodeAttribute(attribute: Attribute): Buffer {
  switch (attribute.kind) {
    case 'string':
      return bytesField(2, attribute.value);
    case 'int':
      return varintField(3, attribute.value);
    case 'float':
      return floatField(4, attribute.value);
    case 'bool':
      return varintField(5, attribute.value ? 1 : 0);
    case 'type':
      return varintField(6, TF_TYPE[attribute.value]);
    case 'shape':
      return bytesField(7, encodeShape(attribute.value));
    case 'tensor': {
      const { value, dtype, shape } = attribute;
      const content = new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
      return bytesField(
        8,
        Buffer.concat([
          varintField(1, TF_TYPE[dtype]),
          bytesField(2, encodeShape(shape)),
          bytesField(4, content),
        ]),
      );
    }
  }
}

function encodeShape(shape: readonly (number | string)[]): Buffer {
  const dims = shape.map((dim) => bytesField(2, varintField(1, typeof dim === 'number' ? dim : -1)));
  return Buffer.concat(dims);
}
