import { describe, expect, it } from 'vitest';
import { UserError } from '../../../src/errors.js';
import { Llama, llamaConfig } from '../../../src/model/language/llama.js';
import { Graph } from '../../../src/tensorflow/graph.js';
import { TINY_LLAMA, tinyLlama } from '../../helpers/tinyModels.js';

describe('llamaConfig', () => {
  const json = {
    model_type: 'llama',
    hidden_size: 32,
    intermediate_size: 48,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    rms_norm_eps: 1e-5,
    vocab_size: 50,
  };

  it('reads sizes, and knows the defaults of transformers', () => {
    expect(llamaConfig(json)).toEqual({
      ...TINY_LLAMA,
      kvHeads: 4,
      ropeTheta: 10000,
      maxPositions: 2048,
    });
    const given = {
      num_key_value_heads: 2,
      rope_theta: 100,
      max_position_embeddings: 64,
      head_dim: 16,
      tie_word_embeddings: true,
    };
    expect(llamaConfig({ ...json, ...given })).toEqual({ ...TINY_LLAMA, headWidth: 16, tiedHead: true });
  });

  it.each([
    [{ model_type: 'gpt2' }, 'llama: config.json must have model_type "llama", got "gpt2"'],
    [{ rope_scaling: { type: 'linear' } }, 'llama: rope_scaling is not supported, got {"type":"linear"}'],
    [{ hidden_size: undefined }, 'llama: config.json needs a positive number "hidden_size", got undefined'],
    [{ vocab_size: '50' }, 'llama: config.json needs a positive number "vocab_size", got "50"'],
    [{ num_key_value_heads: 3 }, 'llama: num_key_value_heads must divide num_attention_heads 4, got 3'],
  ])('refuses %o', (change, message) => {
    const read = (): unknown => llamaConfig({ ...json, ...change });
    expect(read).toThrow(UserError);
    expect(read).toThrow(message);
  });
});

describe('weights', () => {
  it.each([true, false])('with a tied head %s are every tensor of the file, each once', (tiedHead) => {
    const config = { ...TINY_LLAMA, tiedHead };
    const sources = new Llama(new Graph(), config, 'float32').weights().flatMap((weight) => weight.sources);
    expect([...sources].sort()).toEqual(tinyLlama(config).source.names().sort());
  });
});
