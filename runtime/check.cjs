// Run by `minigpt4 setup` in the folder it has just filled, in a process of its own: loads the two addons, multiplies two
// small matrices in float32 and in bfloat16, and resizes a row of three pixels. Prints one line of JSON; exits with an error where something is wrong.
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

/** 0, 100 and 200 at three positions, widened to five: with AVX2 and without it the numbers must be Pillow's. */
async function checkResize() {
  const pixels = new Uint8Array(27).map((_, i) => 100 * (Math.floor(i / 3) % 3));
  const levels = new Float32Array(768).map((_, i) => i % 256);
  const place = { width: 3, height: 3, layout: 0, left: 0, top: 0, boxWidth: 3, boxHeight: 3, size: 5 };
  for (const wide of [true, false]) {
    const row = (await native.resizeNormalise({ data: pixels, ...place, levels, wide })).slice(0, 5).join();
    if (row !== '0,31,100,169,208') throw new Error(`a resized row must be 0,31,100,169,208, got ${row}`);
  }
}

checkResize().then(() =>
  console.log(
    JSON.stringify({ version: binding.TF_Version, device: backend.isUsingGpuDevice ? 'GPU' : 'CPU' }),
  ),
);
