/** What a transaction does to cleanups, and what it may: each row moves only as the deed that commits allows. */
import type { ClaimedRow, Settlement } from '../../../src/outbox/rows.ts';
import type { Row, Snapshot } from './observer.ts';

interface Common {
  /** Rows that it may have locked while its statement is under way. */
  names: readonly string[];
  /** Rows that others had or may have had in hand while its statement was under way, and what those did. */
  readonly overlap: Map<string, Set<string>>;
  /** What was committed when its statement began. */
  readonly before: Snapshot;
}

export type Deed = Common &
  (
    | { readonly kind: 'write'; readonly written: string[] }
    | {
        readonly kind: 'claim';
        readonly worker: string;
        readonly rooms: ReadonlyMap<string, number>;
        readonly from: ReadonlyMap<string, number>;
        rows: readonly ClaimedRow[];
        paused: ReadonlySet<string>;
      }
    | { readonly kind: 'claim a suspect'; readonly worker: string; rows: readonly ClaimedRow[] }
    | { readonly kind: 'settle'; readonly settlements: readonly Settlement[]; settled: readonly string[] }
    | { readonly kind: 'progress'; readonly row: ClaimedRow; readonly objects: number }
    | { readonly kind: 'heartbeat'; readonly worker: string; alive: boolean }
    | { readonly kind: 'hand back strays'; readonly worker: string; readonly inHand: readonly ClaimedRow[] }
    | { readonly kind: 'reap'; moved: number; died: number; workers: number }
    | { readonly kind: 'deregister'; readonly worker: string; handedBack: number }
    | { readonly kind: 'cancel' | 'confirm' | 'retry' | 'discard'; readonly id: string; ended: boolean }
  );

export type DeedOf<K extends Deed['kind']> = Deed extends infer D
  ? D extends { kind: infer L }
    ? K extends L
      ? D
      : never
    : never
  : never;

/** A deed as it begins; what it overlaps with is found meanwhile. */
export type NewDeed = Deed extends infer D ? (D extends Deed ? Omit<D, 'overlap' | 'before'> : never) : never;

/** The rows that a deed holds once its statement has ended. */
export function held(deed: Deed): readonly string[] {
  switch (deed.kind) {
    case 'write':
      return deed.written;
    case 'claim':
    case 'claim a suspect':
      return deed.rows.map(row => row.id);
    default:
      return deed.names;
  }
}

/** A row that has changed: undefined where it did not stand, or does no more. */
export interface Change {
  readonly id: string;
  readonly was: Row | undefined;
  readonly is: Row | undefined;
}

export function changes(before: Snapshot, after: Snapshot): Change[] {
  const ids = new Set([...before.rows.keys(), ...after.rows.keys()]);
  return [...ids]
    .map(id => ({ id, was: before.rows.get(id), is: after.rows.get(id) }))
    .filter(({ was, is }) => told(was) !== told(is));
}

export const told = (row: Row | undefined) =>
  row === undefined
    ? 'nowhere'
    : `${row.state}${row.state === 'done' ? ` (${row.store})` : ''} claim=${row.claim} worker=${row.worker} attempt=${row.attempt} lost=${row.lost} objects=${row.objects} due=${row.due}`;

const isAt = (row: Row | undefined, state: Row['state'], rest: Partial<Row> = {}) =>
  row?.state === state && Object.entries(rest).every(([key, value]) => row[key as keyof Row] === value);

/** Whether the deed may have made this change by its commit. */
export function allows(deed: Deed, { id, was, is }: Change, after: Snapshot): boolean {
  switch (deed.kind) {
    case 'write':
      return was === undefined && deed.written.includes(id) && isAt(is, 'pending', { attempt: 0, lost: 0 });
    case 'claim':
    case 'claim a suspect': {
      const row = deed.rows.find(r => r.id === id);
      if (row === undefined || was === undefined) return false;
      if (deed.kind === 'claim a suspect' ? (was.lost ?? 0) < 3 : (was.lost ?? 0) >= 3) return false;
      const kept = { attempt: was.attempt, lost: was.lost, objects: was.objects };
      return (
        isAt(was, 'pending', { objects: row.objects, attempt: row.attempt }) &&
        isAt(is, 'running', { ...kept, claim: row.claim, worker: deed.worker })
      );
    }
    case 'settle': {
      const settlement = deed.settlements.find(s => s.row.id === id && s.row.claim === was?.claim);
      if (settlement === undefined || was?.state !== 'running' || !deed.settled.includes(id)) return false;
      const { kind, objects } = settlement;
      if (kind === 'done')
        return isAt(is, 'done', { attempt: was.attempt + 1, store: settlement.outcome, objects });
      if (kind === 'dead') return isAt(is, 'dead', { attempt: was.attempt + 1, lost: was.lost, objects });
      const { reason } = settlement;
      return isAt(is, 'pending', {
        attempt: was.attempt + (reason === 'retry' ? 1 : 0),
        lost: reason === 'handed_back' ? was.lost : 0,
        put_back: reason === 'handed_back' ? null : reason === 'elsewhere' ? 'blocked' : reason,
        objects,
      });
    }
    case 'progress':
      return (
        id === deed.row.id &&
        isAt(was, 'running', { claim: deed.row.claim }) &&
        isAt(is, 'running', { claim: deed.row.claim, attempt: was?.attempt ?? 0, objects: deed.objects })
      );
    case 'heartbeat':
      return false;
    case 'hand back strays':
      return (
        was !== undefined &&
        isAt(was, 'running', { worker: deed.worker }) &&
        !deed.inHand.some(row => row.id === id && row.claim === was.claim) &&
        isAt(is, 'pending', { attempt: was.attempt, lost: was.lost, objects: was.objects })
      );
    case 'reap': {
      if (was?.state !== 'running' || was.worker === null || after.workers.has(was.worker)) return false;
      const lost = (was.lost ?? 0) + 1;
      return isAt(is, lost < 6 ? 'pending' : 'dead', { attempt: was.attempt, lost, objects: was.objects });
    }
    case 'deregister':
      return (
        was !== undefined &&
        isAt(was, 'running', { worker: deed.worker }) &&
        isAt(is, 'pending', { attempt: was.attempt, lost: was.lost, objects: was.objects })
      );
    case 'cancel':
    case 'confirm':
      if (!deed.ended || id !== deed.id || (deed.kind === 'confirm' && was?.touched !== false)) return false;
      return isAt(was, 'pending') && isAt(is, 'done', { store: 'discarded', objects: was?.objects ?? null });
    case 'retry':
      if (!deed.ended || id !== deed.id || !isAt(is, 'pending', { attempt: 0, lost: 0 })) return false;
      return isAt(was, 'dead') || (isAt(was, 'pending') && (was?.attempt !== 0 || was.put_back !== null));
    case 'discard':
      return deed.ended && id === deed.id && isAt(was, 'dead') && isAt(is, 'done', { store: 'discarded' });
  }
}

/** What must have changed by its commit, or undefined where only the number is known. */
export function reported(deed: Deed): readonly string[] | undefined {
  switch (deed.kind) {
    case 'write':
      return deed.written;
    case 'claim':
    case 'claim a suspect':
      return deed.rows.map(row => row.id);
    case 'settle':
      return deed.settled;
    case 'cancel':
    case 'confirm':
    case 'retry':
    case 'discard':
      return deed.ended ? [deed.id] : [];
    default:
      return undefined;
  }
}
