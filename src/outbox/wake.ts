/**
 * The race-free wake-up of a sleeping daemon.
 *
 * NOTIFY is only a hint: correctness rests on the rows, and a daemon that hears nothing polls. Writers notify only
 * when somebody sleeps (`afterdelete.wake()` in `sql/` says why), and they tell that by an advisory lock for each store:
 *
 *   daemon                                   writer
 *   LISTEN, and hear a nonce of its own
 *   claim until nothing comes back
 *   arm: take the store's key, exclusively   INSERT: try the store's key, shared
 *   claim once more, as a new statement        got it: the daemon cannot arm before this COMMIT, and then sees the row
 *   nothing: sleep                             did not: NOTIFY, and the daemon listens already
 *
 * It takes two direct sessions: pg-listen's, and one that holds the keys. When either is lost, nothing is armed, and the
 * daemon claims again. LISTEN through a transaction pooler succeeds and stays silent; hence the nonce, which is asked for
 * again with every safety poll.
 */
import { randomUUID } from 'node:crypto';
import pg from 'pg';
import pgListen, { type Subscriber } from 'pg-listen';

// pg-listen is CommonJS without an `exports` map: its default export is the module.
const createSubscriber = pgListen.default;

const CHANNEL = 'afterdelete';
/** First key of the advisory locks, as in `afterdelete.wake()`; the second is `hashtext(store)`. */
const LOCK_CLASS = 1634104420;
/** How long an answer may take before a session counts as dead, in ms. */
const ANSWER = 2_000;
/** How often pg-listen asks its session whether it lives, in ms. */
const PULSE = 5_000;
const RECONNECT_MIN = 100;
const RECONNECT_MAX = 5_000;

export interface WakeUpOptions {
  /** A direct connection: no transaction pooler in between. */
  readonly url: string;
  readonly applicationName: string;
  /**
   * Sends a notification the way writers do: over `DATABASE_URL`. So the nonce also tells when the direct connection leads
   * to another database, where neither notifications nor keys are of any use.
   */
  readonly notify: (payload: string) => Promise<void>;
  /** A row may have come; `payload` is `'pauses'` when a store was paused or resumed. */
  readonly onRing: (payload: string) => void;
  /** Whether notifications arrive, when that changes. */
  readonly onListening: (listening: boolean, reason: string) => void;
}

interface Sessions {
  readonly subscriber: Subscriber;
  readonly keys: pg.Client;
  readonly armed: Set<string>;
}

export class WakeUp {
  readonly #options: WakeUpOptions;
  #sessions: Sessions | undefined;
  #listening = false;
  /** What was told last; nothing before the first session has been tried. */
  #told: boolean | undefined;
  #closed = false;
  #retry: NodeJS.Timeout | undefined;
  #wait = RECONNECT_MIN;
  #verifying: Promise<void> | undefined;
  #nonce:
    | { readonly text: string; readonly heard: () => void; readonly lost: (error: unknown) => void }
    | undefined;

  constructor(options: WakeUpOptions) {
    this.#options = options;
  }

  /** Whether a nonce of its own has come through on the present session. */
  get listening(): boolean {
    return this.#listening;
  }

  /** Connects; goes on trying in the background if it fails. */
  async start(): Promise<void> {
    try {
      const sessions = await this.#connect();
      if (this.#closed) return discard(sessions);
      this.#sessions = sessions;
      await this.verify();
    } catch (error) {
      this.#lost(error);
    }
  }

  async #connect(): Promise<Sessions> {
    const config: pg.ClientConfig = {
      connectionString: this.#options.url,
      application_name: this.#options.applicationName,
      query_timeout: ANSWER,
      connectionTimeoutMillis: ANSWER,
      keepAlive: true,
      keepAliveInitialDelayMillis: PULSE,
    };
    // Reconnecting is done here, both sessions at once: left to itself pg-listen gives up after 3 s, or leaks a
    // session that is closed while it reconnects. A limit of 1 makes it report the loss instead.
    const subscriber = createSubscriber(config, {
      parse: text => text,
      paranoidChecking: PULSE,
      retryLimit: 1,
    });
    const keys = new pg.Client(config);
    const sessions: Sessions = { subscriber, keys, armed: new Set() };
    const lost = (error: unknown) => {
      if (this.#sessions === sessions) this.#lost(error);
    };
    subscriber.events.on('error', lost);
    subscriber.notifications.on(CHANNEL, payload => {
      if (this.#sessions === sessions) this.#heard(payload ?? '');
    });
    keys.on('error', lost);
    keys.on('end', () => lost(new Error('the session that holds the keys ended')));
    try {
      await Promise.all([subscriber.connect(), keys.connect()]);
      await subscriber.listenTo(CHANNEL);
      return sessions;
    } catch (error) {
      discard(sessions);
      throw error;
    }
  }

  #heard(payload: string): void {
    if (this.#nonce !== undefined && payload === this.#nonce.text) this.#nonce.heard();
    // Another daemon's nonce is no news.
    else if (!payload.startsWith('nonce ')) this.#options.onRing(payload);
  }

  /**
   * Sends a nonce to itself and waits for it: the proof that notifications come through. Called with every safety poll,
   * so that a session that has died in silence is found.
   */
  async verify(): Promise<void> {
    // One nonce at a time: a second would make the first look lost.
    this.#verifying ??= this.#verify().finally(() => {
      this.#verifying = undefined;
    });
    await this.#verifying;
  }

