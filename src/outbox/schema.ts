/** The tables, as Kysely sees them. `sql/` is the truth; bigint comes as a string. */
import type { ColumnType, Generated } from 'kysely';

type Bigint = ColumnType<string, string | number | bigint, string | number | bigint>;
type GeneratedBigint = ColumnType<string, string | number | bigint | undefined, string | number | bigint>;
type Timestamp = ColumnType<Date, Date | string, Date | string>;
type GeneratedTimestamp = ColumnType<Date, Date | string | undefined, Date | string>;
type Kept<T> = ColumnType<T, never, never>;

export interface PendingFileCleanup {
  id: GeneratedBigint;
  target: string;
  store: Kept<string>;
  run_at: GeneratedTimestamp;
  created_at: GeneratedTimestamp;
  due_at: Kept<Date>;
  first_due_at: Timestamp | null;
  prune_parents: Generated<number>;
  source: string | null;
  actor: Generated<string | null>;
  attempt: Generated<number>;
  lost: Generated<number>;
  put_back: 'retry' | 'blocked' | 'yielded' | 'lost' | null;
  last_error: string | null;
  objects_deleted: Bigint | null;
  bytes_freed: Bigint | null;
}

export interface RunningFileCleanup {
  id: Bigint;
  claim: Bigint;
  worker: Bigint;
  claimed_at: Timestamp;
  target: string;
  store: string;
  prune_parents: number;
  source: string | null;
  actor: string | null;
  attempt: number;
  lost: number;
  last_error: string | null;
  created_at: Timestamp;
  first_due_at: Timestamp;
  objects_deleted: Bigint | null;
  bytes_freed: Bigint | null;
}

export type DoneOutcome = 'deleted' | 'absent' | 'kept' | 'discarded';

export interface DoneFileCleanup {
  id: Bigint;
  target: string;
  outcome: DoneOutcome;
  attempt: number;
  objects_deleted: Bigint | null;
  bytes_freed: Bigint | null;
  source: string | null;
  actor: string | null;
  note: string | null;
  created_at: Timestamp;
  done_at: Timestamp;
  worker: string | null;
}

export interface DeadFileCleanup {
  id: Bigint;
  target: string;
  store: Kept<string>;
  prune_parents: Generated<number>;
  source: string | null;
  actor: string | null;
  attempt: number;
  lost: Generated<number>;
  last_error: string;
  objects_deleted: Bigint | null;
  bytes_freed: Bigint | null;
  created_at: Timestamp;
  first_due_at: Timestamp | null;
  died_at: Timestamp;
  worker: string | null;
}

export interface Worker {
  id: GeneratedBigint;
  name: string;
  version: string;
  stores: string[];
  roots: string[];
  history: string;
  started_at: GeneratedTimestamp;
  heartbeat_at: GeneratedTimestamp;
  lease_until: Timestamp;
}

export interface WorkerPause {
  worker: Bigint;
  store: string;
  paused_by: 'breaker' | 'root';
  reason: string;
  paused_at: GeneratedTimestamp;
}

export interface StorePause {
  store: string;
  paused_by: Generated<'operator' | 'fuse'>;
  reason: string | null;
  actor: Generated<string>;
  paused_at: GeneratedTimestamp;
}

export interface FileRoot {
  root: string;
  identity: string;
  recorded_by: string;
  recorded_at: GeneratedTimestamp;
}

export interface FuseCount {
  root: string;
  span: string;
  ends_at: Timestamp;
  since: Timestamp;
  cleanups: Bigint;
}

export interface Backlog {
  store: string;
  pending: string;
  due: string;
  delayed: string;
  retrying: string;
  running: string;
  dead: string;
  oldest_due_at: Date | null;
  oldest_due_seconds: number | null;
  paused: boolean;
  served: boolean;
  estimated: boolean;
}

export interface Stuck {
  id: string;
  state: 'pending' | 'running' | 'dead';
  reason: 'dead' | 'retrying' | 'blocked' | 'overdue' | 'lost' | 'unserved' | 'paused';
  store: string;
  target: string;
  attempt: number;
  next_attempt_at: Date | null;
  worker: string | null;
  last_error: string;
  source: string | null;
  actor: string | null;
}

export interface Schema {
  'afterdelete.pending_file_cleanup': PendingFileCleanup;
  'afterdelete.running_file_cleanup': RunningFileCleanup;
  'afterdelete.done_file_cleanup': DoneFileCleanup;
  'afterdelete.dead_file_cleanup': DeadFileCleanup;
  'afterdelete.worker': Worker;
  'afterdelete.worker_pause': WorkerPause;
  'afterdelete.store_pause': StorePause;
  'afterdelete.file_root': FileRoot;
  'afterdelete.fuse_count': FuseCount;
  'afterdelete.backlog': Backlog;
  'afterdelete.stuck': Stuck;
}
