import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { UserError } from '../../../src/errors.js';
import { createTokenizer, loadTokenizer, type Tokenizer } from '../../../src/model/tokenizer/tokenizer.js';
import { writeTokenizerFiles, type TokenizerFiles } from '../../../src/model/tokenizer/tokenizerFiles.js';
import {
  ggufTokenizerConfig,
  ggufTokenizerFiles,
  ggufTokenizerJson,
} from '../../../src/model/tokenizer/tokenizerGguf.js';
import {
  parseSentencePiece,
  sentencePieceTokenizerFiles,
} from '../../../src/model/tokenizer/tokenizerSentencePiece.js';

const fixtures = new URL('../../fixtures/tokenizers/', import.meta.url).pathname;
const llama = join(fixtures, 'tiny-llama');

interface Case {
  readonly text: string;
  readonly ids: number[];
}
interface Decoding {
  readonly text: string;
  readonly ids: number[];
  readonly skipped?: string;
}
interface SmolExpected {
  readonly cases: (Case & { readonly gpt2Ids: number[]; readonly decoded: string })[];
  readonly literals: Case[];
  readonly decodes: Decoding[];
}
interface LlamaExpected {
  readonly merges: [string, string][];
  readonly tokenizer: (Case & { readonly decoded: string })[];
  readonly special_ids: { readonly bos: number; readonly eos: number };
  readonly fuzz: Case[];
  readonly literals: Case[];
  readonly decodes: Decoding[];
}

async function readJson<T>(path: string): Promise<T> {
  return JSON.parse(await readFile(path, 'utf8')) as T; // the fixtures' shape is scripts/fixtures/tokenizers.py's
}

/** SmolLM2's key-values as its GGUF has them; every token after the base ones is one merge, in order. */
async function smolKeyValues(): Promise<Map<string, unknown>> {
  const packed = gunzipSync(await readFile(join(fixtures, 'smollm2-vocabulary.json.gz'))).toString('utf8');
  const { keyValues, baseTokens, specials, merges } = JSON.parse(packed) as {
    keyValues: Record<string, unknown>;
    baseTokens: string[];
    specials: number;
    merges: string[];
  };
  const tokens = [...baseTokens, ...merges.map((merge) => merge.replace(' ', ''))];
  return new Map<string, unknown>([
    ...Object.entries(keyValues),
    ['tokenizer.ggml.tokens', tokens],
    ['tokenizer.ggml.token_type', tokens.map((_, id) => (id < specials ? 3 : 1))],
    ['tokenizer.ggml.merges', merges],
  ]);
}

function mismatches(cases: readonly Case[], encode: (text: string) => number[]) {
  const got = cases.map(({ text, ids }) => ({ text, ids, got: encode(text) }));
  return got.filter((one) => JSON.stringify(one.ids) !== JSON.stringify(one.got));
}

let scratch: string;
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'tokenizer-'));
});
afterAll(() => rm(scratch, { recursive: true }));

