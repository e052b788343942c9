/** Exit codes of a process that a signal ended: 128 + the signal's number. */
export const SIGNAL_CODES = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

/** A signal that asks a verb to stop. */
export type StopSignal = keyof typeof SIGNAL_CODES;

/** All of them. */
const STOP_SIGNALS = Object.keys(SIGNAL_CODES) as readonly StopSignal[]; // the keys of the constant above

/** Calls `listener` at each such signal instead of ending the process. @returns what lets signals do as usual again */
export function onStopSignals(listener: (name: StopSignal) => void): () => void {
  const listeners = STOP_SIGNALS.map((name) => [name, () => listener(name)] as const);
  for (const [name, own] of listeners) process.on(name, own);
  return () => {
    for (const [name, own] of listeners) process.off(name, own);
  };
}
