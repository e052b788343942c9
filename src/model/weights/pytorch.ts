/**
 * PyTorch's own files (`.pth`, `.pt`, `.bin`), read without PyTorch: the pickle inside is taken apart as data, never
 * run, and tensors are read by byte range when they are asked for.
 * Source: pytorch, torch/serialization.py, `_load` and `_legacy_load`.
 */
import { UserError } from '../../errors.js';
import { allowedGlobals, NamedStorages } from './pytorchGlobals.js';
import { MAX_PICKLE_BYTES, readLegacy } from './pytorchLegacy.js';
import { unpickle } from './pytorchPickle.js';
import { PickleCursor } from './pytorchPickleCursor.js';
import type { PyTorchStorage } from './pytorchStorage.js';
import { describeValue, malformed, PyTorchTensor, requireTree, type PyTorchValue } from './pytorchValues.js';
import { PyTorchZip } from './pytorchZip.js';
import { weightSource, type TensorInfo, type WeightSource } from './weights.js';
import { RangeFile } from './weightsFile.js';

/** What a PyTorch file holds, as data; tensors are read while it is open. Whoever opened it closes it. */
export interface PyTorchObject {
  readonly path: string;
  readonly value: PyTorchValue;
  close(): Promise<void>;
}

/** Options of `openPyTorch`. */
export interface PyTorchOptions {
  /**
   * The key of the top level below which tensors get their names; '' for the top level itself. By default the first of
   * `model`, `state_dict` and `module` that holds tensors, else the top level.
   */
  readonly root?: string;
}

interface NamedTensor extends TensorInfo {
  readonly tensor: PyTorchTensor;
}

const ROOTS = ['model', 'state_dict', 'module'];
const MAX_NAME_CHARACTERS = 2 ** 26; // of all names together, each with all its parts

/**
 * Opens a PyTorch file as a source of weights; nested keys are joined with ".", of lists their positions.
 * float64 reads as float32, int16 as int32; a strided view is read with all that lies between its first and last element.
 *
 * @throws UserError naming the file and its fault: no PyTorch file, damaged, big-endian, a pickle that wants what is not
 * on the allow-list (with its module and name), no such root
 */
export async function openPyTorch(path: string, { root }: PyTorchOptions = {}): Promise<WeightSource> {
  const object = await readPyTorchObject(path);
  try {
    const named = [...nameTensors(path, chooseRoot(path, object.value, root))];
    const tensors = named.map(([name, tensor]): NamedTensor => {
      const { dtype, shape } = tensor;
      return { name, dtype, shape, tensor };
    });
    const readBytes = async ({ tensor }: NamedTensor) => (await tensor.read()).data;
    return weightSource({ path, metadata: {}, tensors, readBytes, close: () => object.close() });
  } catch (error) {
    await object.close();
    throw error;
  }
}

/**
 * Reads all of a PyTorch file but its tensors' bytes: state such as `epoch`, `config` and `optimizer`.
 *
 * @throws UserError as `openPyTorch` does
 */
export async function readPyTorchObject(path: string): Promise<PyTorchObject> {
  return RangeFile.openWith(path, async (file) => {
    const value = requireTree(path, await readObject(file));
    return { path, value, close: () => file.close() };
  });
}

async function readObject(file: RangeFile): Promise<unknown> {
  const start = Buffer.from(await file.read(0, Math.min(4, file.sizeBytes)));
  if (start.toString('latin1') === 'PK\x03\x04') return readZip(file);
  if (start[0] === 0x80) return readLegacy(file);
  throw malformed(file.path, 'must begin as torch.save’s files do', `0x${start.toString('hex')}`);
}

