/**
 * An unpickler for data alone: a stack machine of the opcodes that `torch.save` writes (protocols 2 to 4), with every
 * count bounded and every name held against the allow-list before it means anything.
 * Source: cpython, Lib/pickle.py and Lib/pickletools.py; pytorch, torch/_weights_only_unpickler.py.
 */
import { buildState, refused, requireKey, type AllowedGlobal } from './pytorchGlobals.js';
import type { PickleCursor } from './pytorchPickleCursor.js';
import { PickleStack } from './pytorchPickleStack.js';
import { describeValue, malformed } from './pytorchValues.js';

/** What a pickle may name; without any, it holds plain values alone. */
export interface PickleNames {
  /** Classes and functions, by `module.name`. */
  readonly globals: ReadonlyMap<string, AllowedGlobal>;
  /** The thing outside of the pickle that `id` names. @throws UserError if there is none */
  persistent(id: unknown): unknown;
}

const HIGHEST_PROTOCOL = 5;

/**
 * Runs the pickle at the cursor, to its end; the cursor then stands behind it.
 *
 * @returns lists as arrays, tuples as frozen arrays, dicts as maps; hold it against `requireTree` before use
 * @throws UserError naming the file and what is damaged, too large, or not allowed
 * @throws NeedsMoreBytes if the cursor's bytes end first, though its file goes on
 */
export function unpickle(cursor: PickleCursor, names?: PickleNames): unknown {
  const machine = new PickleMachine(cursor, names);
  for (;;) {
    const opcode = cursor.uint8();
    if (opcode === 0x2e) return machine.stop();
    machine.step(opcode);
  }
}

class PickleMachine {
  private readonly stack: PickleStack;
  private readonly path: string;

  constructor(
    private readonly cursor: PickleCursor,
    private readonly names: PickleNames | undefined,
  ) {
    this.path = cursor.path;
    this.stack = new PickleStack(cursor.path);
  }

  /** The result: the one value that is left. */
  stop(): unknown {
    return this.stack.last();
  }

  /** Runs one opcode. */
  step(opcode: number): void {
    if (this.pushConstant(opcode) || this.changeStack(opcode) || this.useNames(opcode)) return;
    throw refused(this.path, `opcode 0x${opcode.toString(16)}, which no state dict needs`);
  }

  /** Opcodes that name or make something; their names in pickle.py stand beside them. */
  private useNames(opcode: number): boolean {
    const { cursor } = this;
    switch (String.fromCharCode(opcode)) {
      case 'c': // GLOBAL
        this.stack.push(this.find(cursor.line(), cursor.line()));
        break;
      case '\x93': // STACK_GLOBAL
        this.pushStackGlobal();
        break;
      case 'R': // REDUCE
        this.reduce();
        break;
      case '\x81': // NEWOBJ
        this.create();
        break;
      case 'b': // BUILD
        this.build();
        break;
      case 'Q': // BINPERSID
        this.stack.push(this.persistent(this.stack.pop()));
        break;
      case 'i': // INST
        throw refused(this.path, `to call ${cursor.line()}.${cursor.line()}`);
      default:
        return false;
    }
    return true;
  }

  /** Opcodes that push a value of their own. */
  private pushConstant(opcode: number): boolean {
    const value = this.cursor.constant(opcode);
    if (value !== undefined) this.stack.push(value);
    return value !== undefined;
  }

  /** Opcodes that work on the stack and the memo alone. */
  private changeStack(opcode: number): boolean {
    const { cursor } = this;
    switch (String.fromCharCode(opcode)) {
      case '\x80': // PROTO
        this.checkProtocol(cursor.uint8());
        break;
      case '\x95': // FRAME
        cursor.frame();
        break;
      case '(': // MARK
        this.stack.mark();
        break;
      case '0': // POP
        this.stack.pop();
        break;
      case ']': // EMPTY_LIST
        this.stack.pushObject([]);
        break;
      case '}': // EMPTY_DICT
        this.stack.pushObject(new Map());
        break;
      case ')': // EMPTY_TUPLE
        this.stack.pushTuple(0);
        break;
      case '\x85': // TUPLE1
        this.stack.pushTuple(1);
        break;
      case '\x86': // TUPLE2
        this.stack.pushTuple(2);
        break;
      case '\x87': // TUPLE3
        this.stack.pushTuple(3);
        break;
      case 't': // TUPLE
        this.stack.pushObject(Object.freeze(this.stack.popMark()));
        break;
      default:
        return this.changeContainer(opcode);
    }
    return true;
  }

