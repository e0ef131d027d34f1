/** Who writes cleanups in a soak: of every kind, in transactions of their own, whether PostgreSQL is there or not. */
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import type { random } from '../../tests/support/random.ts';
import type { Deed, World } from './world.ts';

type Tx = pg.PoolClient;
type Work = (tx: Tx, deed: Deed) => Promise<unknown>;

/** The transaction is not to be: another was first, or its row never came to be. */
class Refused extends Error {}

const DONE = ['deleted', 'absent'];
/** What a writer waits between two transactions at most, in ms. */
const PACE = 150;
/** How long to wait when PostgreSQL does not answer, in ms. */
const TROUBLE = 200;

export interface LoadOptions {
  readonly url: string;
  readonly world: World;
  readonly random: ReturnType<typeof random>;
  readonly writers: number;
}

export class Load {
  /** Transactions of which COMMIT has answered. */
  readonly committed = new Set<Deed>();
  /** Transactions that failed, of which nobody knows whether they were committed. */
  unknown = 0;
  /** What the soak itself has got wrong, a line each. */
  readonly wrong: string[] = [];
  readonly #options: LoadOptions;
  readonly #pool: pg.Pool;
  readonly #later = new Set<Promise<void>>();
  readonly #stop = new AbortController();
  #writers: Promise<void>[] = [];
  #deeds = 0;
  /** Trainings that nobody will delete. */
  readonly #keepers: string[] = [];

  constructor(options: LoadOptions) {
    this.#options = options;
    this.#pool = new pg.Pool({ connectionString: options.url, max: 2 * options.writers });
    // PostgreSQL is restarted now and then: an idle session tells the pool, one in use its client.
    this.#pool.on('error', () => {});
    this.#pool.on('connect', client => client.on('error', () => {}));
  }

