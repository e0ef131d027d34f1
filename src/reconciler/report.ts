/** Tells the world what has become of a row, once it is committed. */
import type { EventEmitter } from 'node:events';
import type { Receipt } from '../handlers/contract.ts';
import type { Settlement } from '../outbox/rows.ts';
import type { ReconcilerEvents } from './events.ts';

export interface Run {
  /** What this run deleted. */
  readonly receipt: Receipt;
  /** Time in the handler, in ms. */
  readonly ms: number;
}

export function report(
  events: EventEmitter<ReconcilerEvents>,
  settlement: Settlement,
  { receipt, ms }: Run,
): void {
  const { id, target, store, attempt, waited, claimedAt } = settlement.row;
  const { objects, bytes } = receipt;
  if (settlement.kind === 'done') {
    // Almost all rows end here: one object, with all its fields at once.
    const { outcome, note, objects: totalObjects, bytes: totalBytes } = settlement;
    const lag = waited + performance.now() - claimedAt;
    // biome-ignore format: a field a line would be longer than the rest
    events.emit('cleanup_done', { id, target, store, attempt: attempt + 1, objects, bytes, ms, outcome, note, totalObjects, totalBytes, lag });
    return;
  }
  const event = { id, target, store, attempt, objects, bytes, ms };
  const tried = { ...event, attempt: attempt + 1 };
  switch (settlement.kind) {
    case 'dead':
      events.emit('cleanup_dead', { ...tried, error: settlement.error });
      return;
    case 'back': {
      const error = settlement.error ?? '';
      const nextAttemptAt = new Date(Date.now() + settlement.delay);
      if (settlement.reason === 'retry') events.emit('cleanup_retry', { ...tried, error, nextAttemptAt });
      if (settlement.reason === 'blocked' || settlement.reason === 'elsewhere')
        events.emit('cleanup_blocked', { ...event, error, nextAttemptAt });
      if (settlement.reason === 'yielded') events.emit('cleanup_yielded', event);
      return;
    }
  }
}
