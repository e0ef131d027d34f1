/** Listing where the file system tells no types: Node then looks at each entry itself, by a name it may have misread. */
import { lstatSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createFileHandler } from '../../../src/handlers/file/index.ts';
import { entriesOf } from '../../../src/handlers/file/listing.ts';
import { parseTarget } from '../../../src/target.ts';
import { createTypelessDisk } from '../../support/typeless-disk.ts';
import { createTestContext } from '../context.ts';

const disk =
  process.platform === 'linux' && process.getuid?.() === 0
    ? createTypelessDisk()
    : 'this is not root on Linux';

/** Names as bytes, one character each. The last is what becomes of the second when it is encoded once too often. */
const NAMES = ['\xff\xfe', '\xc3\xa9', 'plain', '\xc3\x83\xc2\xa9'];

const why = typeof disk === 'string' ? ` (${disk})` : '';
const base = typeof disk === 'string' ? '' : disk.path;
const root = `file://${base}/root/`;
const at = (name: string) => Buffer.from(`${base}/root/${name}`, 'latin1');

afterAll(() => {
  if (typeof disk !== 'string') disk.remove();
});

describe.skipIf(typeof disk === 'string').each([true, false])(`without types, pinned: %s${why}`, pinned => {
  const handler = createFileHandler({ pinned });
  let identity: string | undefined;
  beforeEach(async () => {
    mkdirSync(at(''), { recursive: true });
    mkdirSync(join(base, 'outside'), { recursive: true });
    writeFileSync(join(base, 'outside/file'), 'precious');
    identity = await handler.identify?.(root, { create: true });
    mkdirSync(at('t'));
  });
  afterEach(() => rmSync(join(base, 'root'), { recursive: true }));
  afterAll(() => handler.close?.());

  async function deleteTree() {
    const context = createTestContext({ slots: 16, identity: () => identity });
    const target = parseTarget(`${root}t/`);
    const [result] = await handler.delete([{ id: '1', target, root, pruneParents: 0, attempt: 0 }], context);
    return result;
  }

  it.each([
    ['first', NAMES],
    ['in the middle', ['plain', ...NAMES.filter(name => name !== 'plain')]],
    ['behind more than are read ahead', [...Array.from({ length: 600 }, (_, n) => `plain-${n}`), ...NAMES]],
  ])('with names that are no UTF-8 %s: lists and deletes all', async (_, names) => {
    const kinds = new Map<string, boolean>();
    for (const name of names) {
      writeFileSync(at(`t/f${name}`), 'x');
      kinds.set(`f${name}`, false);
    }
    for (const name of NAMES) {
      mkdirSync(at(`t/${name}`));
      writeFileSync(at(`t/${name}/in-${name}`), 'x');
      kinds.set(name, true);
      symlinkSync(join(base, 'outside'), at(`t/link-${name}`));
      kinds.set(`link-${name}`, false);
    }
    // Paths are texts, or bytes where they are not ASCII.
    for (const path of [at('t').toString(), at('t')]) {
      const found = [...entriesOf({ path, entry: name => at(`t/${name}`) })];
      expect(new Map(found.map(({ name, isFolder }) => [name, isFolder]))).toEqual(kinds);
      expect(found).toHaveLength(kinds.size);
    }

    const objects = names.length + 2 * NAMES.length;
    expect(await deleteTree()).toMatchObject({ outcome: 'deleted', objects });
    expect(readdirSync(join(base, 'root'))).toEqual(['.afterdelete-root']);
    expect(lstatSync(join(base, 'outside/file')).size).toBe(8);
  });

  it('and an empty directory', async () => {
    expect(await deleteTree()).toMatchObject({ outcome: 'deleted', objects: 0 });
  });
});
