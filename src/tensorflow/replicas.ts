/**
 * Copies of a graph's computations beside one another, so that several runs of one entry point can be one call to
 * TensorFlow: it computes independent nodes at the same time, and the binding's calls are not independent.
 */
import type { Graph, GraphNode, GraphTensor } from './graph.js';

/** Name of a node or tensor in one of the copies; the first copy's names are the graph's own. */
export function replicaName(name: string, replica: number): string {
  return replica === 0 ? name : `replica${replica}/${name}`;
}

/**
 * The graph's nodes with all that depends on an entry point's inputs as many times as said, and its outputs. Variables and
 * what is made of them alone stay single: the copies share the weights. (Weights that are widened for each product wait for
 * the step's own values, so each copy widens them for itself.)
 *
 * @param replicas copies, from 1
 */
export function replicated(graph: Graph, replicas: number): GraphNode[] {
  const nodes = nodesOfRuns(graph);
  const copies = Array.from({ length: replicas - 1 }, (_, i) => copyOf(nodes, i + 1));
  return [...graph.nodes, ...copies.flat()];
}

/** The nodes that exist once for each run: inputs, all that comes after them, and outputs. */
function nodesOfRuns(graph: Graph): GraphNode[] {
  const points = [...graph.entryPoints.values()];
  const fed = new Set(points.flatMap(({ inputs }) => Object.values(inputs)).map(({ node }) => node));
  const names = new Set([...fed].map(({ name }) => name));
  for (const node of graph.nodes) {
    if (!node.inputs.some((input) => fed.has(input.node)) && !node.control.some((name) => names.has(name)))
      continue;
    fed.add(node);
    names.add(node.name);
  }
  const fetched = new Set(points.flatMap(({ outputs }) => Object.values(outputs)).map(({ node }) => node));
  return graph.nodes.filter((node) => fed.has(node) || fetched.has(node));
}

function copyOf(nodes: readonly GraphNode[], replica: number): GraphNode[] {
  const copies = new Map<GraphNode, GraphNode>();
  const names = new Set(nodes.map(({ name }) => name));
  const copied = (tensor: GraphTensor): GraphTensor => ({
    ...tensor,
    node: copies.get(tensor.node) ?? tensor.node,
  });
  for (const node of nodes)
    copies.set(node, {
      ...node,
      name: replicaName(node.name, replica),
      inputs: node.inputs.map(copied),
      control: node.control.map((name) => (names.has(name) ? replicaName(name, replica) : name)),
    });
  return [...copies.values()];
}
