/** A cache of the values used last, bounded by a cost such as bytes. */

/** Keeps the most recently used values while their costs sum to at most `budget`; always keeps the newest. */
export class Recent<V> {
  private readonly entries = new Map<string, { value: V; cost: number }>(); // oldest first
  private total = 0;

  /** @param onDrop called with each value that no longer fits */
  constructor(
    private readonly budget: number,
    private readonly onDrop?: (value: V) => void,
  ) {}

  /** The value under `key`, which becomes the newest; undefined if it is not here (any more). */
  get(key: string): V | undefined {
    const entry = this.entries.get(key);
    if (entry === undefined) return undefined;
    this.entries.delete(key);
    this.entries.set(key, entry);
    return entry.value;
  }

  /** Keeps `value`, and drops the oldest values that no longer fit. */
  set(key: string, value: V, cost: number): void {
    this.delete(key);
    this.entries.set(key, { value, cost });
    this.total += cost;
    this.shrink();
  }

  /** Corrects the cost of a value, if it is still here, without making it newer. */
  setCost(key: string, cost: number): void {
    const entry = this.entries.get(key);
    if (entry === undefined) return;
    this.total += cost - entry.cost;
    entry.cost = cost;
    this.shrink();
  }

  /** Forgets one value. */
  delete(key: string): void {
    this.total -= this.entries.get(key)?.cost ?? 0;
    this.entries.delete(key);
  }

  /** Forgets everything. */
  clear(): void {
    this.entries.clear();
    this.total = 0;
  }

  private shrink(): void {
    for (const [oldest, { value }] of this.entries) {
      if (this.total <= this.budget || this.entries.size === 1) return;
      this.delete(oldest);
      this.onDrop?.(value);
    }
  }
}