  /** Opcodes that fill a list, a dict or the memo, or read the memo. */
  private changeContainer(opcode: number): boolean {
    const { cursor } = this;
    switch (String.fromCharCode(opcode)) {
      case 'a': // APPEND
        this.append([this.stack.pop()]);
        break;
      case 'e': // APPENDS
        this.append(this.stack.popMark());
        break;
      case 's': // SETITEM
        this.setItems(this.stack.popCount(2));
        break;
      case 'u': // SETITEMS
        this.setItems(this.stack.popMark());
        break;
      case 'q': // BINPUT
        this.stack.remember(cursor.uint8());
        break;
      case 'r': // LONG_BINPUT
        this.stack.remember(cursor.uint32());
        break;
      case '\x94': // MEMOIZE
        this.stack.remember();
        break;
      case 'h': // BINGET
        this.stack.recall(cursor.uint8());
        break;
      case 'j': // LONG_BINGET
        this.stack.recall(cursor.uint32());
        break;
      default:
        return false;
    }
    return true;
  }

  private checkProtocol(protocol: number): void {
    if (protocol >= 2 && protocol <= HIGHEST_PROTOCOL) return;
    throw malformed(this.path, `pickle protocol must be 2 to ${HIGHEST_PROTOCOL}`, protocol);
  }

  private append(values: readonly unknown[]): void {
    const list = this.stack.top();
    if (!Array.isArray(list) || Object.isFrozen(list)) {
      throw malformed(this.path, 'only lists can be appended to', describeValue(list));
    }
    for (const value of values) list.push(value);
  }

  private setItems(items: readonly unknown[]): void {
    const dict = this.stack.top();
    if (!(dict instanceof Map) || items.length % 2 !== 0) {
      throw malformed(this.path, 'items must be pairs, for a dict', describeValue(dict));
    }
    for (let i = 0; i < items.length; i += 2) dict.set(requireKey(this.path, items[i]), items[i + 1]);
  }

  private find(module: string, name: string): AllowedGlobal {
    const global = this.names?.globals.get(`${module}.${name}`);
    if (global === undefined) throw refused(this.path, `to use ${shorten(module)}.${shorten(name)}`);
    return global;
  }

  private pushStackGlobal(): void {
    const [module, name] = this.stack.popCount(2);
    if (typeof module !== 'string' || typeof name !== 'string') {
      throw malformed(this.path, 'module and name must be texts', describeValue(module));
    }
    this.stack.push(this.find(module, name));
  }

  private reduce(): void {
    const [callee, args] = this.stack.popCount(2);
    const global = this.requireGlobal(callee);
    if (global.call === undefined || !Array.isArray(args)) {
      throw refused(this.path, `to call ${global.name} with ${describeValue(args)}`);
    }
    this.stack.pushObject(global.call(args as unknown[]));
  }

  private create(): void {
    const [callee, args] = this.stack.popCount(2);
    const global = this.requireGlobal(callee);
    if (global.create === undefined || !Array.isArray(args) || args.length > 0) {
      throw refused(this.path, `to make a ${global.name} of ${describeValue(args)}`);
    }
    this.stack.pushObject(global.create());
  }

  private build(): void {
    const state = this.stack.pop();
    const target = this.stack.top();
    buildState(this.path, target, state);
  }

  private requireGlobal(value: unknown): AllowedGlobal {
    for (const global of this.names?.globals.values() ?? []) if (global === value) return global;
    throw refused(this.path, `to call ${describeValue(value)}`);
  }

  private persistent(id: unknown): unknown {
    if (this.names === undefined) throw refused(this.path, `a storage, ${describeValue(id)}, out of place`);
    return this.names.persistent(id);
  }
}

function shorten(text: string): string {
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}
