/** A row in a worker's hands: as a claim brings it, and as it leaves. Here it is put into what PostgreSQL reads and writes. */
import { storeOf } from '../target.ts';

/** A row that a worker has claimed. */
export interface ClaimedRow {
  readonly id: string;
  /** Number of the claim: every later write names it. */
  readonly claim: string;
  readonly target: string;
  readonly store: string;
  readonly pruneParents: number;
  /** Attempts that have failed so far. */
  readonly attempt: number;
  /** How often a worker vanished with it in hand. */
  readonly lost: number;
  /** What earlier slices and lost workers have deleted already. */
  readonly objects: number | null;
  readonly bytes: number | null;
  /** From when it was first due until it was claimed, in ms; time of the database. */
  readonly waited: number;
  /** When this worker received it, on the clock of `performance.now()`. */
  readonly claimedAt: number;
  /** When it was due this time, in microseconds since 1970; time of the database. */
  readonly dueAt: number;
}

/** What is put on record of a row; `objects` and `bytes` are totals over all its slices. */
export interface Settled {
  readonly row: ClaimedRow;
  readonly objects: number | null;
  readonly bytes: number | null;
}

/** How a claimed row leaves the worker's hands. */
export type Settlement =
  | (Settled & {
      readonly kind: 'done';
      readonly outcome: 'deleted' | 'absent' | 'kept';
      readonly note: string | null;
    })
  | (Settled & {
      readonly kind: 'back';
      /** `handed_back` leaves no trace; `retry` is an attempt; `elsewhere`: blocked until another worker takes it. */
      readonly reason: 'retry' | 'blocked' | 'yielded' | 'handed_back' | 'elsewhere';
      /** Until it may be claimed again, in ms. */
      readonly delay: number;
      readonly error: string | null;
    })
  | (Settled & { readonly kind: 'dead'; readonly error: string });

/** The server that gave the number of a claim or a worker: `afterdelete.unrepeated()`. */
export const serverOf = (number: string) => Number(BigInt(number) >> 32n);

/**
 * What `afterdelete.claim()` answers: a column of all its rows in one text, as PostgreSQL writes arrays. Null: there are none.
 * Times are in microseconds since 1970.
 */
export interface RawClaim {
  readonly claim: string;
  /** When it was claimed. */
  readonly moment: string;
  readonly ids: string | null;
  /** A line each. */
  readonly targets: string | null;
  readonly due_at: string | null;
  /** The ids of those that are not as they were written, or that prune; what follows is of these. */
  readonly again: string | null;
  readonly first_due_at: string | null;
  readonly prune_parents: string | null;
  readonly attempt: string | null;
  readonly lost: string | null;
  readonly objects_deleted: string | null;
  readonly bytes_freed: string | null;
}

/** The elements of an array of numbers, as PostgreSQL writes it. */
const elements = (array: string | null) => array?.slice(1, -1).split(',') ?? [];
const optional = (element: string) => (element === 'NULL' ? null : Number(element));

const AS_WRITTEN = { pruneParents: 0, attempt: 0, lost: 0, objects: null, bytes: null };

export function claimedRows(raw: RawClaim): ClaimedRow[] {
  const { claim } = raw;
  const moment = Number(raw.moment);
  const claimedAt = performance.now();
  const due = elements(raw.due_at);
  const targets = raw.targets?.split('\n') ?? [];
  const before = statesBefore(raw);
  return elements(raw.ids).map((id, i): ClaimedRow => {
    const target = targets[i] as string;
    const dueAt = Number(due[i]);
    const { firstDueAt, pruneParents, attempt, lost, objects, bytes } = before.get(id) ?? {
      ...AS_WRITTEN,
      firstDueAt: dueAt,
    };
    const waited = (moment - firstDueAt) / 1_000;
    const store = storeOf(target);
    return {
      id,
      claim,
      target,
      store,
      pruneParents,
      attempt,
      lost,
      objects,
      bytes,
      waited,
      claimedAt,
      dueAt,
    };
  });
}

/** What has become of rows before they were claimed, by id. */
function statesBefore(raw: RawClaim) {
  const firstDueAt = elements(raw.first_due_at);
  const pruneParents = elements(raw.prune_parents);
  const attempt = elements(raw.attempt);
  const lost = elements(raw.lost);
  const objects = elements(raw.objects_deleted);
  const bytes = elements(raw.bytes_freed);
  const stateOf = (i: number) => ({
    firstDueAt: Number(firstDueAt[i]),
    pruneParents: Number(pruneParents[i]),
    attempt: Number(attempt[i]),
    lost: Number(lost[i]),
    objects: optional(objects[i] as string),
    bytes: optional(bytes[i] as string),
  });
  return new Map(elements(raw.again).map((id, i) => [id, stateOf(i)]));
}

/** Due longest first; then in the order in which they were written. */
export function byAge(a: ClaimedRow, b: ClaimedRow): number {
  return b.waited - a.waited || a.id.length - b.id.length || (a.id < b.id ? -1 : 1);
}

/** Longest message that is kept, in characters. */
const LONGEST_MESSAGE = 4_000;

/** A message as PostgreSQL can store it: without NUL and lone surrogates, and not endless. */
export function storable(text: string | null): string | null {
  if (text === null) return null;
  const cut = text.length > LONGEST_MESSAGE ? `${text.slice(0, LONGEST_MESSAGE)}…` : text;
  return cut.replaceAll('\0', '\ufffd').toWellFormed();
}

/**
 * Arrays as PostgreSQL reads them, of numbers and plain words, in which nothing needs to be quoted: pg looks at each element
 * for that, which for a thousand rows is more work than all else that is done for them here.
 */
export const plain = (values: readonly (string | number | null)[]) =>
  // unnest() fills up what is missing with NULL.
  values.every(value => value === null) ? '{}' : `{${values.map(value => value ?? 'NULL').join()}}`;
export const ids = (rows: readonly Settled[]) => plain(rows.map(r => r.row.id));
export const claims = (rows: readonly Settled[]) => plain(rows.map(r => r.row.claim));
export const objects = (rows: readonly Settled[]) => plain(rows.map(r => r.objects));
export const bytes = (rows: readonly Settled[]) => plain(rows.map(r => r.bytes));
/** Texts, which need no look at each if nothing in any of them needs to be escaped. */
export const quoted = (values: readonly string[]) =>
  values.length === 0 || values.some(value => value.includes('"') || value.includes('\\'))
    ? values
    : `{"${values.join('","')}"}`;
/** Messages, if there are any. */
export const texts = (values: readonly (string | null)[]) =>
  values.every(value => value === null) ? '{}' : values.map(storable);