  start(): void {
    const { random, writers } = this.#options;
    this.#writers = Array.from({ length: writers }, async () => {
      while (!this.#stop.signal.aborted) {
        await random.pick(this.#kinds)().catch(this.#onBug);
        await this.#pause(random.below(PACE));
      }
    });
  }

  /** Writes no more, but what was announced. PostgreSQL must be there. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#writers);
    while (this.#later.size > 0) await Promise.all(this.#later);
    await this.#pool.end();
  }

  readonly #kinds: readonly (() => Promise<void>)[] = [
    () => this.#single(),
    () => this.#single(),
    () => this.#burst(),
    () => this.#tree(),
    () => this.#prefix(),
    () => this.#pruned(),
    () => this.#delayed(),
    () => this.#reserved(),
    () => this.#cancelled(),
    () => this.#rolledBack(),
    () => this.#watchedTrees(),
    () => this.#watchedKeys(),
    () => this.#held(),
    () => this.#mistaken(),
    () => this.#dead(),
  ];

  readonly #onBug = (error: unknown) => void this.wrong.push(`the soak itself: ${String(error)}`);

  async #single(): Promise<void> {
    const { world, random } = this.#options;
    const deed = await this.#next();
    const name = `single/${deed % 50}/${deed}`;
    const target = random.chance(0.5) ? world.file(name, { doom: deed }) : world.key(name, { doom: deed });
    await this.#commit(deed, tx => ask(tx, [target]));
  }

  async #burst(): Promise<void> {
    const { world, random } = this.#options;
    const deed = await this.#next();
    const put = random.chance(0.5) ? world.file.bind(world) : world.key.bind(world);
    const targets = Array.from({ length: 20 + random.below(150) }, (_, i) =>
      put(`burst/${deed}/${i}`, { doom: deed }),
    );
    await this.#commit(deed, tx => ask(tx, targets));
  }

  async #tree(): Promise<void> {
    const { world, random } = this.#options;
    const deed = await this.#next();
    const files = random.chance(0.05) ? 1_500 : 1 + random.below(60);
    const target = world.tree(`tree/${deed % 50}/${deed}`, files, { doom: deed });
    await this.#commit(deed, tx => ask(tx, [target]));
  }

  async #prefix(): Promise<void> {
    const { world, random } = this.#options;
    const deed = await this.#next();
    const keys = random.chance(0.05) ? 3_000 : 1 + random.below(60);
    const target = world.prefix(`prefix/${deed}`, keys, { doom: deed });
    await this.#commit(deed, tx => ask(tx, [target]));
  }

  /** A file, and the directory that is empty without it. */
  async #pruned(): Promise<void> {
    const { world } = this.#options;
    const deed = await this.#next();
    const target = world.file(`pruned/${deed}/file`, { doom: deed });
    world.directoryOf(target, { doom: deed });
    await this.#commit(deed, tx => ask(tx, [target], { prune: 1 }));
  }

  async #delayed(): Promise<void> {
    const { world, random } = this.#options;
    const deed = await this.#next();
    const target = world.file(`delayed/${deed}`, { doom: deed });
    await this.#commit(deed, tx => ask(tx, [target], { delay: random.below(10_000) }));
  }

  /** Confirmed, if that comes before it is due. */
  async #reserved(): Promise<void> {
    const { world, random } = this.#options;
    const deed = await this.#next();
    const saved = ++this.#deeds;
    const target = world.key(`reserved/${deed}`, { doom: deed, saved });
    let id = '';
    await this.#commit(deed, async tx => {
      [id = ''] = await ask(tx, [target], { delay: random.below(5_000) });
    });
    this.#announce(saved, random.below(5_000), async tx => {
      if (id === '') throw new Refused();
      await tx.query('SELECT afterdelete.confirm($1)', [id]);
      await tx.query("UPDATE soak.intent SET ends = '{discarded}' WHERE id = $1", [id]);
    });
  }

  async #cancelled(): Promise<void> {
    const { world, random } = this.#options;
    const deed = await this.#next();
    const saved = ++this.#deeds;
    const target = world.file(`cancelled/${deed}`, { doom: deed, saved });
    let id = '';
    await this.#commit(deed, async tx => {
      [id = ''] = await ask(tx, [target], { delay: 60_000 });
    });
    this.#announce(saved, random.below(5_000), async tx => {
      if (id !== '') await end(tx, 'cancel', id);
    });
  }

  async #rolledBack(): Promise<void> {
    const { world } = this.#options;
    const deed = await this.#next();
    const targets = [world.file(`rolled-back/${deed}`), world.key(`rolled-back/${deed}`)];
    await this.#commit(deed, async tx => {
      await ask(tx, targets);
      throw new Refused();
    });
  }

  /** Rows that hold trees; some of them are deleted later, the others stay. */
  async #watchedTrees(): Promise<void> {
    const { world, random } = this.#options;
    const stays = random.chance(0.3);
    const deed = await this.#next();
    const doom = ++this.#deeds;
    const ids = Array.from({ length: 1 + random.below(5) }, (_, i) => 10 * deed + i);
    const targets = ids.map(id => world.tree(`trainings/${id}`, 1 + random.below(20), stays ? {} : { doom }));
    const committed = await this.#commit(deed, async tx => {
      await tx.query('INSERT INTO soak.training SELECT unnest($1::bigint[])', [ids]);
    });
    if (stays && committed && this.#keepers.length < 1_000) this.#keepers.push(...targets);
    if (stays) return;
    this.#announce(doom, random.below(3_000), async tx => {
      const { rowCount } = await tx.query('DELETE FROM soak.training WHERE id = ANY ($1::bigint[])', [ids]);
      if (rowCount !== ids.length) throw new Refused();
      await captured(tx, targets);
    });
  }

  async #watchedKeys(): Promise<void> {
    const { world, random } = this.#options;
    const deed = await this.#next();
    const doom = ++this.#deeds;
    const ids = Array.from({ length: 2 + random.below(60) }, (_, i) => 100 * deed + i);
    const gone = ids.slice(random.below(ids.length));
    const targets = ids.map(id => world.key(`samples/${id}`, gone.includes(id) ? { doom } : {}));
    await this.#commit(deed, async tx => {
      await tx.query('INSERT INTO soak.sample SELECT unnest($1::bigint[])', [ids]);
    });
    this.#announce(doom, random.below(3_000), async tx => {
      const { rowCount } = await tx.query('DELETE FROM soak.sample WHERE id = ANY ($1::bigint[])', [gone]);
      if (rowCount !== gone.length) throw new Refused();
      await captured(tx, targets.slice(-gone.length));
    });
  }

  /** A tree is asked for in which live rows hold something: it waits until they are gone. */
  async #held(): Promise<void> {
    const { world, random } = this.#options;
    const deed = await this.#next();
    const doom = ++this.#deeds;
    const ids = [1, 2, 3];
    const outputs = ids.map(id => world.tree(`jobs/${deed}/${id}`, 3, { doom }));
    // What lies beside the outputs goes with the job, too.
    for (const id of ids) world.file(`jobs/${deed}/${id}-kept/a`, { doom });
    const [first = ''] = outputs;
    const target = first.slice(0, -'1/'.length);
    world.directoryOf(first.slice(0, -1), { doom });
    let id = '';
    await this.#commit(deed, async tx => {
      await tx.query('INSERT INTO soak.output SELECT $1::bigint, unnest($2::bigint[])', [deed, ids]);
      [id = ''] = await ask(tx, [target]);
    });
    this.#announce(doom, random.below(6_000), async tx => {
      const { rowCount } = await tx.query('DELETE FROM soak.output WHERE job = $1', [deed]);
      if (rowCount !== ids.length) throw new Refused();
      await captured(tx, outputs);
      if (id !== '' && random.chance(0.5)) await tx.query('SELECT afterdelete.retry($1)', [id]);
    });
  }

  /** What a live row holds is asked for. */
  async #mistaken(): Promise<void> {
    const { random } = this.#options;
    if (this.#keepers.length === 0) return;
    const deed = await this.#next();
    const target = random.pick(this.#keepers);
    await this.#commit(deed, tx => ask(tx, [target], { ends: ['kept'] }));
  }

  /** A directory that is named without its slash: dead, and nothing is touched. Some are discarded by a person. */
  async #dead(): Promise<void> {
    const { world, random } = this.#options;
    const deed = await this.#next();
    const target = world.tree(`dead/${deed}`, 2).slice(0, -1);
    let id = '';
    await this.#commit(deed, async tx => {
      [id = ''] = await ask(tx, [target], { ends: ['dead'] });
    });
    if (random.chance(0.5))
      this.#announce(++this.#deeds, 2_000, async tx => {
        if (id !== '') await end(tx, 'discard', id);
      });
  }

  /** The number of the next transaction. What is written to the disk now is written while it is there. */
  async #next(): Promise<Deed> {
    await this.#options.world.there();
    return ++this.#deeds;
  }

  /** Once. When the connection is lost, nobody knows what became of it: the ledger does. */
  async #commit(deed: Deed, work: Work): Promise<boolean> {
    const [client, trouble] = await this.#pool.connect().then(
      connected => [connected, undefined] as const,
      (error: unknown) => [undefined, error] as const,
    );
    try {
      if (client === undefined) throw trouble;
      await client.query('BEGIN');
      await client.query('INSERT INTO soak.deed VALUES ($1)', [deed]);
      await work(client, deed);
      await client.query('COMMIT');
      client.release();
      this.committed.add(deed);
      return true;
    } catch (error) {
      if (isRefused(error)) {
        await client?.query('ROLLBACK').catch(() => {});
        client?.release(true);
        return false;
      }
      client?.release(true);
      if (isBug(error)) throw error;
      this.unknown += 1;
      await sleep(TROUBLE);
      return false;
    }
  }

  /** Later, or when the soak ends: again and again, until it is committed, or refused. */
  #announce(deed: Deed, ms: number, work: Work): void {
    const announced = (async () => {
      await this.#pause(ms);
      let refused = false;
      const once: Work = async (tx, n) => {
        try {
          await work(tx, n);
        } catch (error) {
          refused = isRefused(error);
          throw error;
        }
      };
      // A deed that was committed though its answer was lost cannot be done twice.
      while (!(await this.#commit(deed, once).catch(isDoneAlready)) && !refused);
    })();
    const watched = announced.catch(this.#onBug).finally(() => this.#later.delete(watched));
    this.#later.add(watched);
  }

  async #pause(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#stop.signal }).catch(() => {});
  }
}