describe('SmolLM2 from GGUF key-values', () => {
  let expected: SmolExpected;
  let keyValues: Map<string, unknown>;
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    expected = await readJson(join(fixtures, 'smollm2-expected.json'));
    keyValues = await smolKeyValues();
    tokenizer = createTokenizer(ggufTokenizerFiles(keyValues));
  });

  it('ids equal the Rust tokenizers on odd, random and chat texts', () => {
    expect(expected.cases.length).toBeGreaterThan(270);
    expect(mismatches(expected.cases, (text) => tokenizer.encode(text))).toEqual([]);
  });

  it('ids of default-models.md come out', () => {
    const text = 'The quick brown fox jumps over the lazy dog. A photo of a cat sitting on a table.';
    const ids = [504, 2365, 6354, 16438, 27003, 690, 260, 23790, 2767, 30];
    expect(tokenizer.encode(text)).toEqual([...ids, 330, 8003, 282, 253, 2644, 8001, 335, 253, 3252, 30]);
  });

  it('pre-tokenizer "default" is plain GPT-2, as transformers reads GGUF files', () => {
    const plain = createTokenizer(
      ggufTokenizerFiles(new Map(keyValues).set('tokenizer.ggml.pre', 'default')),
    );
    const cases = expected.cases.map(({ text, gpt2Ids }) => ({ text, ids: gpt2Ids }));
    expect(mismatches(cases, (text) => plain.encode(text))).toEqual([]);
    expect(expected.cases.some((one) => one.ids.length !== one.gpt2Ids.length)).toBe(true);
  });

  it('decoding gives the reference text, with and without special tokens', () => {
    for (const { ids, decoded } of expected.cases) expect(tokenizer.decode(ids)).toBe(decoded);
    for (const { ids, text, skipped } of expected.decodes) {
      expect(tokenizer.decode(ids)).toBe(text);
      expect(tokenizer.decode(ids, { skipSpecial: true })).toBe(skipped);
    }
  });

  it('encode finds special tokens in the text, encodeLiteral leaves them text', () => {
    expect(tokenizer.encode('<|im_start|>')).toEqual([1]);
    expect(mismatches(expected.literals, (text) => tokenizer.encodeLiteral(text))).toEqual([]);
    const injected = tokenizer.encodeLiteral('<|im_end|>');
    expect(injected.filter((id) => id < 17)).toEqual([]);
    expect(tokenizer.decode(injected)).toBe('<|im_end|>');
  });

  it('vocabulary size and special ids are the file’s', () => {
    expect(tokenizer).toMatchObject({ vocabSize: 49152, bosId: 1, eosId: 2 });
    expect(tokenizer.tokenId('<|endoftext|>')).toBe(0);
    expect(tokenizer.tokenId('no such token')).toBeUndefined();
  });

  it('the written tokenizer.json and tokenizer_config.json load as the same tokenizer', async () => {
    await writeTokenizerFiles(scratch, ggufTokenizerFiles(keyValues));
    const loaded = await loadTokenizer(scratch);
    expect(loaded.sha256).toBe(tokenizer.sha256);
    expect(loaded).toMatchObject({ bosId: 1, eosId: 2, vocabSize: 49152 });
    expect(mismatches(expected.cases, (text) => loaded.encode(text))).toEqual([]);
    const config = await readJson<Record<string, unknown>>(join(scratch, 'tokenizer_config.json'));
    expect(config).toMatchObject({
      bos_token: '<|im_start|>',
      eos_token: '<|im_end|>',
      add_bos_token: false,
    });
    expect(config.chat_template).toContain("'<|im_start|>assistant");
  });

  it('a stated add_bos_token puts the token into the written post-processor', () => {
    expect(ggufTokenizerJson(keyValues).post_processor).toBeNull();
    const stated = new Map(keyValues).set('tokenizer.ggml.add_bos_token', true);
    expect(ggufTokenizerJson(stated).post_processor).toMatchObject({
      type: 'TemplateProcessing',
      special_tokens: { '<|im_start|>': { ids: [1] } },
    });
    expect(createTokenizer(ggufTokenizerFiles(stated)).encode('a')).toEqual(tokenizer.encode('a'));
  });

  it('hashes of different tokenizers differ', () => {
    const other = createTokenizer(
      ggufTokenizerFiles(new Map(keyValues).set('tokenizer.ggml.eos_token_id', 0)),
    );
    expect(other.sha256).toMatch(/^[0-9a-f]{64}$/);
    expect(other.sha256).not.toBe(tokenizer.sha256);
  });

  it.each([
    [
      'tokenizer.ggml.pre',
      'llama-bpe',
      /tokenizer\.ggml\.pre must be one of default, gpt-2, smollm, got "llama-bpe"/,
    ],
    ['tokenizer.ggml.pre', 'constructor', /tokenizer\.ggml\.pre must be one of/],
    ['tokenizer.ggml.model', 't5', /model must be gpt2 or llama, got "t5"/],
    ['tokenizer.ggml.tokens', undefined, /tokens must be a list of texts, got none/],
    ['tokenizer.ggml.merges', ['abc'], /two tokens with one space, got "abc"/],
    ['tokenizer.ggml.token_type', [1, 2], /must be a list of 49152 numbers, got 2/],
    ['tokenizer.ggml.bos_token_id', 99999, /bos_token_id must be below 49152, got 99999/],
    ['tokenizer.ggml.eos_token_id', 1n << 60n, /eos_token_id must be below 49152, got 1152921504606846976/],
  ])('%s = %s is refused with the reason', (key, value, message) => {
    const broken = new Map(keyValues).set(key, value);
    expect(() => createTokenizer(ggufTokenizerFiles(broken))).toThrow(message);
    expect(() => createTokenizer(ggufTokenizerFiles(broken))).toThrow(UserError);
  });
});

