import { readFile } from 'node:fs/promises';

import { describe, expect, it } from 'vitest';

import { UserError } from '../../../src/errors.js';
import { consumersOf, nodeNamed, openOnnx, producerOf } from '../../../src/model/weights/onnx.js';
import { digests, expected, fixturePath, temporaryFile } from './weightsFixture.js';

describe('openOnnx', () => {
  it('reads raw, packed float and varint initializers exactly', async () => {
    const onnx = await openOnnx(fixturePath('fields.onnx'));
    expect(await digests(onnx)).toEqual(expected.onnx);
    await onnx.close();
  });

  it('reads nodes with their edges and attributes', async () => {
    const onnx = await openOnnx(fixturePath('fields.onnx'));
    const resize = nodeNamed(onnx, '/a/Resize');
    expect(resize).toMatchObject({ type: 'Resize', inputs: ['x', '', '', 'ints'], outputs: ['y'] });
    expect(Object.fromEntries(resize.attributes)).toEqual({
      mode: 'cubic',
      cubic_coeff_a: -0.75,
      axes: [2, -1],
      exclude_outside: 1,
      scales: [0.5, 2],
    });
    expect(producerOf(onnx, 'y')).toBe(resize);
    expect(producerOf(onnx, 'x')).toBeUndefined();
    expect(consumersOf(onnx, 'ints')).toEqual([resize]);
    const value = new Uint8Array(BigInt64Array.of(-7n).buffer);
    const constant = nodeNamed(onnx, '/a/Constant').attributes.get('value');
    expect(constant).toEqual({ dtype: 'int64', shape: [], data: value });
    await onnx.close();
  });

  it('names the nearest node when one is missing', async () => {
    const onnx = await openOnnx(fixturePath('fields.onnx'));
    expect(() => nodeNamed(onnx, '/a/Resise')).toThrow(/"\/a\/Resise", got none \(nearest are \/a\/Resize/);
    await onnx.close();
  });

  it('never takes a truncated file for a whole one', async () => {
    const whole = await readFile(fixturePath('fields.onnx'));
    for (let length = 0; length < whole.length - 8; length += 7) {
      await expect(openOnnx(await temporaryFile('cut.onnx', whole.subarray(0, length)))).rejects.toThrow(
        UserError,
      );
    }
  });

  it('refuses a file that is no protobuf, and one without a graph', async () => {
    const text = await temporaryFile('a.onnx', 'version https://git-lfs.github.com/spec/v1\n');
    await expect(openOnnx(text)).rejects.toThrow(`${text}: `);
    await expect(openOnnx(await temporaryFile('b.onnx', Uint8Array.of(8, 7)))).rejects.toThrow(
      'must hold a graph',
    );
    const endless = await temporaryFile('c.onnx', new Uint8Array(20).fill(0xff));
    await expect(openOnnx(endless)).rejects.toThrow('got one without an end');
  });
});