interface Asking {
  readonly ends?: readonly string[];
  /** In ms. */
  readonly delay?: number;
  readonly prune?: number;
}

/** Writes cleanups and what is to become of them. Returns their ids. */
async function ask(tx: Tx, targets: readonly string[], asking: Asking = {}): Promise<string[]> {
  const { ends = DONE, delay = 0, prune = 0 } = asking;
  const { rows } = await tx.query<{ id: string }>(
    `WITH written AS (
       INSERT INTO afterdelete.pending_file_cleanup (target, run_at, prune_parents)
       SELECT t, now() + $2::double precision * interval '1 ms', $3 FROM unnest($1::text[]) t RETURNING id, target)
     INSERT INTO soak.intent (id, target, ends) SELECT id, target, $4 FROM written RETURNING id`,
    [targets, delay, prune, ends],
  );
  return rows.map(row => row.id);
}

/** What a watch has written, by itself. */
async function captured(tx: Tx, targets: readonly string[]): Promise<void> {
  await tx.query('INSERT INTO soak.intent (target, ends) SELECT t, $2 FROM unnest($1::text[]) t', [
    targets,
    DONE,
  ]);
}

async function end(tx: Tx, how: 'cancel' | 'discard', id: string): Promise<void> {
  const { rows } = await tx.query<{ ended: boolean }>(`SELECT afterdelete.${how}($1) AS ended`, [id]);
  if (rows[0]?.ended !== true) throw new Refused();
  await tx.query("UPDATE soak.intent SET ends = '{discarded}' WHERE id = $1", [id]);
}

const codeOf = (error: unknown) => String((error as { code?: unknown } | undefined)?.code ?? '');

/** 55000: a confirmation that came too late. */
const isRefused = (error: unknown) => error instanceof Refused || codeOf(error) === '55000';

/** A unique key that is taken, by this very transaction. */
function isDoneAlready(error: unknown): boolean {
  if (codeOf(error) !== '23505') throw error;
  return true;
}

/** SQL that is wrong, or a rule that is broken: none of the troubles that a soak makes. */
const isBug = (error: unknown) => /^(42|22|23)...$/.test(codeOf(error));
