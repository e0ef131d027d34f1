/** What holds between two steps: nothing lies below a floor, and nobody sleeps beside what is due. */
import { demand, dueKey } from './checks.ts';
import { type Deed, held } from './deeds.ts';
import type { Stage } from './stage.ts';
import { STORES } from './steps.ts';

/** A timer that ends so soon wakes the sleeper about as soon as a ring would, in ms. */
const SOON = 50;

/** What holds between two steps: nothing lies below a floor, and nobody sleeps beside what is due. */
export async function checkBetween(stage: Stage): Promise<void> {
  const pending = [...stage.now.rows.values()].filter(row => row.state === 'pending' && (row.lost ?? 0) < 3);
  for (const worker of stage.workers) {
    const floors = new Map(STORES.map(store => [store as string, worker.floorOf(store)]));
    if ([...floors.values()].every(floor => floor === undefined)) worker.excused.clear();
    for (const row of pending) {
      const floor = floors.get(row.store);
      if (floor === undefined || (row.due as number) >= floor) continue;
      if (worker.excused.has(dueKey(row))) stage.saw('a row that was locked lies below the floor');
      else
        demand(
          false,
          'nothing below the floor',
          () => `row ${row.id}, due ${row.due}, below the floor ${floor} of ${worker.name}`,
        );
    }
  }
  const locked = new Set(stage.lanes.filter(lane => lane.active).flatMap(lane => held(lane.deed as Deed)));
  const waiting = pending.filter(
    row =>
      row.is_due && !stage.now.paused.has(row.store) && !locked.has(row.id) && !stage.unrung.has(dueKey(row)),
  );
  for (const worker of stage.workers) {
    const unseen = () =>
      worker.phase === 'asleep' && !worker.rung && worker.wakeAt > performance.now() + SOON
        ? waiting.filter(
            row =>
              worker.armed.has(row.store) &&
              !worker.passedBy.has(dueKey(row)) &&
              !worker.excused.has(dueKey(row)),
          )
        : [];
    if (unseen().length === 0) continue;
    await stage.fence();
    const left = unseen();
    demand(
      left.length === 0,
      'no wake-up is lost',
      () => `${worker.name} sleeps beside rows ${left.map(dueKey)}`,
    );
  }
}
