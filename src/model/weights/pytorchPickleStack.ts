/** The unpickler's stack with its marks and its memo, each of bounded size, and a count of what was made. */
import { malformed } from './pytorchValues.js';

const MAX_STACK = 1_000_000; // values on the stack; a long list comes in parts of 1,000
const MAX_OBJECTS = 1_000_000; // lists, dicts and calls; a tensor takes six
const MAX_MEMO = 1_000_000; // entries; a tensor takes about eight

/** What a pickle's opcodes work on. Every method throws a `UserError` if the pickle misuses it. */
export class PickleStack {
  private readonly values: unknown[] = [];
  private readonly marks: number[] = [];
  private readonly memo = new Map<number, unknown>();
  private objects = 0;

  /** @param path the file, for messages */
  constructor(private readonly path: string) {}

  /** Puts a value on top. */
  push(value: unknown): void {
    if (this.values.length === MAX_STACK) throw this.tooMany(MAX_STACK, 'values at a time');
    this.values.push(value);
  }

  /** Puts a new container or a call's result on top, and counts it. */
  pushObject(value: unknown): void {
    this.objects += 1;
    if (this.objects > MAX_OBJECTS) throw this.tooMany(MAX_OBJECTS, 'lists, dicts and calls');
    this.push(value);
  }

  /** Makes a tuple, a frozen array, of the last `length` values. */
  pushTuple(length: number): void {
    this.pushObject(Object.freeze(this.popCount(length)));
  }

  /** Sets a mark that `popMark` comes back to, and no other method goes below. */
  mark(): void {
    if (this.marks.length === MAX_STACK) throw this.tooMany(MAX_STACK, 'marks at a time');
    this.marks.push(this.values.length);
  }

  /** Takes the last value. */
  pop(): unknown {
    this.require(1);
    return this.values.pop();
  }

  /** Takes the last `count` values, in the order in which they were pushed. */
  popCount(count: number): unknown[] {
    this.require(count);
    return this.values.splice(this.values.length - count);
  }

  /** Takes the values above the last mark, and the mark. */
  popMark(): unknown[] {
    const start = this.marks.pop();
    if (start === undefined) throw malformed(this.path, 'a pickle must set the marks that it uses', 'none');
    return this.values.splice(start);
  }

  /** The last value, which stays. */
  top(): unknown {
    this.require(1);
    return this.values.at(-1);
  }

  /** Takes the last value, which must be the only one. */
  last(): unknown {
    const value = this.pop();
    if (this.values.length === 0) return value;
    throw malformed(this.path, 'a pickle must leave one value', this.values.length + 1);
  }

  /** Keeps the last value under a number; by default under the number of those kept. */
  remember(key = this.memo.size): void {
    if (this.memo.size === MAX_MEMO) throw this.tooMany(MAX_MEMO, 'memo entries');
    this.memo.set(key, this.top());
  }

  /** Puts a value that was kept on top. */
  recall(key: number): void {
    if (!this.memo.has(key))
      throw malformed(this.path, 'a pickle must fill the memo before it reads it', key);
    this.push(this.memo.get(key));
  }

  private require(count: number): void {
    if (this.values.length - count >= (this.marks.at(-1) ?? 0)) return;
    throw malformed(this.path, 'a pickle must push what it pops', 'an empty stack');
  }

  private tooMany(limit: number, what: string): Error {
    return malformed(this.path, `a pickle must have at most ${limit} ${what}`, 'more');
  }
}
