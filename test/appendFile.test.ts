import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AppendFile } from '../src/appendFile.js';
import { UserError } from '../src/errors.js';

let folder = '';
let path = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'append-'));
  path = join(folder, 'lines');
});
afterEach(() => rmSync(folder, { recursive: true }));

const line = (text: string) => Buffer.from(`${text}\n`);

describe('AppendFile', () => {
  it('makes the file with its first record, and each is there at once, in order', () => {
    const file = new AppendFile(path);
    expect(existsSync(path)).toBe(false);
    file.write(line('one'));
    expect(readFileSync(path, 'utf8')).toBe('one\n');
    file.write(line('two'));
    file.sync();
    file.close();
    const again = new AppendFile(path);
    again.write(line('three'));
    again.close();
    expect(readFileSync(path, 'utf8')).toBe('one\ntwo\nthree\n');
  });

  it('keeps records while the disk is full, says so when asked to sync, and writes them once there is space', () => {
    symlinkSync('/dev/full', path); // every write to it fails with ENOSPC
    const file = new AppendFile(path);
    file.write(line('one'));
    file.write(line('two'));
    expect(file.waitingBytes).toBe(8);
    expect(() => file.sync()).toThrow(UserError);
    expect(() => file.sync()).toThrow(/lines: no space left on the device/);
    rmSync(path);
    writeFileSync(path, 'zero\n');
    file.write(line('three'));
    expect(file.waitingBytes).toBe(0);
    file.sync();
    file.close();
    expect(readFileSync(path, 'utf8')).toBe('zero\none\ntwo\nthree\n');
  });

  it('does not fill the memory instead of the disk', () => {
    symlinkSync('/dev/full', path);
    const file = new AppendFile(path);
    const megabytes = Buffer.alloc(40 * 2 ** 20);
    file.write(megabytes);
    expect(() => file.write(megabytes)).toThrow(/83886080 bytes wait in memory/);
    file.close();
  });

  it('in a folder that is not there is the user’s to mend', () => {
    expect(() => new AppendFile(join(folder, 'no', 'such')).write(line('one'))).toThrow(UserError);
  });
});
