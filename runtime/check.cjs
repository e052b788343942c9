// Run by `minigpt4 setup` in the folder it has just filled, in a process of its own: loads the two addons and multiplies
// two small matrices in float32 and in bfloat16. Prints one line of JSON; exits with an error where something is wrong.
'use strict';
const util = require('node:util');
util.isNullOrUndefined ??= (value) => value === null || value === undefined; // Node >= 23 removed both,
util.isArray ??= Array.isArray; // tfjs-node 4.22 calls them

const native = require('./native.node');
native.muteStderr(true); // TensorFlow's banners
let tf;
try {
  tf = require('@tensorflow/tfjs-node-gpu');
} finally {
  native.muteStderr(false);
}
const backend = tf.backend();
const { binding } = backend;
const TYPE = { float32: 1, bfloat16: 14 }; // TensorFlow's DataType

const type = (name, value) => ({ name, type: binding.TF_ATTR_TYPE, value });
const flag = (name) => ({ name, type: binding.TF_ATTR_BOOL, value: false });
const run = (op, attributes, inputs) => binding.executeOp(op, attributes, inputs, 1)[0].id;
const cast = (from, to, input) =>
  run('Cast', [type('SrcT', TYPE[from]), type('DstT', TYPE[to]), flag('Truncate')], [input]);

function product(dtype) {
  const a = binding.createTensor([2, 2], TYPE.float32, new Float32Array([1, 2, 3, 4]));
  const b = binding.createTensor([2, 2], TYPE.float32, new Float32Array([5, 6, 7, 8]));
  const [x, y] = dtype === 'float32' ? [a, b] : [cast('float32', dtype, a), cast('float32', dtype, b)];
  const z = run('MatMul', [type('T', TYPE[dtype]), flag('transpose_a'), flag('transpose_b')], [x, y]);
  return [...binding.tensorDataSync(dtype === 'float32' ? z : cast(dtype, 'float32', z))].join();
}

for (const dtype of Object.keys(TYPE)) {
  const got = product(dtype);
  if (got !== '19,22,43,50') throw new Error(`a ${dtype} MatMul must give 19,22,43,50, got ${got}`);
}
console.log(
  JSON.stringify({ version: binding.TF_Version, device: backend.isUsingGpuDevice ? 'GPU' : 'CPU' }),
);
