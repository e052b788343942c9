/** What a failed pip means, and what to do about it: each cause its own message. */
import { UserError } from '../errors.js';

interface Cause {
  readonly sign: RegExp;
  readonly message: (wheel: NamedWheel) => string;
}

interface NamedWheel {
  readonly name: string;
  readonly version: string;
  readonly file: string;
  readonly sha256: string;
}

/** In this order: a network fault also ends in "no matching distribution". */
const CAUSES: readonly Cause[] = [
  {
    sign: /DO NOT MATCH THE HASHES/,
    message: ({ file, sha256 }) =>
      `${file} must have SHA-256 ${sha256}, got another file from the index (check pip's index: pip config list; then run set-up again)`,
  },
  {
    sign: /No space left on device|ENOSPC/,
    message: ({ file }) =>
      `no space left while fetching ${file} (free some space, or set MINIGPT4_CACHE to a folder on a larger disk)`,
  },
  {
    sign: /CERTIFICATE_VERIFY_FAILED|SSLError|SSLCertVerificationError/,
    message: ({ file }) =>
      `pip does not trust the index's certificate while fetching ${file} (name your network's certificate: pip config set global.cert FILE)`,
  },
  {
    sign: /ProxyError|407 Proxy/,
    message: ({ file }) =>
      `the proxy refused pip while fetching ${file} (set HTTPS_PROXY, or pip config set global.proxy URL)`,
  },
  {
    sign: /NewConnectionError|ConnectTimeoutError|ReadTimeoutError|Read timed out|NameResolutionError|Temporary failure in name resolution|Network is unreachable|Connection refused|ConnectionResetError|RemoteDisconnected|IncompleteRead|Max retries exceeded/,
    message: ({ file }) =>
      `pip must reach its package index to fetch ${file}, got no connection (check the network and pip's index and proxy: pip config list; then run set-up again)`,
  },
  {
    sign: /No matching distribution found|Could not find a version/,
    message: ({ name, version, file }) =>
      `the package index must have ${name} ${version} as ${file}, got no matching distribution (check pip's index: pip config list; a mirror may lack it)`,
  },
];

const LAST_LINES = 5;

/** The error for a pip that failed, by what it printed. */
export function explainPipFailure(wheel: NamedWheel, output: string): UserError {
  const cause = CAUSES.find(({ sign }) => sign.test(output));
  const lines = output.split(/\r?\n/).filter((line) => line.trim() !== '');
  const said = lines.slice(-LAST_LINES).join('\n  ');
  const message =
    cause?.message(wheel) ?? `pip must fetch ${wheel.file}, got a failure (see its words below)`;
  return new UserError(`setup: ${message}\n  ${said}`);
}