async function readZip(file: RangeFile): Promise<unknown> {
  const zip = await PyTorchZip.open(file);
  const folder = findFolder(file, zip);
  const read = (name: string, bytes: number) => zip.read(`${folder}/${name}`, 0, bytes);
  const orderBytes = zip.size(`${folder}/byteorder`); // absent before torch 2.1, which knew little-endian only
  const order =
    orderBytes === undefined ? 'little' : Buffer.from(await read('byteorder', Math.min(orderBytes, 8)));
  if (order.toString() !== 'little')
    throw malformed(file.path, 'must be little-endian', JSON.stringify(order.toString()));
  const pickleBytes = zip.size(`${folder}/data.pkl`) ?? 0;
  if (pickleBytes > MAX_PICKLE_BYTES) {
    throw malformed(file.path, `data.pkl must have at most ${MAX_PICKLE_BYTES} bytes`, pickleBytes);
  }
  const storages = zipStorages(file, zip, folder);
  const cursor = new PickleCursor(file.path, await read('data.pkl', pickleBytes), pickleBytes);
  const names = { globals: allowedGlobals(file.path), persistent: (id: unknown) => storages.find(id) };
  return unpickle(cursor, names);
}

/** The folder that everything in the zip is in; its name is the writer's choice. */
function findFolder(file: RangeFile, zip: PyTorchZip): string {
  const pickles = [...zip.names()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  const [pickle] = pickles;
  if (pickle !== undefined && pickles.length === 1) return pickle.slice(0, -'/data.pkl'.length);
  throw malformed(file.path, 'must be a zip with one NAME/data.pkl', `${pickles.length} of them`);
}

/** Storages that are members `NAME/data/KEY`. */
function zipStorages(file: RangeFile, zip: PyTorchZip, folder: string): NamedStorages<PyTorchStorage> {
  return new NamedStorages(file.path, file.sizeBytes, (key, element, count) => {
    const member = `${folder}/data/${key}`;
    const bytes = zip.size(member);
    if (bytes === undefined || Math.floor(bytes / element.bytes) !== count) {
      const rule = `storage "${key}" must have ${count} elements of ${element.bytes} bytes`;
      throw malformed(file.path, rule, bytes === undefined ? 'none' : `${bytes} bytes`);
    }
    const read = (position: number, length: number) => zip.read(member, position, length);
    return { key, element, count, read };
  });
}

function chooseRoot(path: string, value: PyTorchValue, root: string | undefined): PyTorchValue {
  if (!(value instanceof Map)) {
    throw new UserError(`${path}: must hold a dict, got ${describeValue(value)} (save a state dict)`);
  }
  const top = value as ReadonlyMap<unknown, PyTorchValue>;
  if (root === '') return top as PyTorchValue;
  const wanted = root === undefined ? ROOTS : [root];
  for (const key of wanted) {
    const below = top.get(key);
    const holdsTensors =
      below instanceof Map && nameTensors(path, below as PyTorchValue).next().done !== true;
    if (below !== undefined && holdsTensors) return below;
  }
  if (root === undefined) return top as PyTorchValue;
  const got = [...top.keys()].slice(0, 10).map(describeValue).join(', ');
  throw new UserError(`${path}: must have tensors below "${root}", got ${got} (name another root)`);
}

/** All tensors below a value, with their names, in the file's order. */
function* nameTensors(path: string, root: PyTorchValue): Generator<[string, PyTorchTensor]> {
  let characters = 0;
  function* walk(value: PyTorchValue, name: string): Generator<[string, PyTorchTensor]> {
    characters += name.length;
    if (characters > MAX_NAME_CHARACTERS) {
      throw malformed(path, `names must have at most ${MAX_NAME_CHARACTERS} characters in all`, 'more');
    }
    if (value instanceof PyTorchTensor) yield [name, value];
    if (!Array.isArray(value) && !(value instanceof Map)) return;
    for (const [key, below] of (value as ReadonlyMap<unknown, PyTorchValue>).entries()) {
      yield* walk(below, name === '' ? String(key) : `${name}.${String(key)}`);
    }
  }
  yield* walk(root, '');
}
