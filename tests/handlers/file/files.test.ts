import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { chmod, link, mkdir, open, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createFileHandler } from '../../../src/handlers/file/index.ts';
import type { Target } from '../../../src/target.ts';
import { deleteAsAnother } from './another-user.ts';
import { Disk, exists } from './disk.ts';

const modes = process.platform === 'linux' ? [true, false] : [false];

describe.each(modes)('single files (pinned: %s)', pinned => {
  let disk: Disk;
  beforeEach(async () => {
    disk = await Disk.create({ pinned });
  });
  afterEach(() => disk.remove());

  it('are reached through directories that may be searched but not listed', async test => {
    await disk.write('a/b/file', 'a/b/other');
    for (const path of ['a', 'a/b']) await chmod(disk.at(path), 0o300);
    const result = await deleteAsAnother(disk, 'a/b/file', pinned);
    for (const path of ['a', 'a/b']) await chmod(disk.at(path), 0o755);
    if (!result) return test.skip('no other user can run the handler here');
    expect(result).toMatchObject({ outcome: 'deleted', objects: 1 });
    expect(await disk.list()).toEqual(['a', 'a/b', 'a/b/other']);
  });

  it('unlinks a symbolic link itself, with or without a slash, whatever it points to', async () => {
    const [goal] = await disk.write('goal/file');
    await symlink(disk.at('goal'), disk.at('to-directory'));
    await symlink(disk.at('goal'), disk.at('to-directory-2'));
    await symlink(goal as string, disk.at('to-file'));
    await symlink('nowhere', disk.at('dangling'));
    for (const path of ['to-directory', 'to-directory-2/', 'to-file', 'dangling']) {
      expect(await disk.delete(path)).toEqual({ outcome: 'deleted', objects: 1, bytes: 0 });
    }
    expect(await disk.list()).toEqual(['goal', 'goal/file']);
  });

  it('unlinks FIFOs and sockets', async () => {
    await promisify(execFile)('mkfifo', [disk.at('fifo')]);
    // A socket's path has at most about 100 bytes, fewer than a temporary directory may take.
    const server = createServer();
    process.chdir(disk.path);
    server.listen('socket');
    await once(server, 'listening');
    try {
      expect(await disk.delete('fifo')).toEqual({ outcome: 'deleted', objects: 1, bytes: 0 });
      expect(await disk.delete('socket')).toEqual({ outcome: 'deleted', objects: 1, bytes: 0 });
    } finally {
      process.chdir('/');
      server.close();
    }
    expect(await disk.list()).toEqual([]);
  });

  it('counts the bytes that become free: blocks, once, with the last hard link', async () => {
    const [first] = await disk.write('first');
    await link(first as string, disk.at('second'));
    const sparse = await open(disk.at('sparse'), 'w');
    await sparse.truncate(10_000_000);
    await sparse.close();
    const { blocks } = await stat(first as string);
    expect(await disk.delete('first')).toEqual({ outcome: 'deleted', objects: 1, bytes: 0 });
    expect(await disk.delete('second')).toEqual({ outcome: 'deleted', objects: 1, bytes: blocks * 512 });
    expect(await disk.delete('sparse')).toEqual({ outcome: 'deleted', objects: 1, bytes: 0 });
  });

  it('refuses a directory named without a slash, and a file named with one', async () => {
    await disk.write('directory/file');
    expect(await disk.delete('directory')).toMatchObject({
      outcome: 'dead',
      error: expect.stringMatching(
        /directory" is a directory: expected a file.*no slash.*Nothing was touched/,
      ),
    });
    expect(await disk.delete('directory/file/')).toMatchObject({
      outcome: 'dead',
      error: expect.stringMatching(/file\/" is a file: expected a directory.*Nothing was touched/),
    });
    expect(await disk.list()).toEqual(['directory', 'directory/file']);
  });

  it('takes a file on the way for "nothing there"', async () => {
    await disk.write('file');
    for (const path of ['file/x', 'file/x/', 'file/x/y']) {
      expect(await disk.delete(path)).toEqual({ outcome: 'absent', objects: 0, bytes: 0 });
    }
    expect(await disk.list()).toEqual(['file']);
  });

  it('deletes names of 255 bytes, and says what is wrong with longer ones', async () => {
    const longest = `${'ü'.repeat(127)}x`;
    await disk.write(longest, `${longest}.d`.slice(2));
    expect(await disk.delete(longest)).toMatchObject({ outcome: 'deleted' });
    expect(await disk.delete('n'.repeat(256))).toMatchObject({
      outcome: 'dead',
      error: expect.stringContaining('ENAMETOOLONG'),
    });
  });

  it('finds them in a root whose path is longer in bytes than in characters', async () => {
    await disk.write('wörld/é/a', 'wörld/é/ä', 'wörld/é/kept', 'wörld/b');
    const root = `${disk.root}wörld/`;
    const identity = await disk.handler.identify?.(root, { create: true });
    const batch = ['é/a', 'é/ä', 'b'].map(path => disk.cleanup(`wörld/${path}`, { root }));
    const results = await disk.handler.delete(batch, disk.context({ identity: () => identity }));
    expect(results.map(({ outcome }) => outcome)).toEqual(['deleted', 'deleted', 'deleted']);
    expect(await disk.list()).toEqual(['wörld', 'wörld/é', 'wörld/é/kept']);
  });

  it('answers every cleanup of a batch, whatever becomes of its neighbours', async () => {
    await disk.write('a', 'b', 'd/x', 'tree/x/y');
    await symlink(disk.at('d'), disk.at('link'));
    const paths = ['a', 'gone', 'd', 'link/x', 'd/x/', 'b', 'tree/', 'n'.repeat(300), 'a'];
    const results = await disk.handler.delete(
      paths.map(path => disk.cleanup(path)),
      disk.context(),
    );
    expect(results.map(result => result.outcome)).toEqual([
      ...['deleted', 'absent', 'dead', 'dead', 'dead', 'deleted', 'deleted', 'dead', 'absent'],
    ]);
    expect(await disk.list()).toEqual(['d', 'd/x', 'link']);
  });

  it('shares the way down: a thousand files of one directory take few storage calls', async () => {
    const paths = Array.from({ length: 1000 }, (_, n) => `d/e/${n}`);
    await disk.write(...paths);
    const context = disk.context();
    const results = await disk.handler.delete(
      paths.map(path => disk.cleanup(path)),
      context,
    );
    expect(results.every(result => result.outcome === 'deleted')).toBe(true);
    expect(await disk.list()).toEqual(['d', 'd/e']);
    expect(context.calls).toBeLessThan(200);
  });

  describe('refuses, whoever asks', () => {
    const raw = (path: string): Target => ({
      ...{ text: `file://${path}`, scheme: 'file', authority: '', store: 'file://' },
      ...{ path, tree: path.endsWith('/') },
    });

    it('dot segments and empty ones', async () => {
      await mkdir(disk.at('in'));
      await writeFile(`${disk.base}/victim`, 'x');
      const wrong = ['../victim', 'in/../../victim', './in/', 'in/..', 'in/.', 'in//', 'a\0b'];
      for (const path of wrong) {
        const [result] = await disk.handler.delete(
          [disk.cleanup('x', { target: raw(`${disk.path}/${path}`) })],
          disk.context(),
        );
        expect(result).toMatchObject({
          outcome: 'dead',
          error: expect.stringContaining('Nothing was touched'),
        });
      }
      expect(await exists(`${disk.base}/victim`)).toBe(true);
      expect(await disk.list()).toEqual(['in']);
    });

    it('the root, its mark in any case, and what only begins like the root', async () => {
      await mkdir(`${disk.base}/root2`);
      for (const path of [disk.path, `${disk.path}/`, `${disk.path}2/`, `${disk.base}/`, '/']) {
        const target = raw(path);
        const [result] = await disk.handler.delete([disk.cleanup('x', { target })], disk.context());
        expect(result?.outcome).toBe('dead');
      }
      for (const path of ['.afterdelete-root', '.afterdelete-root/', '.AfterDelete-Root']) {
        expect((await disk.delete(path)).outcome).toBe('dead');
      }
      expect(await readFile(disk.at('.afterdelete-root'), 'utf8')).toBe(`${disk.identity}\n`);
    });

    it('a target whose text and path do not agree, and other machines', async () => {
      await disk.write('a', 'b');
      const target = { ...raw(disk.at('a')), path: disk.at('b') };
      const [result] = await disk.handler.delete([disk.cleanup('x', { target })], disk.context());
      expect(result?.outcome).toBe('dead');

      const handler = createFileHandler({ host: 'gpu-01', pinned });
      const on = (authority: string) => ({
        ...disk.cleanup('a'),
        root: `file://${authority}${disk.path}/`,
        target: {
          ...raw(disk.at('a')),
          ...{ text: `file://${authority}${disk.at('a')}`, authority, store: `file://${authority}` },
        },
      });
      const [other] = await handler.delete([on('gpu-02')], disk.context());
      expect(other).toMatchObject({ outcome: 'dead', error: expect.stringContaining('another machine') });
      expect(await disk.list()).toEqual(['a', 'b']);
      const [own] = await handler.delete([on('gpu-01')], disk.context());
      expect(own?.outcome).toBe('deleted');
    });
  });
});
