/** sql/optional/roles.sql: what each role may, and what it may not. The roles get names of their own here. */
import { readFileSync } from 'node:fs';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Holders } from '../../src/outbox/holders.ts';
import { Operators } from '../../src/outbox/operators.ts';
import { fakeHandler } from '../support/fake-handler.ts';
import { nextEvent, testReconciler } from '../support/reconciler.ts';
import {
  addDead,
  addWorker,
  atServer,
  claim,
  fileDatabase,
  openOutbox,
  put,
  STORE,
  settleBack,
  states,
  value,
} from './rows.ts';

const KINDS = ['writer', 'worker', 'operator', 'reader', 'stranger'] as const;
type Kind = (typeof KINDS)[number];
const PREFIX = `afterdelete_test_${process.pid}`;
const roleOf = (kind: Kind) => `${PREFIX}_${kind}`;

// Registered first, so that it runs last: a role can be dropped when the database that grants it something is gone.
afterAll(async () => {
  for (const kind of KINDS) await atServer(`DROP ROLE IF EXISTS ${roleOf(kind)}`);
});

const db = fileDatabase();

beforeAll(async () => {
  const script = readFileSync(new URL('../../sql/optional/roles.sql', import.meta.url), 'utf8');
  const ours = script.replaceAll(/\bafterdelete_(writer|worker|operator|reader)\b/g, `${PREFIX}_$1`);
  await db.sql(ours);
  // As often as you like.
  await db.sql(ours);
  await db.sql(`CREATE ROLE ${roleOf('stranger')}`);
  for (const kind of KINDS) await db.sql(`ALTER ROLE ${roleOf(kind)} LOGIN PASSWORD 'secret'`);
});

const urlOf = (kind: Kind) => {
  const url = new URL(db.url);
  url.username = roleOf(kind);
  url.password = 'secret';
  return url.href;
};

/** Runs a statement as that role: its rows, or the code of the error. */
async function as(kind: Kind, text: string, values: unknown[] = []): Promise<unknown> {
  const client = new pg.Client({ connectionString: urlOf(kind) });
  await client.connect();
  try {
    return (await client.query(text, values)).rows;
  } catch (error) {
    return (error as { code: string }).code;
  } finally {
    await client.end();
  }
}

const DENIED = '42501';
const TABLES = [
  'pending_file_cleanup',
  'running_file_cleanup',
  'done_file_cleanup',
  'dead_file_cleanup',
  'worker',
  'worker_pause',
  'store_pause',
  'file_root',
  'watched',
  'custom_guard',
  'fuse_count',
  'migration',
  'backlog',
  'stuck',
];
const FUNCTIONS =
  "SELECT p.oid::regprocedure::text AS name FROM pg_proc p WHERE p.pronamespace = 'afterdelete'::regnamespace AND has_function_privilege($1, p.oid, 'EXECUTE') ORDER BY 1";
