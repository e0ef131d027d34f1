/** What a reconciler tells the world: logs and metrics are made of these, and tests wait for them. */

export interface CleanupEvent {
  readonly id: string;
  readonly target: string;
  readonly store: string;
  /** Attempts so far, this one included. */
  readonly attempt: number;
  /** What this run has deleted. */
  readonly objects: number;
  /** Bytes this run has freed; null where the storage does not tell. */
  readonly bytes: number | null;
  /** Time in the handler, in ms; that of its batch where it was handled in one. */
  readonly ms: number;
}

export interface CleanupDone extends CleanupEvent {
  readonly outcome: 'deleted' | 'absent' | 'kept';
  /** What was deleted over all its slices. */
  readonly totalObjects: number | null;
  readonly totalBytes: number | null;
  /** From first due until done, in ms. */
  readonly lag: number;
  readonly note: string | null;
}

export interface CleanupPutBack extends CleanupEvent {
  readonly error: string;
  /** Earliest time of the next attempt, by this machine's clock; the database decides by its own. */
  readonly nextAttemptAt: Date;
}

export interface StoreEvent {
  readonly store: string;
  /** breaker: the storage does not answer; root: not the recorded disk; operator and fuse: for all daemons. */
  readonly by: 'breaker' | 'root' | 'operator' | 'fuse';
}

/** The events by name, with their arguments. They are emitted after what they tell has been committed. */
export interface ReconcilerEvents {
  started: [{ worker: string; stores: readonly string[]; roots: readonly string[] }];
  stopping: [{ inHand: number }];
  /** `handedBack`: rows that went back to pending since it was told to stop. */
  stopped: [{ handedBack: number }];
  cleanup_done: [CleanupDone];
  cleanup_retry: [CleanupPutBack];
  cleanup_blocked: [CleanupPutBack];
  /** Its time slice ended before it was finished; it goes on later. */
  cleanup_yielded: [CleanupEvent];
  cleanup_dead: [CleanupEvent & { readonly error: string }];
  /** A write found that the row had been taken over: nothing was changed. */
  cleanup_fenced: [{ id: string; target: string; store: string }];
  store_paused: [StoreEvent & { readonly reason: string }];
  store_resumed: [StoreEvent];
  listen_lost: [{ reason: string }];
  listen_restored: [];
  /** The claim loop woke: notified, by a timer, or because the last batch was full. */
  wakeup: [{ cause: 'notify' | 'timer' | 'full' }];
  /** This worker was taken for vanished; it gave up what it had in hand and registers anew. */
  lease_lost: [{ worker: string; inHand: number }];
  /** The schema is that of another version now: it claims nothing more and stops. `reason` says what to do. */
  schema_changed: [{ reason: string }];
  /** Rows of vanished workers were taken over. */
  reaped: [{ workers: number; moved: number; died: number }];
  /** Claiming works again, after it had failed for so long, in ms. */
  recovered: [{ ms: number }];
  /** Something failed that is tried again; `doing` says what was attempted. */
  trouble: [{ doing: string; error: unknown }];
}
