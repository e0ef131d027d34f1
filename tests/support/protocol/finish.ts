/** The end of a run: all that is open ends, all that is due is done, and whoever settles once more changes nothing. */
import type { ClaimedRow } from '../../../src/outbox/rows.ts';
import { reap } from './acts.ts';
import { checkBetween } from './between.ts';
import { demand, isSoon } from './checks.ts';
import { claimSuspect, loop, settle, work } from './daemon.ts';
import { told } from './deeds.ts';
import type { Row } from './observer.ts';
import type { Stage } from './stage.ts';
import { STORES } from './steps.ts';

/** All ends, and all that is due is found and done, whatever was locked before: after the fall-back nothing is left behind. */
export async function finish(stage: Stage): Promise<void> {
  while (stage.lanes.some(lane => lane.active)) {
    for (const lane of stage.lanes.filter(l => l.active)) await stage.goOn(lane, 'commit');
    await checkBetween(stage);
  }
  for (const [i, store] of STORES.entries())
    if (stage.now.paused.has(store)) await stage.observer.pause(i, false);
  if (stage.broken !== 'never falls back') stage.clock += 300_000;
  for (const worker of stage.workers) {
    worker.wake();
    // Its next claim begins from the start: from now on no lock is an excuse.
    worker.floors.begin();
    worker.excused.clear();
  }
  await checkBetween(stage);
  for (let round = 0; ; round++) {
    await stage.look(undefined);
    const left = [...stage.now.rows.values()].filter(
      row => row.state === 'running' || (row.state === 'pending' && isSoon(row)),
    );
    if (left.length === 0) break;
    demand(
      round < 40,
      'all that is due is done',
      () => `still there: ${left.map(row => `${row.id} ${told(row)}`)}`,
    );
    await drain(stage);
    if (left.some(row => row.state === 'pending')) await new Promise(resolve => setTimeout(resolve, 2));
  }
  await lateSettles(stage);
}

async function drain(stage: Stage): Promise<void> {
  const go = { do: 'go on', worker: 0, room: 100, pause: false, hold: true, mark: true } as const;
  // The lease of a worker that nobody is any more ends some time.
  for (const [id, live] of stage.now.workers)
    if (live && !stage.workers.some(worker => worker.id === id)) await stage.observer.expire(id);
  await stage.look(undefined);
  const has = (test: (row: Row) => boolean) => [...stage.now.rows.values()].some(test);
  if (stage.ownerless().length > 0) {
    await reap(stage, undefined);
    await stage.goOn(stage.reaper, 'commit');
  }
  for (const worker of stage.workers) {
    const { lanes } = worker;
    worker.wake();
    await loop(stage, worker, go);
    await stage.goOn(lanes.claim, 'commit');
    if (has(row => row.state === 'pending' && (row.lost ?? 0) >= 3)) {
      await claimSuspect(stage, worker);
      await stage.goOn(lanes.claim, 'commit');
    }
    if (stage.runningOf(worker.id).length > worker.hand.length) {
      await work(stage, worker, { do: 'hand back strays', worker: 0, hold: true });
      await stage.goOn(lanes.settle, 'commit');
    }
    while (worker.hand.length > 0) {
      await settle(stage, worker, { ...everything(worker.hand), as: 'done', late: false });
      await stage.goOn(lanes.settle, 'commit');
    }
    await checkBetween(stage);
  }
}

/** Everything that anybody ever had in hand is settled once more: nothing changes. */
async function lateSettles(stage: Stage): Promise<void> {
  for (const [i, worker] of stage.workers.entries()) {
    if (worker.ever.length === 0) continue;
    const as = (['done', 'retry', 'dead'] as const)[(stage.played + i) % 3] as 'done';
    await settle(stage, worker, { ...everything(worker.ever), as, late: true });
    await stage.goOn(worker.lanes.settle, 'commit');
  }
}

const everything = (rows: readonly ClaimedRow[]) =>
  ({
    do: 'settle',
    worker: 0,
    rows: rows.map((_, i) => i),
    objects: 0,
    delay: 0,
    pause: 'no',
    hold: true,
  }) as const;