describe('SentencePiece', () => {
  let expected: LlamaExpected;
  beforeAll(async () => {
    expected = await readJson(join(llama, 'expected.json'));
  });

  describe.each(['tokenizer.model', 'tokenizer.json', '.'])('tiny LLaMA from %s', (name) => {
    let tokenizer: Tokenizer;
    beforeAll(async () => {
      tokenizer = await loadTokenizer(join(llama, name));
    });

    it('ids equal the recorded ones of the reference system', () => {
      expect(mismatches(expected.tokenizer, (text) => tokenizer.encode(text))).toEqual([]);
    });

    it('ids equal SentencePiece on odd and 200 random strings', () => {
      expect(expected.fuzz.length).toBeGreaterThan(270);
      expect(mismatches(expected.fuzz, (text) => tokenizer.encode(text))).toEqual([]);
    });

    it('literal ids equal SentencePiece, which never matches control tokens in text', () => {
      expect(mismatches(expected.literals, (text) => tokenizer.encodeLiteral(text))).toEqual([]);
      expect(tokenizer.encode('<s></s>')).toEqual([1, 2]);
    });

    it('decoding gives the reference text, broken byte sequences included', () => {
      for (const { ids, decoded } of expected.tokenizer) expect(tokenizer.decode(ids)).toBe(decoded);
      for (const { ids, text } of expected.decodes) expect(tokenizer.decode(ids)).toBe(text);
    });

    it('decoding undoes encoding', () => {
      for (const { text } of expected.fuzz) {
        if (text.includes('▁')) continue; // the space mark itself decodes as a space
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
      }
    });

    it('special ids and size are the reference’s; an id beyond the vocabulary decodes to nothing', () => {
      const { bos, eos } = expected.special_ids;
      expect(tokenizer).toMatchObject({ vocabSize: 600, bosId: bos, eosId: eos });
      expect(tokenizer.decode([])).toBe('');
      expect(tokenizer.decode([600])).toBe('');
      expect(tokenizer.decode([1, 264, 2, 600], { skipSpecial: true })).toBe('a');
    });
  });

  it('a GGUF of kind "llama" gives the same ids', async () => {
    const { pieces } = parseSentencePiece(await readFile(join(llama, 'tokenizer.model')), 'tokenizer.model');
    const keyValues = new Map<string, unknown>([
      ['tokenizer.ggml.model', 'llama'],
      ['tokenizer.ggml.tokens', pieces.map((piece) => piece.text)],
      ['tokenizer.ggml.scores', Float32Array.from(pieces, (piece) => piece.score)],
      ['tokenizer.ggml.token_type', Int32Array.from(pieces, (piece) => piece.kind)],
      ['tokenizer.ggml.bos_token_id', 1],
      ['tokenizer.ggml.eos_token_id', 2],
    ]);
    const tokenizer = createTokenizer(ggufTokenizerFiles(keyValues));
    expect(mismatches(expected.fuzz, (text) => tokenizer.encode(text))).toEqual([]);
    expect(ggufTokenizerConfig(keyValues)).toMatchObject({ bos_token: '<s>', add_bos_token: true });
  });

  it('vocabulary, merges and every other part equal the tokenizer.json that transformers made', async () => {
    const model = parseSentencePiece(await readFile(join(llama, 'tokenizer.model')), 'tokenizer.model');
    const theirs = await readJson<TokenizerFiles['json']>(join(llama, 'tokenizer.json'));
    const ours = sentencePieceTokenizerFiles(model, 'tokenizer.model').json;
    // The tiny model's own file is an older transformers', which orders the splits of one piece by their ids
    expect(ours).toEqual({ ...theirs, model: { ...theirs.model, merges: expected.merges } });
    expect(new Set(ours.model.merges?.map(String))).toEqual(new Set(theirs.model.merges?.map(String)));
    expect(expected.merges).toHaveLength(308);
  });

  it('a unigram model is refused, saying so', async () => {
    await expect(loadTokenizer(join(fixtures, 'unigram.model'))).rejects.toThrow(
      /must be a SentencePiece BPE model, got unigram/,
    );
  });

  it('a model that rewrites its text is refused', async () => {
    const bytes = await readFile(join(llama, 'tokenizer.model'));
    const normalizer = Buffer.from([0x1a, 5, 0x12, 3, 1, 2, 3]); // normalizer_spec { precompiled_charsmap: 3 bytes }
    const identity = bytes.indexOf('identity') - 4;
    expect(bytes[identity]).toBe(0x1a);
    const changed = Buffer.concat([bytes.subarray(0, identity), normalizer]);
    expect(() => parseSentencePiece(changed, 'x.model')).toThrow(
      /x\.model: must leave the text as it is, got a character map/,
    );
  });

  it('a cut file, a download pointer and an empty file give messages, never a hang', async () => {
    const bytes = await readFile(join(llama, 'tokenizer.model'));
    for (const cut of [1, 7, 100, 5000, bytes.length - 1]) {
      expect(() => parseSentencePiece(bytes.subarray(0, cut), 'x.model')).toThrow(UserError);
    }
    expect(() => parseSentencePiece(Buffer.from('version https://git-lfs'), 'x.model')).toThrow(UserError);
    expect(() => parseSentencePiece(new Uint8Array(), 'x.model')).toThrow(/got no pieces/);
    expect(() => parseSentencePiece(Buffer.alloc(64, 0xff), 'x.model')).toThrow(/at most 10 bytes/);
  });
});

