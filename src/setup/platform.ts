/** What this machine is, as far as TensorFlow's wheels care. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';

import { UserError } from '../errors.js';

/** `gpu` where an NVIDIA driver is loaded, else `cpu`. */
export function detectDevice(): 'cpu' | 'gpu' {
  return existsSync('/proc/driver/nvidia/version') || existsSync('/dev/nvidiactl') ? 'gpu' : 'cpu';
}

/** Checks that this is a system for which there are wheels. @throws UserError where TensorFlow's wheels do not run */
export function requirePlatform(): void {
  const { platform, arch } = process;
  if (platform !== 'linux' || arch !== 'x64') {
    throw new UserError(
      `setup: runs on Linux x64 only so far, got ${platform} ${arch} (use such a machine, a virtual one or a container)`,
    );
  }
  const [major = 0, minor = 0] = glibcVersion().split('.').map(Number);
  if (major < 2 || (major === 2 && minor < 27)) {
    throw new UserError(
      `setup: TensorFlow needs glibc 2.27 or newer, got ${glibcVersion() || 'none'} (Alpine has musl instead: use a Debian, Ubuntu or Fedora image)`,
    );
  }
}

/** Whether the CPU has the instructions that TensorFlow's wheels are compiled for. */
export async function hasAvx(): Promise<boolean> {
  return /\bavx\b/.test(await readFile('/proc/cpuinfo', 'utf8').catch(() => 'avx')); // unknown: do not blame the CPU
}

/** `2.36`; empty where the C library is another (musl). */
function glibcVersion(): string {
  // The border: Node types its report as `object`
  const { header } = process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } };
  return header.glibcVersionRuntime ?? '';
}