const callable = async (kind: Kind) =>
  (await db.sql<{ name: string }>(FUNCTIONS, [roleOf(kind)])).map(row =>
    row.name.replace(/^afterdelete\.|\(.*$/g, ''),
  );
const may = async (kind: Kind, right: string) => {
  const rows = await db.sql<{ name: string }>(
    "SELECT t AS name FROM unnest($2::text[]) AS t WHERE has_table_privilege($1, 'afterdelete.' || t, $3) ORDER BY 1",
    [roleOf(kind), TABLES, right],
  );
  return rows.map(row => row.name);
};

describe('a stranger', () => {
  it('may do nothing at all', async () => {
    expect(await callable('stranger')).toEqual([]);
    for (const right of ['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'])
      expect(await may('stranger', right)).toEqual([]);
    expect(await as('stranger', "SELECT afterdelete.enqueue('s3://b/k')")).toBe(DENIED);
    expect(
      await as('stranger', "INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ('s3://b/k')"),
    ).toBe(DENIED);
  });
});

describe('a writer', () => {
  it('may insert, enqueue and confirm', async () => {
    expect(
      await as(
        'writer',
        "INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ('s3://b/1') RETURNING id",
      ),
    ).toHaveLength(1);
    expect(
      await as(
        'writer',
        "INSERT INTO afterdelete.pending_file_cleanup (target, run_at, prune_parents, source, actor) VALUES ('file:///a/b', now(), 1, 'why', 'alice')",
      ),
    ).toEqual([]);
    const [{ id }] = (await as('writer', "SELECT afterdelete.enqueue('s3://b/2', '1 hour') AS id")) as [
      { id: string },
    ];
    expect(await as('writer', 'SELECT afterdelete.confirm($1)', [id])).toHaveLength(1);
    expect(await states(db)).toMatchObject({ pending: 2, done: 1 });
  });

  it('is named as the actor, also through enqueue()', async () => {
    await as('writer', "SELECT afterdelete.enqueue('s3://b/2')");
    expect(await value(db, 'SELECT actor FROM afterdelete.pending_file_cleanup')).toBe(roleOf('writer'));
  });

  it('may do nothing else', async () => {
    expect(await callable('writer')).toEqual(['confirm', 'enqueue']);
    for (const right of ['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'])
      expect(await may('writer', right)).toEqual([]);
    const id = await put(db);
    for (const text of [
      'SELECT target FROM afterdelete.pending_file_cleanup',
      'DELETE FROM afterdelete.pending_file_cleanup',
      `SELECT afterdelete.cancel(${id})`,
      `SELECT afterdelete.end_pending(${id}, 'mine')`,
      "INSERT INTO afterdelete.pending_file_cleanup (target, created_at) VALUES ('s3://b/k', '2001-01-01')",
      "INSERT INTO afterdelete.pending_file_cleanup (target, id) VALUES ('s3://b/k', 1)",
      'INSERT INTO afterdelete.done_file_cleanup (id) VALUES (1)',
      'SELECT * FROM afterdelete.backlog',
    ]) {
      expect({ text, answer: await as('writer', text) }).toEqual({ text, answer: DENIED });
    }
  });

  it('cannot attach the trigger function to a table of its own', async () => {
    await db.sql(`CREATE SCHEMA own AUTHORIZATION ${roleOf('writer')}`);
    const answer = await as(
      'writer',
      'CREATE TABLE own.t (store text); CREATE TRIGGER w AFTER INSERT ON own.t REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION afterdelete.wake()',
    );
    expect(answer).toBe(DENIED);
    await db.sql('DROP SCHEMA own CASCADE');
  });
});

describe('a worker', () => {
  it('runs a whole daemon: claims, settles, retries, dies, heartbeats, pauses, and leaves', async () => {
    const handler = fakeHandler(cleanup =>
      cleanup.target.text.endsWith('/bad')
        ? { outcome: 'retry', error: 'not today', objects: 0, bytes: null }
        : { outcome: 'deleted', objects: 1, bytes: 10 },
    );
    const reconciler = testReconciler({ databaseUrl: urlOf('worker'), handlers: [handler], maxAttempts: 2 });
    const troubles: unknown[] = [];
    reconciler.events.on('trouble', trouble => troubles.push(trouble));
    const dead = nextEvent(reconciler, 'cleanup_dead');
    const done = nextEvent(reconciler, 'cleanup_done');
    const listening = nextEvent(reconciler, 'listen_restored');
    await reconciler.start();
    await listening;
    await put(db, `${STORE}/bad`);
    await put(db, `${STORE}/good`);
    await dead;
    await done;
    await reconciler.stop();
    expect(troubles).toEqual([]);
    expect(await states(db)).toEqual({ pending: 0, running: 0, done: 1, dead: 1 });
    expect(await db.sql('SELECT FROM afterdelete.worker')).toEqual([]);
  });

  it('may do everything that the outbox does', async () => {
    const { outbox } = openOutbox(urlOf('worker'));
    const worker = await outbox.register({
      name: 'w',
      version: 'test',
      stores: [STORE],
      roots: [`${STORE}/`],
      lease: 60_000,
      history: 1_000,
    });
    expect(await outbox.heartbeat(worker, 60_000)).toMatchObject({ alive: true, suspects: false });
    await put(db);
    await put(db);
    await put(db);
    const rows = (await outbox.claim(worker, new Map([[STORE, 10]]))).rows;
    const [a, b, c] = rows.map(row => ({ row, objects: 1, bytes: 10 }));
    if (a === undefined || b === undefined || c === undefined) throw new Error('three rows');
    await outbox.progress([a, b, c]);
    expect(
      await outbox.settleDone('w', true, [{ ...a, kind: 'done', outcome: 'deleted', note: null }]),
    ).toEqual([]);
    expect(
      await outbox.settleBack([{ ...b, kind: 'back', reason: 'retry', delay: 60_000, error: 'e' }]),
    ).toEqual([]);
    expect(await outbox.settleDead('w', [{ ...c, kind: 'dead', error: 'e' }])).toEqual([]);
    await db.sql(`INSERT INTO afterdelete.pending_file_cleanup (target, lost) VALUES ('${STORE}/a', 3)`);
    expect(await outbox.claimSuspect(worker, [STORE])).toMatchObject({ lost: 3 });
    expect(await outbox.handBackStrays(worker, [])).toBe(1);
    expect(await outbox.nextDue([STORE])).toBeGreaterThan(0);
    await outbox.setPauses(worker, [{ store: STORE, by: 'breaker', reason: 'down' }]);
    await outbox.setPauses(worker, [{ store: STORE, by: 'root', reason: 'other disk' }]);
    await outbox.setPauses(worker, []);
    expect(await outbox.storePauses([STORE])).toEqual([]);
    expect(await outbox.liveRoots()).toEqual([`${STORE}/`]);
    const uuid = '00000000-0000-4000-8000-000000000001';
    expect(await outbox.recordRoot('file:///data/', uuid, 'w')).toBe(uuid);
    await outbox.adoptRoot('file:///data/', uuid.replace(/1$/, '2'), 'alice');
    expect(await outbox.rootIdentity('file:///data/')).toBe(uuid.replace(/1$/, '2'));
    await outbox.maintainHistory();
    expect(await outbox.backlog()).toHaveLength(1);
    expect(await outbox.reap()).toEqual({ workers: 0, moved: 0, died: 0 });
    expect(await outbox.deregister(worker)).toBe(0);
    await outbox.notify('');
    await outbox.ping();
    const holders = new Holders(openOutbox(urlOf('worker')).kysely);
    expect(await holders.ask(['file:///data/x'])).toEqual([undefined]);
    expect(await holders.watches()).toBe(0);
    expect(await holders.problems()).toEqual([]);
  });

  it('spends and gives back, and its fuse pauses a store that it may not pause itself', async () => {
    const handler = fakeHandler(cleanup =>
      cleanup.target.text.endsWith('/bad')
        ? { outcome: 'dead', error: 'denied', objects: 0, bytes: null }
        : { outcome: 'deleted', objects: 1, bytes: 10 },
    );
    const reconciler = testReconciler({
      databaseUrl: urlOf('worker'),
      handlers: [handler],
      fuse: { cleanups: 2, window: 3_600_000 },
    });
    const troubles: unknown[] = [];
    reconciler.events.on('trouble', trouble => troubles.push(trouble));
    await put(db, `${STORE}/bad`);
    await put(db, `${STORE}/1`);
    await reconciler.runOnce();
    expect(await value(db, 'SELECT sum(cleanups)::int FROM afterdelete.fuse_count')).toBe(1);
    await put(db, `${STORE}/2`);
    await put(db, `${STORE}/3`);
    await reconciler.runOnce();
    expect(await states(db)).toEqual({ pending: 1, running: 0, done: 2, dead: 1 });
    expect(await db.sql('SELECT paused_by, actor FROM afterdelete.store_pause')).toEqual([
      { paused_by: 'fuse', actor: roleOf('worker') },
    ]);
    expect(troubles).toEqual([]);
    for (const right of ['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) {
      const tables = await may('worker', right);
      for (const table of ['store_pause', 'fuse_count']) expect(tables).not.toContain(table);
    }
  });

  it('may not do what people do, nor change the audit trail', async () => {
    const names = await callable('worker');
    for (const name of [
      'cancel',
      'retry',
      'discard',
      'pause',
      'resume',
      'confirm',
      'enqueue',
      'end_pending',
      'watch',
      'guard',
    ])
      expect(names).not.toContain(name);
    for (const right of ['UPDATE', 'DELETE', 'TRUNCATE'])
      expect(await may('worker', right)).not.toContain('done_file_cleanup');
    expect(await may('worker', 'DELETE')).not.toContain('dead_file_cleanup');
    expect(await may('worker', 'INSERT')).not.toContain('migration');
  });
});

describe('an operator', () => {
  it('cancels, retries, discards, pauses and resumes', async () => {
    const operators = new Operators(openOutbox(urlOf('operator')).kysely);
    const worker = await addWorker(db);
    expect(await operators.cancel(await put(db))).toBe(true);
    expect(await operators.retry(await addDead(db, worker))).toBe(true);
    const [row] = await claim(db, worker);
    await settleBack(db, row ? [row] : [], { delay: 60_000 });
    expect(await operators.discard(await addDead(db, worker), 'gone')).toBe(true);
    await addDead(db, worker);
    expect(await operators.retryAll()).toBe(1);
    await operators.pause(STORE, 'moving');
    expect(await operators.pauses()).toHaveLength(1);
    expect(await value(db, 'SELECT actor FROM afterdelete.store_pause')).toBe(roleOf('operator'));
    await operators.resume(STORE);
    expect(await operators.stuck(10)).toEqual({ rows: [], total: 0 });
    expect(await operators.backlog()).toHaveLength(1);
    expect(await operators.workers()).toHaveLength(1);
    expect(await operators.nextPending(10)).toHaveLength(2);
    expect((await operators.find(['1'])).size).toBe(0);
  });

  it('may do nothing else', async () => {
    expect(await callable('operator')).toEqual([
      'cancel',
      'discard',
      'estimated_pending',
      'guard_problems',
      'holders',
      'is_held',
      'lease_end',
      'pause',
      'resume',
      'retry',
      'verdicts',
      'watch_problems',
    ]);
    expect(await may('operator', 'SELECT')).toEqual([...TABLES].sort());
    // For `afterdelete check --adopt`.
    for (const right of ['INSERT', 'UPDATE']) expect(await may('operator', right)).toEqual(['file_root']);
    for (const right of ['DELETE', 'TRUNCATE']) expect(await may('operator', right)).toEqual([]);
  });
});

describe('a reader', () => {
  it('may select, and ask who holds what', async () => {
    expect(await callable('reader')).toEqual(['estimated_pending', 'holders', 'is_held', 'lease_end']);
    expect(await may('reader', 'SELECT')).toEqual([...TABLES].sort());
    for (const right of ['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'])
      expect(await may('reader', right)).toEqual([]);
    for (const table of TABLES)
      expect(await as('reader', `SELECT * FROM afterdelete.${table} LIMIT 0`)).toEqual([]);
  });
});
