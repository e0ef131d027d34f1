/** What becomes of claimed rows that lie inside no root of this worker: they are another worker's, or nobody's. */
import type { EventEmitter } from 'node:events';
import type { ClaimedRow } from '../outbox/rows.ts';
import { outsideMessage, rootOf } from './confine.ts';
import type { Tenure } from './context.ts';
import type { ReconcilerEvents } from './events.ts';
import type { Neighbours } from './neighbours.ts';
import { handBack } from './outcome.ts';
import type { Settler } from './settler.ts';

export interface ForeignOptions {
  readonly neighbours: Neighbours;
  readonly settler: Settler;
  readonly events: EventEmitter<ReconcilerEvents>;
}

/** Never rejects: what cannot be told apart is handed back. */
export async function settleForeign(
  rows: readonly { readonly row: ClaimedRow; readonly tenure: Tenure }[],
  { neighbours, settler, events }: ForeignOptions,
): Promise<void> {
  let roots: readonly string[] | undefined;
  try {
    roots = await neighbours.refresh();
  } catch (error) {
    events.emit('trouble', { doing: 'reading the roots of the other workers', error });
  }
  for (const { row, tenure } of rows) {
    if (tenure.ended) continue;
    if (roots === undefined) {
      settler.add(handBack(row));
      continue;
    }
    const { objects, bytes } = row;
    const root = rootOf(row.target, roots);
    if (root === undefined) {
      settler.add({ kind: 'dead', row, objects, bytes, error: outsideMessage(row.target, roots) });
    } else {
      const error = `it lies inside ${root}, which another worker serves`;
      settler.add({ kind: 'back', row, reason: 'elsewhere', delay: 0, error, objects, bytes });
    }
  }
}
