/**
 * What deletion on S3 gets wrong, case by case: `describeContract` runs on the project's own server, which can make every
 * fault, and on real ones wherever they can show it.
 */
import { PutObjectCommand, PutObjectLegalHoldCommand } from '@aws-sdk/client-s3';
import { describe, expect, it, type TestContext as Test } from 'vitest';
import { ACCESS_DENIED, type S3Server } from '../../s3-server/server.ts';
import type { RealServer } from '../../s3-servers/start.ts';
import { createTestContext } from '../context.ts';
import { keysBelow } from './support.ts';
import { openWorld, type World, type WorldOptions } from './world.ts';

const HOSTILE = [
  `& < > " '`,
  'CR\rLF\nCRLF\r\n',
  'a\tb',
  'plus+plus',
  'per%20cent%2Fslash',
  '🦀 emoji \u{10fffd}',
  '/leading',
  'two//slashes',
  'trailing dots...',
  ' spaces ',
  'e\u0301 decomposed',
  '\u00e9 composed',
  'bell \u0007 and \u0001',
  'x'.repeat(1024),
];

export function describeContract(name: string, serverOf: () => Promise<RealServer | S3Server>): void {
  const open = async (options?: WorldOptions) => await openWorld(await serverOf(), options);
  /** For faults that only the project's own server makes. */
  const openOwn = async (test: Test, options?: WorldOptions): Promise<World & { own: S3Server }> => {
    const server = await serverOf();
    if (!('faults' in server)) return test.skip('only our own server can be made to do this');
    return (await openWorld(server, options)) as World & { own: S3Server };
  };
  const outcomes = (results: readonly { readonly outcome: string }[]) =>
    results.map(({ outcome }) => outcome);
  const asked = (world: World, operation: string) =>
    world.requests.filter(request => request.operation === operation);

  describe(`${name}: S3, case by case`, () => {
    it('empty key or prefix refused before HTTP', async () => {
      const { cleanup, handler, context, requests, client, bucket, keys } = await open();
      const empty = cleanup('');
      const tree = { ...empty, target: { ...empty.target, tree: true } };
      const nobody = { ...cleanup('a'), target: { ...cleanup('a').target, store: 's3://', authority: '' } };
      for (const one of [empty, tree, nobody]) {
        // A root that everything lies in, so that what is tested is the last line of defence.
        const [result] = await handler.delete([{ ...one, root: 's3://' }], context);
        expect(result).toMatchObject({ outcome: 'dead', error: expect.stringContaining('never empty') });
      }
      expect(requests).toEqual([]);
      await client.send(new PutObjectCommand({ Bucket: bucket, Key: 'still-there' }));
      expect(await keys()).toEqual(['still-there']);
    });

    it('0 keys no request, 1,000 one, 1,001 two', async () => {
      const world = await open();
      expect(await world.run()).toEqual([]);
      expect(world.requests).toEqual([]);
      await world.run(...keysBelow('a/', 1000));
      expect(asked(world, 'DeleteObjects').map(({ keys }) => keys.length)).toEqual([1000]);
      world.forget();
      expect(new Set(outcomes(await world.run(...keysBelow('b/', 1001))))).toEqual(new Set(['deleted']));
      expect(
        asked(world, 'DeleteObjects')
          .map(({ keys }) => keys.length)
          .sort((a, b) => a - b),
      ).toEqual([1, 1000]);
    });

    it('absent key twice', async () => {
      const world = await open();
      await world.put('a');
      for (const _ of ['once', 'twice']) {
        expect((await world.runOne('a')).outcome).toMatch(/^(deleted|absent)$/);
        expect((await world.runOne('never/was')).outcome).toMatch(/^(deleted|absent)$/);
        expect(await world.keys()).toEqual([]);
      }
      expect(await world.runOne('never/')).toMatchObject({ outcome: 'absent', objects: 0 });
    });

    it('per-key NoSuchKey is done', async test => {
      const world = await openOwn(test);
      world.own.faults.perKey(key => (key === 'b' ? { code: 'NoSuchKey' } : undefined));
      expect(outcomes(await world.run('a', 'b', 'c'))).toEqual(['deleted', 'absent', 'deleted']);
    });

    it('mixed 200 retries only the failed keys', async test => {
      const world = await openOwn(test);
      await world.putAll(['a', 'b', 'c', 'd']);
      const failures = new Map([
        ['b', 1],
        ['d', 1],
      ]);
      world.own.faults.perKey(key => {
        const left = failures.get(key) ?? 0;
        failures.set(key, left - 1);
        return left > 0 ? { code: key === 'b' ? 'SlowDown' : 'InternalError' } : undefined;
      });
      expect(outcomes(await world.run('a', 'b', 'c', 'd'))).toEqual(Array(4).fill('deleted'));
      expect(asked(world, 'DeleteObjects').map(({ keys }) => keys)).toEqual([
        ['a', 'b', 'c', 'd'],
        ['b', 'd'],
      ]);
      expect(await world.keys()).toEqual([]);
    });

    it('200 with top-level SlowDown', async test => {
      const world = await openOwn(test);
      await world.put('a');
      world.own.faults.next({ kind: 'error_in_200', code: 'SlowDown' });
      expect(await world.runOne('a')).toMatchObject({
        outcome: 'blocked',
        objects: 0,
        error: expect.stringContaining('SlowDown'),
      });
      expect(await world.keys()).toEqual(['a']);
      expect(asked(world, 'DeleteObjects')).toHaveLength(1);
    });

    it('per-key SlowDown lowers the rate', async test => {
      const world = await openOwn(test);
      const keys = keysBelow('k/', 1000);
      for (const key of keys) world.own.buckets.put(world.bucket, key);
      let refused = 0;
      world.own.faults.perKey(key => {
        const slow = key.endsWith('7') && refused < 100;
        if (slow) refused += 1;
        return slow ? { code: 'SlowDown' } : undefined;
      });
      const results = await world.run(...keys);
      expect(new Set(outcomes(results))).toEqual(new Set(['deleted']));
      expect(world.own.buckets.count(world.bucket)).toBe(0);
      // Sent in one request when nothing was known; then only what was refused, and less of it at once.
      const [first, ...rest] = asked(world, 'DeleteObjects').map(request => request.keys);
      expect(first).toHaveLength(1000);
      expect(rest.flat().every(key => key.endsWith('7'))).toBe(true);
      world.forget();
      await world.run(...keys);
      expect(asked(world, 'DeleteObjects').length).toBeGreaterThan(1);
    });

    it('AccessDenied / lock permanent, siblings succeed', async test => {
      const server = await serverOf();
      if ('faults' in server) {
        const world = await openOwn(test);
        await world.putAll(['a', 'b', 'c']);
        const locked = {
          code: 'InvalidRequest',
          message: 'Object is WORM protected and cannot be overwritten',
        };
        world.own.faults.perKey(key => ({ a: { code: 'AccessDenied' }, b: locked })[key]);
        expect(outcomes(await world.run('a', 'b', 'c'))).toEqual(['dead', 'dead', 'deleted']);
        expect(await world.keys()).toEqual(['a', 'b']);
        return;
      }
      const world = await openLocked(test, server);
      expect(outcomes(await world.run('a', 'b', 'c'))).toEqual(['deleted', 'dead', 'deleted']);
      expect(await world.keys()).toEqual(['b']);
      await release(world);
    });

    it('whole-batch lock failure isolated', async test => {
      const server = await serverOf();
      if ('faults' in server) {
        const world = await openOwn(test);
        const keys = keysBelow('k/', 100);
        await world.putAll(keys);
        // As versitygw does: one locked object, and nothing of the batch is deleted.
        world.own.faults.when(request => request.keys.includes('k/000077'), ACCESS_DENIED);
        const results = await world.run(...keys);
        expect(results.filter(({ outcome }) => outcome === 'dead')).toHaveLength(1);
        expect(results[77]).toMatchObject({ outcome: 'dead' });
        expect(await world.keys()).toEqual(['k/000077']);
        return;
      }
      const world = await openLocked(test, server);
      await world.putAll(keysBelow('k/', 20));
      const results = await world.run(...keysBelow('k/', 10), 'b', ...keysBelow('k/', 20).slice(10));
      expect(outcomes(results).filter(outcome => outcome === 'dead')).toHaveLength(1);
      expect(results[10]).toMatchObject({ outcome: 'dead' });
      expect(await world.keys()).toEqual(['a', 'b', 'c']);
      await release(world);
    });

    it('NoSuchBucket never "already gone"', async () => {
      const { cleanup, handlerWith, context } = await open();
      const missing = (key: string) => {
        const { target, ...rest } = cleanup(key);
        const text = `s3://afterdelete-missing-bucket/${key}`;
        const store = 's3://afterdelete-missing-bucket';
        return { ...rest, root: `${store}/`, target: { ...target, text, store, authority: store.slice(5) } };
      };
      const { endpoint, accessKeyId, secretAccessKey } = await serverOf();
      const { createS3Handler } = await import('../../../src/handlers/s3/index.ts');
      for (const versions of ['keep', 'purge'] as const) {
        const credentials = { accessKeyId, secretAccessKey };
        const settings = { endpoint, credentials, versions };
        const handler = createS3Handler({
          stores: new Map([['s3://afterdelete-missing-bucket', settings]]),
        });
        for (const key of ['a', 'a/', 'control \u0001']) {
          const [result] = await handler.delete([missing(key)], context);
          expect(result).toMatchObject({ outcome: 'dead', error: expect.stringContaining('NoSuchBucket') });
        }
        await handler.close?.();
      }
      await handlerWith({}).probe(cleanup('a').root, context);
    });

    it('CRC-rejecting server → MD5 with one extra request, remembered', async test => {
      const world = await openOwn(test, { checksum: 'crc32' });
      for (const end of [world.own.faults.rejectCrc(), world.own.faults.requireMd5()]) {
        world.forget();
        const handler = world.handlerWith({ checksum: 'crc32' });
        const keys = [...keysBelow('a/', 3000), 'b'];
        const deletions = await Promise.all([
          handler.delete(
            keys.map(key => world.cleanup(key)),
            world.context,
          ),
          handler.delete([world.cleanup('c')], world.context),
        ]);
        expect(new Set(outcomes(deletions.flat()))).toEqual(new Set(['deleted']));
        expect(asked(world, 'DeleteObjects')).toHaveLength(5 + 1);
        await handler.delete([world.cleanup('d')], world.context);
        expect(asked(world, 'DeleteObjects')).toHaveLength(5 + 2);
        end();
      }
    });

    it('MD5-rejecting server → CRC with one extra request, remembered', async test => {
      const world = await openOwn(test);
      world.own.faults.rejectMd5();
      expect(outcomes(await world.run('a', 'b'))).toEqual(['deleted', 'deleted']);
      await world.run('c');
      expect(
        asked(world, 'DeleteObjects').map(({ headers }) => headers['content-md5'] !== undefined),
      ).toEqual([true, false, false]);
    });

    it('neither checksum → singles, remembered', async test => {
      const world = await openOwn(test);
      world.own.faults.rejectMd5();
      world.own.faults.rejectCrc();
      expect(outcomes(await world.run('a', 'b'))).toEqual(['deleted', 'deleted']);
      await world.run('c');
      expect(world.operations()).toEqual([
        'DeleteObjects',
        'DeleteObjects',
        'DeleteObject',
        'DeleteObject',
        'DeleteObject',
      ]);
    });

    it('NotImplemented → singles, remembered', async test => {
      const world = await openOwn(test);
      world.own.faults.noBatch();
      await world.putAll(['a', 'b', 'c', 't/1', 't/2']);
      expect(outcomes(await world.run('a', 'b'))).toEqual(['deleted', 'deleted']);
      expect(await world.runOne('t/')).toMatchObject({ outcome: 'deleted', objects: 2, bytes: 20 });
      await world.run('c');
      const deletes = world.operations().filter(operation => operation !== 'ListObjectsV2');
      expect(deletes).toEqual(['DeleteObjects', ...Array(5).fill('DeleteObject')]);
      expect(await world.keys()).toEqual([]);
    });

    it('signed Content-MD5 on the wire', async () => {
      const world = await open();
      await world.put('a');
      expect(outcomes(await world.run('a'))).toEqual(['deleted']);
      const [request] = asked(world, 'DeleteObjects');
      const { authorization = '', 'content-md5': md5, ...headers } = request?.headers ?? {};
      expect(md5).toMatch(/^[\w+/]{22}==$/);
      expect(String(authorization)).toMatch(/SignedHeaders=[^,]*content-md5/);
      expect(Object.keys(headers).filter(header => header.includes('checksum'))).toEqual([]);
      expect(await world.keys()).toEqual([]);
      const other = world.handlerWith({ checksum: 'crc32' });
      world.forget();
      expect(outcomes(await other.delete([world.cleanup('b')], world.context))).toEqual(['deleted']);
      expect(asked(world, 'DeleteObjects').at(-1)?.headers).toMatchObject(
        world.own ? { 'x-amz-checksum-crc32': expect.any(String) } : {},
      );
    });

    it('control-character key goes singly', async test => {
      const world = await open();
      const key = 'bell \u0007 and \u0001';
      if (!(await tryToPut(world, key))) test.skip('this server takes no such key');
      await world.putAll(['a', 'b']);
      expect(outcomes(await world.run('a', key, 'b'))).toEqual(['deleted', 'deleted', 'deleted']);
      expect(asked(world, 'DeleteObjects').map(({ keys }) => keys)).toEqual([['a', 'b']]);
      expect(asked(world, 'DeleteObject').map(({ keys }) => keys)).toEqual([[key]]);
      expect(await world.keys()).toEqual([]);
    });

    it('`& < > " \'` CR LF `+` `%2F` emoji leading `/` `//` NFD round-trip', async () => {
      for (const prefix of ['', 'in/']) {
        for (const deleteMode of ['auto', 'single'] as const) {
          const world = await open({ deleteMode });
          const decoys = ['per cent/slash', 'per%20cent/slash', 'plus plus', 'leading', 'two/slashes'];
          const keys = [];
          for (const key of HOSTILE) {
            const whole = `${prefix}${key}`.slice(0, 1024);
            if (await tryToPut(world, whole)) keys.push(whole);
          }
          for (const key of decoys) await tryToPut(world, `decoy/${key}`);
          const decoyed = (await world.keys()).filter(key => key.startsWith('decoy/'));
          expect(decoyed.length).toBeGreaterThan(3);
          // A file system below takes fewer names than S3, and some listings cannot say them: those are another's affair.
          const said = await world.keys();
          for (const key of keys) if (!said.includes(key)) await world.hide(key);
          const there = (await world.keys()).filter(key => !key.startsWith('decoy/'));
          const stored = keys.filter(key => there.includes(key));
          expect(stored.length).toBeGreaterThanOrEqual(world.own ? HOSTILE.length : 5);
          if (prefix === '') {
            expect(new Set(outcomes(await world.run(...stored)))).toEqual(new Set(['deleted']));
          } else {
            expect(await world.runOne(prefix)).toMatchObject({ outcome: 'deleted', objects: there.length });
          }
          const left = (await world.keys()).filter(key => !key.startsWith('decoy/'));
          expect(left).toEqual(prefix === '' ? there.filter(key => !stored.includes(key)) : []);
          expect((await world.keys()).filter(key => key.startsWith('decoy/'))).toEqual(decoyed);
        }
      }
    });

    it('`..` never alters the request target', async test => {
      const world = await open();
      await world.putAll(['b', 'a/x', 'x']);
      const before = await world.keys();
      const dotted = ['a/../b', '..', './x', '/', '//', 'a/./x'];
      const batch = dotted.map(key => ({
        ...world.cleanup(key),
        target: { ...world.cleanup(key).target, tree: false },
      }));
      const single = world.handlerWith({ deleteMode: 'single' });
      for (const result of await single.delete(batch, world.context)) {
        expect(result).toMatchObject({ outcome: 'dead', error: expect.stringContaining('refused before') });
      }
      expect(world.requests).toEqual([]);
      await world.handler.delete(batch, world.context);
      for (const { url } of world.requests) expect(url).toMatch(new RegExp(`^/${world.bucket}/?\\?`));
      expect(new Set(world.operations())).toEqual(new Set(['DeleteObjects']));
      if (!world.own) test.skip('whether a server makes another key of it is its own affair');
      expect(await world.keys()).toEqual(before);
    });

    it('decoding only when echoed', async test => {
      const world = await openOwn(test);
      await world.putAll(['p/a+b%20c', 'p/a b c']);
      const body =
        '<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>p/a+b%20c</Key><Size>1</Size></Contents></ListBucketResult>';
      world.own.faults.next(
        { kind: 'raw', status: 200, body },
        1,
        ({ operation }) => operation === 'ListObjectsV2',
      );
      expect(await world.runOne('p/')).toMatchObject({ outcome: 'deleted', objects: 1 });
      expect(await world.keys()).toEqual(['p/a b c']);
    });

    it('`a/1/` never touches `a/10/`', async () => {
      for (const versions of ['keep', 'purge'] as const) {
        const world = await open({ versions });
        const others = ['a/1.x', 'a/10/x', 'a/10/1/y', 'a/2/1/x', 'b'];
        await world.putAll([...others, 'a/1/x', 'a/1/10/y']);
        expect(await world.runOne('a/1/')).toMatchObject({ outcome: 'deleted', objects: 2, bytes: 20 });
        expect(await world.keys()).toEqual([...others].sort());
      }
    });

    it("killed mid-prefix, rerun finishes, counts don't double", async () => {
      const world = await open();
      await world.putAll(keysBelow('p/', 2300));
      let [objects, bytes] = [0, 0];
      for (let calls = 2, ended = false; !ended; calls++) {
        const context = createTestContext();
        context.stopAfter(calls);
        const [result] = await world.handler.delete([world.cleanup('p/')], context);
        if (!result) throw new Error('the handler gave no result');
        objects += result.objects;
        bytes += result.bytes ?? 0;
        ended = result.outcome !== 'yielded';
        expect(objects).toBe(2300 - (await world.keys()).length);
        expect(calls).toBeLessThan(20);
      }
      expect({ objects, bytes }).toEqual({ objects: 2300, bytes: 23_000 });
    });

    it('object re-uploaded after the cutoff survives where asked', async () => {
      const world = await open();
      await world.putAll(['old', 'new', 'p/old', 'p/new']);
      await world.later();
      const dueSince = performance.now();
      await world.putAll(['new', 'p/new'], 'something else');
      const keeping = world.handlerWith({ newer: 'keep' });
      const cleanups = ['old', 'new'].map(key => world.cleanup(key, { dueSince }));
      const results = await keeping.delete(cleanups, world.context);
      expect(results).toMatchObject([
        { outcome: 'deleted', objects: 1, bytes: 10 },
        { outcome: 'absent', objects: 0, note: expect.stringContaining('stays') },
      ]);
      expect(await keeping.delete([world.cleanup('p/', { dueSince })], world.context)).toMatchObject([
        { outcome: 'deleted', objects: 1, bytes: 10, note: expect.stringContaining('1 objects stay') },
      ]);
      expect(await world.keys()).toEqual(['new', 'p/new']);
      // Unasked, a path that is used again is deleted again.
      expect(outcomes(await world.run('new', 'p/'))).toEqual(['deleted', 'deleted']);
      expect(await world.keys()).toEqual([]);
    });

    it('purge removes versions and markers, bytes equal their sizes', async () => {
      const world = await open({ versions: 'purge' });
      await world.version('Enabled');
      for (const body of ['1', '22', '333']) await world.putAll(['a', 'p/a', 'p/b', 'ab', 'q/c'], body);
      for (const key of ['a', 'p/b']) await world.hide(key);
      await world.put('p/b', '4444');
      await world.hide('p/b');
      expect(await world.runOne('a')).toMatchObject({ outcome: 'deleted', objects: 3, bytes: 6 });
      expect(await world.runOne('p/')).toMatchObject({ outcome: 'deleted', objects: 7, bytes: 16 });
      const left = await world.versions();
      expect(new Set(left.map(({ key }) => key))).toEqual(new Set(['ab', 'q/c']));
      expect(left).toHaveLength(6);
      expect(await world.runOne('a')).toMatchObject({ outcome: 'absent' });
      expect(await world.runOne('p/')).toMatchObject({ outcome: 'absent' });
      // The plain way leaves everything there, hidden: that is what `check` warns of.
      const keeping = world.handlerWith({ versions: 'keep' });
      await keeping.delete([world.cleanup('ab')], world.context);
      expect(await world.versions()).toHaveLength(7);
      const root = world.cleanup('a').root;
      expect(await keeping.advise?.(root, world.context)).toMatchObject([
        expect.stringContaining('deletes here free no space'),
      ]);
      expect(await world.handler.advise?.(root, world.context)).toEqual([]);
    });

    it('suspended bucket', async () => {
      const world = await open({ versions: 'purge' });
      await world.version('Enabled');
      await world.putAll(['a', 'p/a'], '1');
      await world.version('Suspended');
      await world.putAll(['a', 'p/a'], '22');
      await world.putAll(['a', 'p/a'], '333');
      const keeping = world.handlerWith({ versions: 'keep' });
      expect(await keeping.advise?.(world.cleanup('a').root, world.context)).toMatchObject([
        expect.stringContaining('deletes here leave older versions'),
      ]);
      const before = await world.versions();
      const sizes = (key: string) =>
        before.filter(version => version.key === key).reduce((sum, { size }) => sum + size, 0);
      expect(await world.runOne('a')).toMatchObject({ outcome: 'deleted', bytes: sizes('a') });
      expect(await world.runOne('p/')).toMatchObject({ outcome: 'deleted', bytes: sizes('p/a') });
      expect(await world.versions()).toEqual([]);
    });

    it('uploads aborted, young ones kept', async test => {
      const world = await open();
      const old = await world.beginUpload('p/a');
      await world.beginUpload('key');
      const neighbour = await world.beginUpload('key2');
      await world.put('p/done');
      await world.later();
      const dueSince = performance.now();
      const young = await world.beginUpload('p/a');
      const youngKey = await world.beginUpload('key');
      expect(await world.runOne('key', { dueSince })).toMatchObject({
        outcome: 'deleted',
        note: '1 incomplete upload was aborted',
      });
      expect(await world.uploads('key2')).toEqual([neighbour]);
      // MinIO lists no uploads under a prefix, only those of an exact key.
      expect((await world.uploads('key')).filter(upload => upload !== neighbour)).toEqual([youngKey]);
      const listed = await world.uploads('p/');
      const result = await world.runOne('p/', { dueSince });
      if (listed.length === 0) test.skip('this server lists no uploads under a prefix');
      expect(listed.sort()).toEqual([old, young].sort());
      expect(result).toMatchObject({
        outcome: 'deleted',
        objects: 1,
        note: '1 incomplete uploads were aborted',
      });
      expect(await world.uploads('p/')).toEqual([young]);
      expect(await world.runOne('p/', { dueSince })).toMatchObject({ outcome: 'absent' });
    });

    it('InternalError on an absent key ends via HEAD 404', async test => {
      for (const deleteMode of ['auto', 'single'] as const) {
        const world = await openOwn(test, { deleteMode });
        await world.put('there');
        world.own.faults.perKey(() => ({ code: 'InternalError', message: 'file not found' }));
        expect(outcomes(await world.run('gone', 'there'))).toEqual(['absent', 'retry']);
        expect(
          asked(world, 'HeadObject')
            .flatMap(({ keys }) => keys)
            .sort(),
        ).toEqual(['gone', 'there']);
        expect(await world.keys()).toEqual(['there']);
      }
    });

    it('connection reset after commit is safe', async test => {
      const world = await openOwn(test);
      await world.putAll(['a', ...keysBelow('p/', 1500)]);
      world.own.faults.next({ kind: 'reset', when: 'after_commit' });
      expect(await world.runOne('a')).toMatchObject({ outcome: 'unavailable', objects: 0 });
      expect(await world.runOne('a')).toMatchObject({ outcome: 'deleted' });
      world.own.faults.next(
        { kind: 'reset', when: 'after_commit' },
        1,
        ({ operation }) => operation === 'DeleteObjects',
      );
      const first = await world.runOne('p/');
      expect(first).toMatchObject({ outcome: 'unavailable' });
      const left = (await world.keys()).length;
      // What it does not know to be done it does not count.
      expect(first.objects).toBeLessThanOrEqual(1500 - left);
      expect(await world.runOne('p/')).toMatchObject({
        outcome: left > 0 ? 'deleted' : 'absent',
        objects: left,
      });
      expect(await world.keys()).toEqual([]);
    });
  });
}

/** Whether a server stores a key: what lies on a file system takes fewer than S3. */
async function tryToPut(world: World, key: string): Promise<boolean> {
  try {
    await world.put(key);
    return true;
  } catch (error) {
    if (world.own) throw error;
    return false;
  }
}

/** A bucket whose object `b` is under a legal hold, beside `a` and `c`. */
async function openLocked(test: Test, server: RealServer): Promise<World> {
  try {
    const world = await openWorld(server, { lock: true, versions: 'purge' });
    await world.putAll(['a', 'b', 'c']);
    await hold(world, 'ON');
    return world;
  } catch {
    return test.skip('this server has no object lock');
  }
}

async function hold({ client, bucket }: World, Status: 'ON' | 'OFF'): Promise<void> {
  const LegalHold = { Status };
  await client.send(new PutObjectLegalHoldCommand({ Bucket: bucket, Key: 'b', LegalHold }));
}

const release = (world: World) => hold(world, 'OFF');