describe('loadTokenizer', () => {
  it('a folder without tokenizer.json reads tokenizer.model, and the names in tokenizer_config.json', async () => {
    const folder = await mkdtemp(join(scratch, 'model-'));
    await cp(join(llama, 'tokenizer.model'), join(folder, 'tokenizer.model'));
    expect(await loadTokenizer(folder)).toMatchObject({ bosId: 1, eosId: 2 });
    await writeFile(
      join(folder, 'tokenizer_config.json'),
      '{"bos_token": {"content": "</s>"}, "eos_token": ""}',
    );
    expect(await loadTokenizer(folder)).toMatchObject({ bosId: 2, eosId: 2 });
  });

  it('special_tokens_map.json names what tokenizer_config.json does not', async () => {
    const folder = await mkdtemp(join(scratch, 'map-'));
    await cp(join(llama, 'tokenizer.json'), join(folder, 'tokenizer.json'));
    expect(await loadTokenizer(folder)).toMatchObject({ bosId: undefined, eosId: undefined });
    await writeFile(
      join(folder, 'special_tokens_map.json'),
      '{"bos_token": "<s>", "eos_token": {"content": "</s>"}}',
    );
    expect(await loadTokenizer(folder)).toMatchObject({ bosId: 1, eosId: 2 });
    await writeFile(join(folder, 'tokenizer_config.json'), '{"bos_token": "<none>"}');
    await expect(loadTokenizer(folder)).rejects.toThrow(/bos_token must be in the vocabulary, got "<none>"/);
  });

  it.each([
    ['missing', undefined, /no such file/],
    ['folder without a tokenizer', '', /must hold tokenizer\.json or tokenizer\.model, got neither/],
    ['tokenizer.txt', 'x', /must be a folder, a tokenizer\.json, a \.gguf or a \.model/],
    ['cut.json', '{"model": {', /must be JSON/],
    ['other.json', '{"a": 1}', /must be a Hugging Face tokenizer/],
    ['novocab.json', '{"model": {"type": "BPE"}}', /model\.vocab must be an object or a list, got undefined/],
    ['added.json', '{"model": {"vocab": {}}, "added_tokens": [1]}', /added_tokens must be a list/],
  ])('%s is refused with what to do', async (name, content, message) => {
    const folder = await mkdtemp(join(scratch, 'bad-'));
    if (content !== undefined && content !== '') await writeFile(join(folder, name), content);
    const path = content === '' ? folder : join(folder, name);
    await expect(loadTokenizer(path)).rejects.toThrow(message);
    await expect(loadTokenizer(path)).rejects.toThrow(UserError);
  });
});
