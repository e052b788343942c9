/** Exit codes of a process that a signal ended: 128 + the signal's number. */
export const SIGNAL_CODES = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

/** A signal that asks a verb to stop. */
export type StopSignal = keyof typeof SIGNAL_CODES;

/** All of them. */
export const STOP_SIGNALS = Object.keys(SIGNAL_CODES) as readonly StopSignal[]; // the keys of the constant above
