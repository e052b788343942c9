/** Reverse-mode differentiation of a graph, along the paths from the wanted tensors only: frozen weights get no gradient. */
import { formatShape } from './dims.js';
import { gradientRules } from './gradientRules.js';
import { graphError, only, type GraphNode, type GraphTensor } from './graph.js';
import { add, broadcastTo, scalarLike } from './ops.js';

/**
 * Adds the nodes that compute d(loss)/d(wanted).
 *
 * @param loss scalar
 * @param wanted tensors of the same graph on which the loss depends
 * @returns one gradient per wanted tensor, with its dtype and shape
 * @throws if the loss is no scalar, does not depend on a wanted tensor, or an op on the way has no rule
 */
export function gradients(loss: GraphTensor, wanted: readonly GraphTensor[]): GraphTensor[] {
  if (loss.shape.length) graphError('gradients', `the loss must be a scalar, got ${formatShape(loss.shape)}`);
  const nodes = [...loss.graph.nodes]; // before any gradient node is added; already in topological order
  const onPath = dependents(nodes, wanted);
  const collected = new Map<GraphTensor, GraphTensor>([[loss, scalarLike(loss, 1)]]);
  for (const node of nodes.reverse()) {
    if (!onPath.has(node)) continue;
    const reached = node.outputs.some((output) => collected.has(output));
    const leadsOn = node.inputs.some((source) => onPath.has(source.node));
    if (reached && leadsOn) accumulate(collected, node, (source) => onPath.has(source.node));
  }
  return wanted.map(
    (tensor) =>
      collected.get(tensor) ?? graphError('gradients', `the loss must depend on "${tensor.node.name}"`),
  );
}

/** Nodes that compute something from a wanted tensor, the wanted ones included. */
function dependents(nodes: readonly GraphNode[], wanted: readonly GraphTensor[]): Set<GraphNode> {
  const found = new Set(wanted.map((tensor) => tensor.node));
  for (const node of nodes) if (node.inputs.some((source) => found.has(source.node))) found.add(node);
  return found;
}

function accumulate(
  collected: Map<GraphTensor, GraphTensor>,
  node: GraphNode,
  onPath: (source: GraphTensor) => boolean,
): void {
  const rule =
    gradientRules[node.op] ??
    graphError('gradients', `op ${node.op} of "${node.name}" has no rule (gradientRules.ts)`);
  const wantedInput = (index: number): boolean => {
    const source = node.inputs[index];
    return source !== undefined && onPath(source);
  };
  const dyOf = (index: number): GraphTensor => {
    const output = only(node.outputs, index);
    return collected.get(output) ?? broadcastTo(scalarLike(output, 0), output.shape);
  };
  rule(node, dyOf(0), wantedInput, dyOf).forEach((gradient, index) => {
    const source = node.inputs[index];
    if (!gradient || !source || !wantedInput(index)) return;
    const known = collected.get(source);
    collected.set(source, known ? add(known, gradient) : gradient);
  });
}
