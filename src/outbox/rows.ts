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
 * What `afterdelete.claim()` answers: a column of all its rows in one text, as PostgreSQL writes arrays, which is a fraction of the
 * work that pg's parsers make of it. Null, never empty: there are none. Times are in microseconds since 1970.
 */
export interface RawClaim {
  readonly claim: string;
  readonly claimed_at: string;
  readonly ids: string | null;
  /** A line each. */
  readonly targets: string | null;
  readonly due_at: string | null;
  /** The ids of those that have been claimed before, or prune; what follows is of these. */
  readonly uncommon: string | null;
  readonly first_due_at: string | null;
  readonly prune_parents: string | null;
  readonly attempt: string | null;
  readonly lost: string | null;
  readonly objects_deleted: string | null;
  readonly bytes_freed: string | null;
}

/** What `afterdelete.claim_suspect()` answers; times in microseconds since 1970. */
export interface RawSuspect {
  readonly id: string;
  readonly claim: string;
  readonly claimed_at: string;
  readonly target: string;
  readonly first_due_at: string;
  readonly prune_parents: number;
  readonly attempt: number;
  readonly lost: number;
  readonly objects_deleted: string | null;
  readonly bytes_freed: string | null;
}

/** What is the same for all rows that come at once. */
interface Coming extends Pick<ClaimedRow, 'claim' | 'claimedAt'> {
  /** When they were claimed, in microseconds since 1970. */
  readonly moment: number;
}

/** What is not told of a plain row. */
interface State extends Pick<ClaimedRow, 'pruneParents' | 'attempt' | 'lost' | 'objects' | 'bytes'> {
  /** In microseconds since 1970; undefined: when it was due this time. */
  readonly firstDueAt: number | undefined;
}

const PLAIN: State = {
  firstDueAt: undefined,
  pruneParents: 0,
  attempt: 0,
  lost: 0,
  objects: null,
  bytes: null,
};

const elements = (array: string | null) => array?.slice(1, -1).split(',') ?? [];
const optional = (value: string | null | undefined) =>
  value == null || value === 'NULL' ? null : Number(value);

/** @throws an error when there are not as many targets as rows: then none of them can be told to be whose. */
export function claimedRows(raw: RawClaim): ClaimedRow[] {
  const coming = { claim: raw.claim, moment: Number(raw.claimed_at), claimedAt: performance.now() };
  const ids = elements(raw.ids);
  const targets = raw.targets?.split('\n') ?? [];
  if (targets.length !== ids.length)
    throw new Error(
      `claim ${raw.claim}: ${targets.length} targets for ${ids.length} rows: has one of them a line break, which the domain afterdelete.target forbids?`,
    );
  const dueAt = elements(raw.due_at);
  const states = statesOf(raw);
  return ids.map((id, i) => claimedRow(coming, id, targets[i] as string, Number(dueAt[i]), states.get(id)));
}

export function suspectRow(raw: RawSuspect): ClaimedRow {
  const moment = Number(raw.claimed_at);
  return claimedRow({ claim: raw.claim, moment, claimedAt: performance.now() }, raw.id, raw.target, moment, {
    firstDueAt: Number(raw.first_due_at),
    pruneParents: raw.prune_parents,
    attempt: raw.attempt,
    lost: raw.lost,
    objects: optional(raw.objects_deleted),
    bytes: optional(raw.bytes_freed),
  });
}

function claimedRow(coming: Coming, id: string, target: string, dueAt: number, state = PLAIN): ClaimedRow {
  const { claim, moment, claimedAt } = coming;
  const { firstDueAt = dueAt, pruneParents, attempt, lost, objects, bytes } = state;
  const waited = (moment - firstDueAt) / 1_000;
  const store = storeOf(target);
  return { id, claim, target, store, pruneParents, attempt, lost, objects, bytes, waited, claimedAt, dueAt };
}

/** The states of the rows that are not plain, by id. */
function statesOf(raw: RawClaim): Map<string, State> {
  const firstDueAt = elements(raw.first_due_at);
  const pruneParents = elements(raw.prune_parents);
  const attempt = elements(raw.attempt);
  const lost = elements(raw.lost);
  const objects = elements(raw.objects_deleted);
  const bytes = elements(raw.bytes_freed);
  const stateOf = (i: number): State => ({
    firstDueAt: Number(firstDueAt[i]),
    pruneParents: Number(pruneParents[i]),
    attempt: Number(attempt[i]),
    lost: Number(lost[i]),
    objects: optional(objects[i]),
    bytes: optional(bytes[i]),
  });
  return new Map(elements(raw.uncommon).map((id, i) => [id, stateOf(i)]));
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