  async #verify(): Promise<void> {
    const sessions = this.#sessions;
    if (sessions === undefined) return;
    const text = `nonce ${randomUUID()}`;
    let timer: NodeJS.Timeout | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        this.#nonce = { text, heard: resolve, lost: reject };
        timer = setTimeout(
          () =>
            reject(
              new Error(
                `LISTEN hears nothing: a notification sent over DATABASE_URL did not arrive within ${ANSWER} ms. AFTERDELETE_LISTEN_URL must be a direct connection (no transaction pooler) to the same database`,
              ),
            ),
          ANSWER,
        );
        this.#options.notify(text).catch(reject);
      });
    } catch (error) {
      if (this.#sessions === sessions) this.#lost(error);
      return;
    } finally {
      clearTimeout(timer);
      this.#nonce = undefined;
    }
    if (!this.#listening && this.#sessions === sessions) {
      this.#listening = true;
      this.#wait = RECONNECT_MIN;
      this.#tell(true, 'LISTEN is alive');
    }
  }

  /**
   * Takes the keys of these stores, as far as they are free. Returns the stores for which writers notify from now on;
   * claim once more before sleeping. A store that is missing has a write in flight, or another daemon has its key.
   */
  async arm(stores: readonly string[]): Promise<ReadonlySet<string>> {
    const sessions = this.#sessions;
    if (sessions === undefined || !this.#listening) return new Set();
    const missing = stores.filter(store => !sessions.armed.has(store));
    if (missing.length > 0) {
      try {
        // Never waiting for the lock: a session that waits receives no notifications.
        const { rows } = await sessions.keys.query<{ store: string; armed: boolean }>(
          `SELECT s AS store, pg_try_advisory_lock(${LOCK_CLASS}, hashtext(s)) AS armed FROM unnest($1::text[]) AS s`,
          [missing],
        );
        for (const row of rows) if (row.armed) sessions.armed.add(row.store);
      } catch (error) {
        if (this.#sessions === sessions) this.#lost(error);
        return new Set();
      }
    }
    return this.#sessions === sessions ? sessions.armed : new Set();
  }

  /** Gives all keys back: while this daemon is busy anyway, writers need not notify. */
  async disarm(): Promise<void> {
    const sessions = this.#sessions;
    if (sessions === undefined || sessions.armed.size === 0) return;
    sessions.armed.clear();
    try {
      await sessions.keys.query('SELECT pg_advisory_unlock_all()');
    } catch (error) {
      if (this.#sessions === sessions) this.#lost(error);
    }
  }

  #lost(error: unknown): void {
    if (this.#closed) return;
    const sessions = this.#sessions;
    this.#sessions = undefined;
    if (sessions !== undefined) discard(sessions);
    // Whoever comes next has a session, and a nonce, of its own.
    this.#nonce?.lost(error);
    const reason = error instanceof Error ? error.message : String(error);
    this.#listening = false;
    this.#tell(false, reason);
    this.#retry = setTimeout(() => void this.start(), this.#wait);
    this.#wait = Math.min(2 * this.#wait, RECONNECT_MAX);
  }

  /** A listener that never came up is told of as well as one that was lost. */
  #tell(listening: boolean, reason: string): void {
    if (this.#told === listening) return;
    this.#told = listening;
    this.#options.onListening(listening, reason);
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#retry);
    const sessions = this.#sessions;
    this.#sessions = undefined;
    this.#listening = false;
    if (sessions !== undefined) discard(sessions);
    this.#nonce?.lost(new Error('closed'));
  }
}

/** Ends both sessions without waiting: on a connection that is half open the goodbye is never answered. */
function discard({ subscriber, keys }: Sessions): void {
  for (const end of [subscriber.close(), keys.end()]) end.catch(() => {});
}
